//! The publishers' files, where they are: every reader of XML, annotations and
//! UMLS tables finds as many records as their publishers say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use datasets::{Error, Record};
use serde_json::{Value, json};

use crate::dropping;

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("MEDTUNE_DATA").map(PathBuf::from);
    if root.is_none() {
        eprintln!("skipped: MEDTUNE_DATA names no folder with the published files");
    }
    root
}

/// The records of a source and its errors; ids are unique.
fn read(root: &Path, section: Value) -> (Vec<Record>, Vec<Error>) {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    for record in datasets::read_source(&dropping(section), root).unwrap() {
        match record {
            Ok(record) => records.push(record),
            Err(error) => errors.push(error),
        }
    }
    let ids: BTreeSet<&String> = records.iter().map(|record| &record.id).collect();
    assert_eq!(ids.len(), records.len(), "ids are not unique");
    (records, errors)
}

/// How many records have text in a field.
fn with(records: &[Record], field: &str) -> usize {
    let text = |record: &&Record| !record.text(field).unwrap().is_empty();
    records.iter().filter(text).count()
}

#[test]
fn published_files_have_their_counts() {
    let Some(root) = data() else { return };
    let liveqa = "liveqa/TrainingDatasets/TREC-2017-LiveQA-Medical-Train";
    let mediqa = "mediqa2019/MEDIQA2019-Task";
    let counts = [
        ("liveqa", format!("{liveqa}-1.xml"), 388),
        ("liveqa", format!("{liveqa}-2.xml"), 246),
        ("mediqa-qa", format!("{mediqa}3-QA-ValidationSet.xml"), 234),
        (
            "mediqa-rqe",
            format!("{mediqa}2-RQE-ValidationSet-AMIA2016.xml"),
            302,
        ),
        ("medline", "pubmed/data/medline16n0902.xml.gz".into(), 604),
        ("medline", "pubmed/data/pubmed-29768149.xml".into(), 1),
        ("iob", "ner/NCBI-disease-IOB/train.tsv".into(), 5424),
        ("iob", "ner/NCBI-disease-IOB/devel.tsv".into(), 923),
        ("iob", "ner/NCBI-disease-IOB/test.tsv".into(), 940),
        ("umls-concepts", "umls_sample/MRCONSO.RRF".into(), 5),
    ];
    for (format, path, count) in counts {
        let (records, errors) = read(&root, json!({"format": format, "path": path}));
        assert_eq!((records.len(), errors.len()), (count, 0), "{path}");
    }
    let (records, _) = read(
        &root,
        json!({"format": "liveqa", "path": "liveqa/TrainingDatasets"}),
    );
    assert_eq!((records.len(), with(&records, "answer")), (634, 634));
    let medline = json!({"format": "medline", "path": "pubmed/data/medline16n0902.xml.gz"});
    let (records, _) = read(&root, medline);
    assert_eq!(
        (with(&records, "abstract"), with(&records, "mesh_text")),
        (526, 94)
    );
    assert_eq!(with(&records, "title"), 604);
    // Seven of the twelve folders.
    let medquad = json!({"format": "medquad", "path": "medquad", "members": "**/*.xml"});
    let (records, errors) = read(&root, medquad);
    assert_eq!((records.len(), errors.len()), (5415, 0));
    assert_eq!(
        (with(&records, "question"), with(&records, "answer")),
        (5415, 4623)
    );
    // Three files of the CDC have no focus.
    assert_eq!(with(&records, "focus"), 5401);
}

#[test]
fn published_articles_have_their_parts() {
    let Some(root) = data() else { return };
    let (records, errors) = read(
        &root,
        json!({"format": "jats", "path": "pubmed/data", "members": "*.nxml"}),
    );
    assert_eq!((records.len(), errors.len()), (5, 0));
    for field in ["pmid", "pmcid", "title", "abstract", "body"] {
        assert_eq!(with(&records, field), 5, "{field}");
    }
    for record in &records {
        assert!(
            record.fields["sections"].as_array().unwrap().len() >= 3,
            "{}",
            record.id
        );
        assert!(record.text("body").unwrap().len() > 10_000, "{}", record.id);
    }
}

