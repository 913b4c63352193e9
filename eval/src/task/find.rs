//! From a recipe's list of tasks to their files.
//!
//! An entry names a task by its name, a suite (a folder of task files) or a file by its path:
//! `hoc`, `mibe`, `tasks/mine.toml`. `[dev]` behind it asks another official split of its source, `@3` with three shots,
//! `:100` a hundred items: `pubmedqa[dev]@3:100`.

use std::path::{Path, PathBuf};

use super::{AnsweringName, Task};
use crate::{Error, Result};

/// One entry of a recipe's `tasks`: `pubmedqa`, `pubmedqa@3:100`, or `tasks/mine.toml:100`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskChoice {
    /// A name, a suite's name, or a path that ends in `.toml`.
    pub task: String,
    /// Which official split of its source is asked; the one that its file names where not given.
    pub split: Option<String>,
    /// How many solved examples stand before each question; as the recipe or the task says where
    /// not given.
    pub shots: Option<usize>,
    /// How many items are asked; all where not given.
    pub limit: Option<usize>,
}

impl TaskChoice {
    /// Reads an entry.
    pub fn parse(choice: &str) -> Result<TaskChoice> {
        let (rest, limit) = match choice.rsplit_once(':') {
            None => (choice, None),
            Some((rest, limit)) => match limit.parse() {
                Ok(count) if count > 0 => (rest, Some(count)),
                _ => {
                    return Err(Error::TaskLimit {
                        choice: choice.to_owned(),
                        limit: limit.to_owned(),
                    });
                }
            },
        };
        // A folder's name may have an `@` of its own.
        let (task, shots) = match rest.rsplit_once('@').filter(|(_, n)| !n.contains('/')) {
            None => (rest, None),
            Some((task, shots)) => match shots.parse() {
                Ok(count) => (task, Some(count)),
                Err(_) => {
                    return Err(Error::TaskShots {
                        choice: choice.to_owned(),
                        shots: shots.to_owned(),
                    });
                }
            },
        };
        let (task, split) = match task.strip_suffix(']').and_then(|t| t.rsplit_once('[')) {
            Some((task, split)) if !task.is_empty() && !split.is_empty() => (task, Some(split)),
            _ => (task, None),
        };
        Ok(TaskChoice {
            task: task.to_owned(),
            split: split.map(str::to_owned),
            shots,
            limit,
        })
    }
}

/// The tasks of one file that a recipe asks.
#[derive(Debug, Clone)]
pub struct FoundTasks {
    /// The file.
    pub file: PathBuf,
    /// How many items of each are asked; all where not given.
    pub limit: Option<usize>,
    /// One task a way of answering that is asked.
    pub tasks: Vec<Task>,
}

/// Finds and loads what one entry of a recipe's `tasks` names; see [`find_task`] for `base` and
/// `folders`.
///
/// A file by its path and a suite's files are asked in every way that they answer; a name asks
/// the one task that has it (`medqa`, `medqa-generate`). `shots` is how many solved examples
/// stand before each question where the entry doesn't say.
pub fn load_tasks(
    entry: &str,
    shots: Option<usize>,
    base: &Path,
    folders: &[PathBuf],
) -> Result<Vec<FoundTasks>> {
    let choice = TaskChoice::parse(entry)?;
    let by_name = !choice.task.ends_with(".toml");
    let suite = match by_name {
        true => suite_files(&choice.task, folders),
        false => Vec::new(),
    };
    let (files, only) = if suite.is_empty() {
        let file = find_task(&choice.task, base, folders)?;
        (vec![file], by_name.then_some(choice.task.as_str()))
    } else {
        (suite, None)
    };
    let load = |file: PathBuf| {
        let mut tasks = Task::load(&file, &[])?;
        if let Some(name) = only {
            let asked = asked_way(name, stem(&file), &tasks).ok_or_else(|| Error::UnknownTask {
                name: name.to_owned(),
                nearest: Some(stem(&file).to_owned()),
                known: Vec::new(),
            })?;
            tasks = vec![tasks.swap_remove(asked)];
        }
        let tasks = tasks
            .into_iter()
            .map(|task| match &choice.split {
                Some(split) => task.of_split(split),
                None => Ok(task),
            })
            .map(|task| task?.with_shots(choice.shots.or(shots)))
            .collect::<Result<_>>()?;
        Ok(FoundTasks {
            file,
            limit: choice.limit,
            tasks,
        })
    };
    files.into_iter().map(load).collect()
}

