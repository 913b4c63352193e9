//! The task files of the repository.

use std::path::{Path, PathBuf};

use eval::Task;

fn task_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // `mibe.toml` beside the folder `mibe` is the recipe that asks its tasks.
        if path.with_extension("").is_dir() && path.is_file() {
            continue;
        }
        if path.is_dir() {
            task_files(&path, files);
        } else {
            assert_eq!(path.extension().unwrap(), "toml", "{}", path.display());
            files.push(path);
        }
    }
}

#[test]
fn every_task_file_resolves_under_its_own_name() {
    let mut files = Vec::new();
    task_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/eval"),
        &mut files,
    );
    assert!(!files.is_empty());
    let mut names = std::collections::HashSet::new();
    for file in files {
        let tasks = Task::load(&file, &[]).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for task in tasks {
            assert!(
                names.insert(task.name.clone()),
                "{}: two tasks have this name",
                task.name
            );
        }
    }
}

/// Needs PubMedQA's own files: `MEDTUNE_DATA` is a folder with `pubmedqa/` in it.
#[test]
fn pubmedqa_asks_the_official_test_items() {
    let Some(root) = std::env::var_os("MEDTUNE_DATA").map(PathBuf::from) else {
        eprintln!("skipped: MEDTUNE_DATA is not set");
        return;
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/eval/mibe/pubmedqa.toml");
    let items = Task::load(&file, &[]).unwrap()[0].items(&root).unwrap();
    let truth = std::fs::read_to_string(root.join("pubmedqa/test_ground_truth.json")).unwrap();
    let truth: std::collections::BTreeMap<String, String> = serde_json::from_str(&truth).unwrap();
    let asked: std::collections::BTreeMap<String, String> = items
        .iter()
        .map(|item| {
            (
                item.id.rsplit('/').next().unwrap().to_owned(),
                item.gold.clone(),
            )
        })
        .collect();
    assert_eq!(items.len(), 500);
    assert_eq!(asked, truth);
    let eval::Prompt::Chat(messages) = &items[0].prompt else {
        panic!("a chat")
    };
    assert!(messages[0].content.starts_with("As an expert doctor"));
    assert!(messages[0].content.ends_with("?\nThe answer is:"));
}
