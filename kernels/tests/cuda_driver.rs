//! The stand-in for CUDA's driver and cuBLAS (`tests/driver`, run by `scripts/cuda-rehearse`) against a program that uses
//! it rightly and wrongly: what a device would answer with wrong numbers, or not at all, is said here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The program, linked to the stand-in.
static PROBE: LazyLock<PathBuf> = LazyLock::new(|| {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rehearsal");
    let built = Command::new(crate_dir.join("../scripts/cuda-rehearse"))
        .arg("--build")
        .env("MEDTUNE_REHEARSAL_DIR", &out)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "this test needs a C++ compiler named c++: {said}"
    );
    let (library, program) = (out.join("lib"), out.join("probe"));
    let compiled = Command::new("c++")
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(crate_dir.join("tests/driver/probe/probe.cpp"))
        .arg(library.join("libcuda.so.1"))
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    program
});

/// What a case prints, then what the stand-in says, without the addresses; and how it ended.
fn run(case: &str, late: bool) -> String {
    let output = Command::new(&*PROBE)
        .arg(case)
        .env("MEDTUNE_REHEARSAL_LATE", if late { "1" } else { "0" })
        .env("MEDTUNE_REHEARSAL_MEMORY_MIB", "16")
        .env_remove("MEDTUNE_REHEARSAL_LOG")
        .env_remove("MEDTUNE_REHEARSAL_TRACE")
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        if line.contains("there is no GPU here") {
            continue;
        }
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| match word.trim_end_matches([':', ',']) {
                address if address.starts_with("0x") => &word[..2],
                _ => word,
            })
            .collect();
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    match output.status.code() {
        Some(0) => {}
        Some(code) => text.push_str(&format!("exit {code}\n")),
        None => text.push_str("killed\n"),
    }
    text
}

#[test]
fn what_is_right_is_computed() {
    for late in [false, true] {
        assert_eq!(run("fills", late), "");
        assert_eq!(run("multiplies", late), "as defined\n");
        assert_eq!(run("uses-two-streams-in-order", late), "2\n");
    }
}

/// What goes well by chance if the device is quick, and what if it is slow.
#[test]
fn work_is_done_as_early_or_as_late_as_may_be() {
    let both = |case| (run(case, false), run(case, true));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(both("reuses-pinned-memory"), pair("1\n", "2\n"));
    assert_eq!(both("uses-two-streams"), pair("2\n", "1\n"));
}

#[test]
fn what_touches_other_memory_is_named() {
    for late in [false, true] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(run("writes-beside", late), @"");
            insta::assert_snapshot!(run("writes-far-beyond", late), @"");
            insta::assert_snapshot!(run("uses-freed", late), @"");
            insta::assert_snapshot!(run("passes-a-processors-address", late), @"");
            insta::assert_snapshot!(run("reads-on-the-processor", late), @"");
        }
    }
}

#[test]
fn what_a_device_refuses_is_refused() {
    insta::assert_snapshot!(run("launches-wrongly", false), @"");
    insta::assert_snapshot!(run("multiplies-unaligned", false), @"");
    insta::assert_snapshot!(run("takes-too-much", false), @"");
}

#[test]
fn what_cannot_be_rehearsed_is_said() {
    insta::assert_snapshot!(run("launches-candles", false), @"");
    insta::assert_snapshot!(run("is-stale", false), @"");
}
