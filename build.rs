//! Puts two things into the binary: the commit it was built from, and the recipes of this tree.
//!
//! Neither may fail where the source came as a tarball: without `.git` the version has no commit.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));

    let commit = commit(&root).map_or(String::new(), |commit| format!(" ({commit})"));
    println!(
        "cargo::rustc-env=MEDTUNE_VERSION={}{commit}",
        env::var("CARGO_PKG_VERSION").expect("cargo sets it")
    );

    // For the test that asks cargo about this platform's dependencies.
    println!(
        "cargo::rustc-env=MEDTUNE_HOST={}",
        env::var("TARGET").expect("cargo sets it")
    );

    println!("cargo::rerun-if-changed=recipes");
    let mut files = Vec::new();
    tomls(&root.join("recipes"), "", 0, &mut files);
    files.sort();
    let mut table = String::from("&[\n");
    for (name, path) in files {
        writeln!(
            table,
            "    ({name:?}, include_str!({:?})),",
            path.display().to_string()
        )
        .expect("a String takes all");
    }
    table.push(']');
    fs::write(out.join("recipes.rs"), table).expect("OUT_DIR can be written to");
}

/// The first seven digits of the commit, if this is a git checkout.
fn commit(root: &Path) -> Option<String> {
    let mut git = root.join(".git");
    if git.is_file() {
        // A worktree: the file says where its folder is.
        let text = fs::read_to_string(&git).ok()?;
        git = root.join(text.strip_prefix("gitdir: ")?.trim());
    }
    let head_path = git.join("HEAD");
    let head = fs::read_to_string(&head_path).ok()?;
    println!("cargo::rerun-if-changed={}", head_path.display());
    let Some(name) = head.trim().strip_prefix("ref: ") else {
        return head.get(..7).map(str::to_owned);
    };
    // In a worktree, branches are in the main folder.
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git,
    };
    let branch = common.join(name);
    if branch.is_file() {
        println!("cargo::rerun-if-changed={}", branch.display());
        return fs::read_to_string(branch).ok()?.get(..7).map(str::to_owned);
    }
    let packed = common.join("packed-refs");
    let refs = fs::read_to_string(&packed).ok()?;
    println!("cargo::rerun-if-changed={}", packed.display());
    let line = refs
        .lines()
        .find(|line| line.ends_with(&format!(" {name}")))?;
    line.get(..7).map(str::to_owned)
}

/// The recipes on top and below `data/` and `supervised/`, the evaluation tasks below `eval/` and the machines below `machines/`; other
/// folders hold what recipes use.
fn tomls(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            if depth > 0 || ["eval", "data", "machines", "supervised"].contains(&name.as_str()) {
                tomls(&entry.path(), &format!("{prefix}{name}/"), depth + 1, files);
            }
        } else if name.ends_with(".toml") {
            files.push((format!("{prefix}{name}"), entry.path()));
        }
    }
}