/// Which of a file's tasks a name asks: the file's own name its first, `NAME-WAY` the one that is
/// answered so.
fn asked_way(name: &str, stem: &str, tasks: &[Task]) -> Option<usize> {
    let name = name.rsplit('/').next().unwrap_or(name);
    if name == stem {
        return Some(0);
    }
    let way = name.strip_prefix(stem)?.strip_prefix('-')?;
    tasks.iter().position(|task| task.answering.name() == way)
}

fn stem(file: &Path) -> &str {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    stem.unwrap_or_default()
}

/// A task that a recipe asks, and how many of its items.
#[derive(Debug, Clone)]
pub struct ChosenTask {
    /// The task.
    pub task: Task,
    /// How many items are asked; all where not given.
    pub limit: Option<usize>,
}

/// Loads what a recipe's `tasks` names, in its order; see [`load_tasks`].
pub fn choose_tasks(
    choices: &[String],
    base: &Path,
    folders: &[PathBuf],
) -> Result<Vec<ChosenTask>> {
    let mut chosen: Vec<ChosenTask> = Vec::new();
    for choice in choices {
        for found in load_tasks(choice, None, base, folders)? {
            for task in found.tasks {
                // Scores are reported by the task's name.
                if chosen.iter().any(|other| other.task.name == task.name) {
                    return Err(Error::TaskTwice { task: task.name });
                }
                chosen.push(ChosenTask {
                    task,
                    limit: found.limit,
                });
            }
        }
    }
    Ok(chosen)
}

/// The task files of the suite with this name, sorted: those of the folder `NAME` in the first of
/// the folders that has one. None where there is no such folder.
pub fn suite_files(name: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    // `..` would leave the folders, and an empty name would be all of them.
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !name.split('/').all(plain) {
        return Vec::new();
    }
    let files = folders.iter().map(|folder| {
        let entries = std::fs::read_dir(folder.join(name)).into_iter();
        let paths = entries.flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file())
            .collect();
        files.sort();
        files
    });
    files
        .into_iter()
        .find(|files| !files.is_empty())
        .unwrap_or_default()
}

/// The file of the task with this name: `NAME.toml` in the first of the folders that has it, or
/// in the one folder inside of one of them that has it. A name may end in a way of answering
/// (`medqa-generate`). A name that ends in `.toml` is a path, relative to `base`.
pub fn find_task(name: &str, base: &Path, folders: &[PathBuf]) -> Result<PathBuf> {
    if name.ends_with(".toml") {
        let path = base.join(name);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::NoTaskFile { path })
        };
    }
    let ways = [AnsweringName::Generate, AnsweringName::LogLikelihood];
    let without_way = ways
        .iter()
        .find_map(|way| name.strip_suffix(way.name())?.strip_suffix('-'));
    for name in std::iter::once(name).chain(without_way) {
        if let Some(path) = named_file(name, folders) {
            return Ok(path);
        }
    }
    let known = known_tasks(folders);
    // A report calls `quickstart-choice` what recipes/eval/quickstart/choice.toml asks.
    let reported = reported(without_way.unwrap_or(name), &known)
        .map(|known| format!("{known}{}", &name[without_way.unwrap_or(name).len()..]));
    let nearest = nearest(name, &known).map(String::from).or(reported);
    Err(Error::UnknownTask {
        name: name.to_owned(),
        nearest,
        known,
    })
}

