//! The recipes that come with medtune: in the binary as they were when it was built, and on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::failure::Failure;

/// Name (with folders, with `.toml`) and text of every recipe of the source tree.
pub const RECIPES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/recipes.rs"));

/// What a file below `recipes/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tuning recipe.
    Recipe,
    /// An evaluation task.
    Task,
    /// A device that a plan can be made for.
    Machine,
}

/// The kind of a recipe file, by its place: tasks live in a folder called `eval`, devices in one called `machines`. A file
/// with an [eval] table is the recipe that asks a suite's tasks, and stands beside them.
pub fn kind_of(path: &Path) -> Kind {
    let inside = |name: &str| {
        path.parent()
            .is_some_and(|folder| folder.components().any(|part| part.as_os_str() == name))
    };
    if inside("eval") {
        if has_eval(path) {
            Kind::Recipe
        } else {
            Kind::Task
        }
    } else if inside("machines") {
        Kind::Machine
    } else {
        Kind::Recipe
    }
}

fn has_eval(path: &Path) -> bool {
    let on_disk = std::fs::read_to_string(path).ok();
    let embedded = RECIPES.iter().find(|(name, _)| Path::new(name) == path);
    let text = on_disk.or_else(|| embedded.map(|(_, text)| (*text).to_owned()));
    // By lines, so that a recipe with a mistake in it is still called one.
    text.is_some_and(|text| text.lines().any(|line| line.trim_end() == "[eval]"))
}

/// Every recipe and task of a folder, sorted: the TOML files on top and anywhere below `data/` and `supervised/` are recipes, those
/// below `eval/` are tasks, those below `machines/` devices; other folders hold what recipes use.
pub fn on_disk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, is_library(folder), &mut found)
        .with_context(|| format!("cannot list `{}`", folder.display()))?;
    // As the binary's own, by the names' characters: a path's parts would put `eval/mibe/..` before `eval/mibe.toml`.
    found.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(found)
}

/// Whether a folder holds nothing but recipes or tasks.
fn is_library(folder: &Path) -> bool {
    let name = folder.file_name();
    name.is_some_and(|name| {
        ["eval", "data", "machines", "supervised"]
            .iter()
            .any(|known| name == *known)
    })
}

fn walk(folder: &Path, inside: bool, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if inside || is_library(&path) {
                walk(&path, true, found)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "toml") {
            found.push(path);
        }
    }
    Ok(())
}

/// A recipe by its name, with or without `.toml`.
pub fn embedded(name: &str) -> Result<(&'static str, &'static str)> {
    let plain = name.trim_end_matches(".toml");
    let same = |(known, _): &&(&str, &str)| known.trim_end_matches(".toml") == plain;
    let found = RECIPES.iter().find(same).copied();
    Ok(found.ok_or_else(|| {
        Failure::user(format!("there is no recipe `{name}` in medtune"))
            .hint("`medtune recipes list` names them all")
    })?)
}

/// A recipe and those it extends, by name.
pub fn with_parents(name: &str) -> Result<Vec<(&'static str, &'static str)>> {
    let mut files = vec![embedded(name)?];
    while let Some(parent) = parent_of(files[files.len() - 1]) {
        let parent = embedded(&parent)?;
        if files.contains(&parent) {
            break;
        }
        files.push(parent);
    }
    Ok(files)
}

/// What is copied with a recipe: those that it extends and the tasks that it asks, with what they extend. The recipe itself
/// comes first.
pub fn with_tasks(name: &str) -> Result<Vec<(&'static str, &'static str)>> {
    let mut files = with_parents(name)?;
    for (_, text) in files.clone() {
        for entry in asked_by(text) {
            for task in tasks_named(&entry) {
                for file in with_parents(task)? {
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
        }
    }
    Ok(files)
}

/// The name under which `recipes copy` gives a task or a suite; nothing where it did not come with medtune.
pub fn copied_as(task: &str) -> Option<&'static str> {
    let files = tasks_named(task);
    let suite = format!("eval/{task}.toml");
    let named = match files.as_slice() {
        [one] => one,
        _ => RECIPES
            .iter()
            .map(|(name, _)| name)
            .find(|name| **name == suite)?,
    };
    Some(named.trim_end_matches(".toml"))
}

/// What a recipe's text lists as tasks: for its evaluation, during training, after a merge, and those whose items must not
/// be trained on.
fn asked_by(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_default();
    let lists: [&[&str]; 4] = [
        &["eval", "tasks"],
        &["train", "eval_tasks"],
        &["merge", "validate"],
        &["data", "clean", "decontaminate"],
    ];
    let entries = lists.iter().filter_map(|keys| {
        let (first, others) = keys.split_first()?;
        let list = others
            .iter()
            .try_fold(table.get(*first)?, |value, key| value.get(key));
        let entries = list?.as_array()?.iter();
        Some(entries.filter_map(|entry| entry.as_str().map(str::to_owned)))
    });
    entries.flatten().collect()
}

/// The files of the task or the suite that an entry of such a list names, of those that come with medtune.
fn tasks_named(entry: &str) -> Vec<&'static str> {
    let Ok(choice) = eval::TaskChoice::parse(entry) else {
        return Vec::new();
    };
    let tasks = || {
        let names = RECIPES.iter().map(|(name, _)| *name);
        names.filter(|name| kind_of(Path::new(name)) == Kind::Task)
    };
    let suite = format!("eval/{}/", choice.task);
    let of_suite: Vec<_> = tasks().filter(|name| name.starts_with(&suite)).collect();
    if !of_suite.is_empty() {
        return of_suite;
    }
    // `medqa-generate` is `medqa` answered in its second way.
    let ways = ["", "-generate", "-log-likelihood"];
    let stems = ways.iter().filter_map(|way| choice.task.strip_suffix(way));
    let ends: Vec<_> = stems.map(|stem| format!("/{stem}.toml")).collect();
    let named = ends
        .iter()
        .find_map(|end| tasks().find(|name| name.ends_with(end)));
    named.into_iter().collect()
}