#[test]
fn published_notes_have_their_entities() {
    let Some(root) = data() else { return };
    let (records, errors) = read(&root, json!({"format": "brat", "path": "mtsamples/kiwi"}));
    assert_eq!((records.len(), errors.len()), (96, 0));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records {
        for entity in record.fields["entities"].as_array().unwrap() {
            *kinds.entry(entity["type"].as_str().unwrap()).or_default() += 1;
        }
    }
    let count = |kind| kinds[kind];
    assert_eq!(
        [
            count("problem"),
            count("test"),
            count("drug"),
            count("treatment")
        ],
        [4059, 1529, 747, 584]
    );
    let specialty = |record: &&Record| record.fields["specialty"].is_string();
    assert_eq!(records.iter().filter(specialty).count(), 93);
}

#[test]
fn published_tokens_make_the_published_entities() {
    let Some(root) = data() else { return };
    let (records, _) = read(
        &root,
        json!({"format": "iob", "path": "ner/NCBI-disease-IOB"}),
    );
    let entities = |record: &Record| record.fields["entities"].as_array().unwrap().len();
    // Every `B-Disease` begins one: 5134 + 787 + 960.
    assert_eq!(records.iter().map(entities).sum::<usize>(), 6881);
}

#[test]
fn the_umls_sample_is_read_whole() {
    let Some(root) = data() else { return };
    let (records, _) = read(
        &root,
        json!({"format": "umls-concepts", "path": "umls_sample", "tables": {"definitions": "umls_sample/MRDEF.RRF"}}),
    );
    let names: Vec<&str> = records.iter().map(|r| r.text("name").unwrap()).collect();
    assert_eq!(
        names,
        [
            "Vivax Malaria",
            "Neoplasm, Brain",
            "Acquired Immunodeficiency Syndrome",
            "Brain Tumors, Primary",
            "Neoplasms, Intracranial"
        ]
    );
    assert!(
        records[0]
            .text("definition")
            .unwrap()
            .starts_with("Malaria caused by")
    );
    // The one relation is of a concept that the sample has no name of.
    let relations = json!({"format": "umls-relations", "path": "umls_sample/MRREL.RRF", "tables": {"concepts": "umls_sample/MRCONSO.RRF"}});
    let (records, errors) = read(&root, relations);
    assert_eq!(records.len(), 0);
    assert!(
        errors[0]
            .to_string()
            .contains("C0002372 has no English name")
    );
}

#[test]
fn the_ddi_corpus_is_blues() {
    let Some(root) = data() else { return };
    let path = "ddi2013/DDICorpus/Train";
    let (records, errors) = read(&root, json!({"format": "ddi2013", "path": path}));
    assert_eq!((records.len(), errors.len()), (27_791, 1));
    assert!(
        errors[0].to_string().contains("DDI-DrugBank.d236.s29.p0"),
        "{}",
        errors[0]
    );
    let label = |name: &str| {
        records
            .iter()
            .filter(|r| r.text("label").unwrap() == name)
            .count()
    };
    assert_eq!(
        [
            "DDI-false",
            "DDI-effect",
            "DDI-mechanism",
            "DDI-advise",
            "DDI-int"
        ]
        .map(label),
        [23_771, 1687, 1319, 826, 188]
    );
    // BLUE's development set is a part of it: the same labels, and the same
    // sentences but for white space (in 51 of them).
    let dev = std::fs::read_to_string(root.join("ddi2013/dev.tsv")).unwrap();
    let by_id: HashMap<&str, &Record> = records
        .iter()
        .map(|record| (record.text("pair_id").unwrap(), record))
        .collect();
    let fold = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut same = 0;
    for line in dev.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let record = by_id[cells[0]];
        let sentence = record.text("sentence").unwrap();
        assert_eq!(fold(sentence), fold(cells[1]), "{}", cells[0]);
        assert_eq!(record.text("label").unwrap(), cells[2], "{}", cells[0]);
        same += usize::from(sentence == cells[1]);
    }
    assert_eq!((same, dev.lines().count() - 1), (7193, 7244));

    // What is left: 20,548 candidates, one of them without a type.
    let tables = json!({"exclude": "ddi2013/dev.tsv"});
    let (records, errors) = read(
        &root,
        json!({"format": "ddi2013", "path": path, "tables": tables}),
    );
    assert_eq!((records.len(), errors.len()), (20_547, 1));
}
