//! PubMedQA's official split.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use datasets::formats::pubmedqa::official_split;
use insta::assert_snapshot;
use ledger::hash::sha256_bytes;
use serde_json::{Value, json};

use crate::{folder, read_all, shown, source};

/// 997 made-up labels; the expected ids are printed by the authors' script,
/// whose random picks these sizes need.
fn labelled() -> Vec<(String, String)> {
    let label = |i: usize| ["yes", "no", "maybe"][(i * i + i / 3) % 3];
    (0..997)
        .map(|i| (format!("{i:04}"), label(i).to_string()))
        .collect()
}

#[test]
fn the_split_is_the_scripts() {
    let split = official_split(&labelled());
    assert_eq!(split.test.len(), 498);
    assert_eq!(split.test[..5], ["0917", "0592", "0954", "0071", "0700"]);
    let sizes: Vec<usize> = split.folds.iter().map(Vec::len).collect();
    assert_eq!(sizes, [50, 50, 50, 50, 50, 50, 50, 50, 50, 49]);
    assert_eq!(split.folds[0][..3], ["0421", "0656", "0556"]);
    assert_eq!(split.folds[9][46..], ["0951", "0409", "0148"]);
}

#[test]
fn a_split_of_very_few_records_loses_none() {
    for n in 0..30 {
        let labelled = &labelled()[..n];
        let split = official_split(labelled);
        let all: BTreeSet<_> = split.folds.iter().flatten().chain(&split.test).collect();
        assert_eq!(all, labelled.iter().map(|(id, _)| id).collect());
    }
}

fn file() -> tempfile::TempDir {
    let records = labelled().into_iter().map(|(id, label)| {
        let record = json!({"QUESTION": format!("Is {id}?"), "CONTEXTS": ["one", "two"], "LONG_ANSWER": "long",
            "MESHES": [], "final_decision": label});
        (id, record)
    });
    let object: Value = Value::Object(records.collect());
    folder([("pqal.json", object.to_string().as_bytes())])
}

#[test]
fn a_source_reads_its_split_with_friendly_names() {
    let root = file();
    let ids = |split: &str, fold: usize| {
        let section = source(
            json!({"name": "pubmedqa", "format": "pubmedqa", "path": "pqal.json", "split": split, "fold": fold}),
        );
        let records = read_all(&section, root.path()).unwrap();
        records.into_iter().map(|r| r.id).collect::<BTreeSet<_>>()
    };
    let (train, dev, test) = (ids("train", 0), ids("dev", 0), ids("test", 0));
    assert_eq!((train.len(), dev.len(), test.len()), (449, 50, 498));
    assert!(train.is_disjoint(&dev) && train.is_disjoint(&test) && dev.is_disjoint(&test));
    assert_eq!(ids("test", 3), test);
    assert_ne!(ids("dev", 3), dev);
    assert!(dev.contains("pubmedqa/0421"));

    let all = read_all(
        &source(json!({"format": "pubmedqa", "path": "pqal.json"})),
        root.path(),
    )
    .unwrap();
    assert_eq!(all.len(), 997);
    assert_eq!(all[3].text("context").unwrap(), "one\ntwo");
    assert_eq!(all[3].text("pmid").unwrap(), "0003");
    assert_eq!(all[3].text("question").unwrap(), "Is 0003?");
    assert_eq!(all[3].text("long_answer").unwrap(), "long");
    assert_eq!(all[3].provenance.record, 4);
}

#[test]
fn a_split_that_is_not_there_is_named() {
    let root = file();
    let fails = |section| shown(&read_all(&source(section), root.path()).unwrap_err());
    assert_snapshot!(fails(json!({"format": "pubmedqa", "path": "pqal.json", "split": "valid"})), @r#"
    source s: format "pubmedqa" has no split "valid"
    hint: the splits are train, dev, test
    "#);
    assert_snapshot!(fails(json!({"format": "pubmedqa", "path": "pqal.json", "split": "dev", "fold": 10})), @r"
    source s: there is no fold 10 (there are 10, counted from 0)
    hint: leave fold out for the usual one, 0
    ");
    assert_snapshot!(fails(json!({"format": "alpaca", "path": "pqal.json", "split": "train"})), @r#"
    source s: format "alpaca" has no split "train"
    hint: leave split out: this format has no official splits
    "#);
    let root = folder([(
        "pqal.json",
        b"{\"17\": {\"QUESTION\": \"secret\", \"CONTEXTS\": \"secret\"}}".as_slice(),
    )]);
    let section = source(json!({"format": "pubmedqa", "path": "pqal.json"}));
    assert_snapshot!(shown(&read_all(&section, root.path()).unwrap_err()), @r#"
    sample 17 (pqal.json, record 1): field "CONTEXTS" should be a list of strings, found a string
    hint: the record has QUESTION, CONTEXTS
    "#);
}

/// The real files, where they are.
#[test]
fn the_real_files_give_the_published_test_ids() {
    let Some(root) = std::env::var_os("MEDTUNE_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: MEDTUNE_TEST_DATA names no folder with pubmedqa/ori_pqal.json");
        return;
    };
    let published: Value = serde_json::from_slice(
        &std::fs::read(root.join("pubmedqa/test_ground_truth.json")).unwrap(),
    )
    .unwrap();
    let read = |split: &str| ids_of(&root, split);
    let (train, dev, test) = (read("train"), read("dev"), read("test"));
    assert_eq!((train.len(), dev.len(), test.len()), (450, 50, 500));
    assert_eq!(
        test,
        published.as_object().unwrap().keys().cloned().collect()
    );
    // The authors' script's fold 0, its ids sorted and joined by line breaks.
    let joined = dev
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(
        sha256_bytes(joined.as_bytes()),
        "b33014bdb038c412915da18a8280fe21ef685fab02119b4849b2917a6a27fbe3"
    );
}

fn ids_of(root: &Path, split: &str) -> BTreeSet<String> {
    let section =
        source(json!({"format": "pubmedqa", "path": "pubmedqa/ori_pqal.json", "split": split}));
    let records = read_all(&section, root).unwrap();
    records
        .iter()
        .map(|record| record.text("pmid").unwrap().to_string())
        .collect()
}