fn parent_of((name, text): (&str, &str)) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let parent = table.get("extends")?.as_str()?;
    let mut path: Vec<&str> = name.split('/').collect();
    path.pop();
    for part in parent.split(['/', '\\']) {
        match part {
            ".." => {
                path.pop()?;
            }
            "." => {}
            part => path.push(part),
        }
    }
    Some(path.join("/"))
}

/// What a recipe says about itself in one line, or else the one that it extends.
pub fn about(name: &str) -> String {
    let files = with_parents(name).unwrap_or_default();
    let about = |(_, text): &(&str, &str)| {
        Some(
            text.parse::<toml::Table>()
                .ok()?
                .get("about")?
                .as_str()?
                .to_owned(),
        )
    };
    files.iter().find_map(about).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_tasks_from_recipes() {
        assert_eq!(kind_of(Path::new("recipes/quickstart.toml")), Kind::Recipe);
        assert_eq!(kind_of(Path::new("recipes/eval/mibe/hoc.toml")), Kind::Task);
        assert_eq!(kind_of(Path::new("eval/mibe/hoc.toml")), Kind::Task);
        assert_eq!(kind_of(Path::new("eval/mibe.toml")), Kind::Recipe);
        assert_eq!(kind_of(Path::new("machines/h200.toml")), Kind::Machine);
        assert_eq!(kind_of(Path::new("eval.toml")), Kind::Recipe);
    }

    #[test]
    fn what_is_in_the_binary_is_what_is_on_disk() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let disk: Vec<_> = on_disk(&root).unwrap();
        let disk: Vec<_> = disk
            .iter()
            .map(|path| path.strip_prefix(&root).unwrap())
            .collect();
        let embedded: Vec<_> = RECIPES.iter().map(|(name, _)| Path::new(*name)).collect();
        assert_eq!(disk, embedded);
        for (name, _) in RECIPES {
            assert!(!about(name).is_empty(), "{name} lacks `about`");
            assert!(
                with_parents(name).is_ok(),
                "{name} extends a recipe that is not there"
            );
        }
    }

    #[test]
    fn a_recipe_goes_with_the_tasks_that_it_asks() {
        let names = |recipe: &str| -> Vec<&str> {
            let files = with_tasks(recipe).unwrap();
            files.iter().map(|(name, _)| *name).collect()
        };
        let forgetting = names("eval/forgetting");
        assert_eq!(forgetting[0], "eval/forgetting.toml");
        assert!(
            forgetting.contains(&"eval/forgetting/gsm8k.toml"),
            "{forgetting:?}"
        );
        // Its own data is kept clear of their items.
        let data = names("data/mellama-214k");
        assert!(data.contains(&"eval/mibe/pubmedqa.toml"), "{data:?}");
        let mibe = names("eval/mibe");
        assert!(mibe.contains(&"eval/mibe/pubmedqa.toml"), "{mibe:?}");
        // By the name of its second way of answering, and with the file that it extends.
        assert_eq!(
            tasks_named("medqa-dev-generate@3:10"),
            ["eval/stand-ins/medqa-dev.toml"]
        );
        assert_eq!(copied_as("pubmedqa"), Some("eval/mibe/pubmedqa"));
        assert_eq!(copied_as("mibe"), Some("eval/mibe"));
        assert_eq!(copied_as("witch"), None);
    }
}
