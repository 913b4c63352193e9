//! From a recipe's list of tasks to their files.

use std::path::{Path, PathBuf};

use super::Task;
use crate::{Error, Result};

/// One entry of a recipe's `tasks`: `pubmedqa`, `pubmedqa:100`, or `tasks/mine.toml:100`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskChoice {
    /// A name, or a path that ends in `.toml`.
    pub task: String,
    /// How many items are asked; all where not given.
    pub limit: Option<usize>,
}

impl TaskChoice {
    /// Reads an entry.
    pub fn parse(choice: &str) -> Result<TaskChoice> {
        let Some((task, limit)) = choice.rsplit_once(':') else {
            return Ok(TaskChoice {
                task: choice.to_owned(),
                limit: None,
            });
        };
        match limit.parse() {
            Ok(count) if count > 0 => Ok(TaskChoice {
                task: task.to_owned(),
                limit: Some(count),
            }),
            _ => Err(Error::TaskLimit {
                choice: choice.to_owned(),
                limit: limit.to_owned(),
            }),
        }
    }
}

/// A task that a recipe asks, and how many of its items.
#[derive(Debug, Clone)]
pub struct ChosenTask {
    /// The task.
    pub task: Task,
    /// How many items are asked; all where not given.
    pub limit: Option<usize>,
}

/// Loads what a recipe's `tasks` names, in its order; see [`find_task`] for `base` and `folders`.
pub fn choose_tasks(
    choices: &[String],
    base: &Path,
    folders: &[PathBuf],
) -> Result<Vec<ChosenTask>> {
    let mut chosen: Vec<ChosenTask> = Vec::new();
    for choice in choices {
        let TaskChoice { task, limit } = TaskChoice::parse(choice)?;
        for task in Task::load(&find_task(&task, base, folders)?, &[])? {
            // Scores are reported by the task's name.
            if chosen.iter().any(|other| other.task.name == task.name) {
                return Err(Error::TaskTwice { task: task.name });
            }
            chosen.push(ChosenTask { task, limit });
        }
    }
    Ok(chosen)
}

/// The file of the task with this name: `NAME.toml` in the first of the folders that has it. A
/// name that ends in `.toml` is a path, relative to `base`.
pub fn find_task(name: &str, base: &Path, folders: &[PathBuf]) -> Result<PathBuf> {
    if name.ends_with(".toml") {
        let path = base.join(name);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::NoTaskFile { path })
        };
    }
    let file = format!("{name}.toml");
    if let Some(path) = folders
        .iter()
        .map(|f| f.join(&file))
        .find(|path| path.is_file())
    {
        return Ok(path);
    }
    let mut known = Vec::new();
    for folder in folders {
        list(folder, "", &mut known);
    }
    known.sort();
    known.dedup();
    let nearest = nearest(name, &known).map(String::from);
    Err(Error::UnknownTask {
        name: name.to_owned(),
        nearest,
        known,
    })
}

/// Adds the names of all task files in a folder, those in folders inside it as `inner/name`.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    // A folder that can't be read has no tasks to suggest.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder {
            list(&entry.path(), &format!("{prefix}{name}/"), names);
        } else if let Some(stem) = name.strip_suffix(".toml") {
            names.push(format!("{prefix}{stem}"));
        }
    }
}

/// The known name that was probably meant: at most a third of it is wrong, or its last part is
/// what was written.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let distance = |known: &str| {
        let last = known.rsplit('/').next().unwrap_or(known);
        strsim::damerau_levenshtein(name, known).min(strsim::damerau_levenshtein(name, last))
    };
    known
        .iter()
        .map(|known| (distance(known), known.as_str()))
        .filter(|(distance, _)| *distance <= (name.chars().count() / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_limits() {
        let choice = TaskChoice::parse("pubmedqa:100").unwrap();
        assert_eq!(
            (choice.task.as_str(), choice.limit),
            ("pubmedqa", Some(100))
        );
        assert_eq!(TaskChoice::parse("tasks/mine.toml").unwrap().limit, None);
        for wrong in ["pubmedqa:", "pubmedqa:0", "pubmedqa:many"] {
            assert!(
                matches!(TaskChoice::parse(wrong), Err(Error::TaskLimit { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn finds_names_and_paths() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("mibe")).unwrap();
        for file in ["pubmedqa.toml", "mibe/hoc.toml"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let folders = [folder.path().to_owned()];
        let find = |name: &str| find_task(name, folder.path(), &folders);
        assert_eq!(
            find("pubmedqa").unwrap(),
            folder.path().join("pubmedqa.toml")
        );
        assert_eq!(
            find("mibe/hoc").unwrap(),
            folder.path().join("mibe/hoc.toml")
        );
        assert_eq!(
            find("mibe/hoc.toml").unwrap(),
            folder.path().join("mibe/hoc.toml")
        );
        let nearest = |name| match find(name) {
            Err(Error::UnknownTask { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(nearest("pubmed_qa").as_deref(), Some("pubmedqa"));
        assert_eq!(nearest("hoc").as_deref(), Some("mibe/hoc"));
        assert_eq!(nearest("spelling"), None);
        assert!(matches!(find("other.toml"), Err(Error::NoTaskFile { .. })));
    }
}