fn named_file(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let file = format!("{name}.toml");
    let on_top = folders.iter().map(|folder| folder.join(&file));
    if let Some(path) = on_top.into_iter().find(|path| path.is_file()) {
        return Some(path);
    }
    // In two suites it could be either.
    let inside = |folder: &PathBuf| {
        let mut names = Vec::new();
        list(folder, "", &mut names);
        let end = format!("/{name}");
        names.retain(|known| known.ends_with(&end));
        match names.as_slice() {
            [one] => Some(folder.join(format!("{one}.toml"))),
            _ => None,
        }
    };
    folders.iter().find_map(inside)
}

/// The names of all task files, those in inner folders without the folder where that is enough.
fn known_tasks(folders: &[PathBuf]) -> Vec<String> {
    let mut known = Vec::new();
    for folder in folders {
        list(folder, "", &mut known);
    }
    known.sort();
    known.dedup();
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let lasts: Vec<String> = known.iter().map(|name| last(name)).collect();
    let once = |name: &str| lasts.iter().filter(|other| *other == name).count() == 1;
    let mut short: Vec<String> = known
        .iter()
        .map(|name| match last(name) {
            plain if once(&plain) => plain,
            _ => name.clone(),
        })
        .collect();
    short.sort();
    short
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

/// The longest known name at the end of what was written.
fn reported<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let last = known.iter().map(|known| match known.rsplit_once('/') {
        Some((_, last)) => (last, known.as_str()),
        None => (known.as_str(), known.as_str()),
    });
    let ends = |last: &str| {
        let before = name.strip_suffix(last);
        before.is_some_and(|before| before.ends_with('-'))
    };
    let meant = last.filter(|(last, _)| ends(last));
    meant
        .max_by_key(|(last, _)| last.len())
        .map(|(_, known)| known)
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
        let shots = |choice| TaskChoice::parse(choice).unwrap().shots;
        assert_eq!(
            (shots("hoc@3:100"), shots("hoc@0"), shots("hoc")),
            (Some(3), Some(0), None)
        );
        assert_eq!(shots("a@b/mine.toml"), None);
        let of_split = TaskChoice::parse("pubmedqa[dev]@3:100").unwrap();
        assert_eq!(
            (
                of_split.task.as_str(),
                of_split.split.as_deref(),
                of_split.shots,
                of_split.limit
            ),
            ("pubmedqa", Some("dev"), Some(3), Some(100))
        );
        for name in ["pubmedqa", "[dev]", "pubmedqa[]", "a[b]/mine.toml"] {
            let choice = TaskChoice::parse(name).unwrap();
            assert_eq!((choice.task.as_str(), choice.split), (name, None));
        }
        for wrong in ["hoc@", "hoc@-1", "hoc@many:5"] {
            assert!(
                matches!(TaskChoice::parse(wrong), Err(Error::TaskShots { .. })),
                "{wrong}"
            );
        }
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
        assert_eq!(nearest("hocs").as_deref(), Some("hoc"));
        // As reports call them.
        assert_eq!(nearest("stand-in-hoc").as_deref(), Some("hoc"));
        let generated = nearest("stand-in-hoc-generate");
        assert_eq!(generated.as_deref(), Some("hoc-generate"));
        assert_eq!(find("hoc").unwrap(), folder.path().join("mibe/hoc.toml"));
        assert_eq!(
            find("hoc-generate").unwrap(),
            folder.path().join("mibe/hoc.toml")
        );
        std::fs::create_dir(folder.path().join("mine")).unwrap();
        std::fs::write(folder.path().join("mine/hoc.toml"), "").unwrap();
        assert!(matches!(find("hoc"), Err(Error::UnknownTask { .. })));
        assert_eq!(
            suite_files("mibe", &folders),
            [folder.path().join("mibe/hoc.toml")]
        );
        for none in ["", "..", "mibe/..", "pubmedqa"] {
            assert!(suite_files(none, &folders).is_empty(), "{none}");
        }
        assert_eq!(nearest("spelling"), None);
        assert!(matches!(find("other.toml"), Err(Error::NoTaskFile { .. })));
    }
}
