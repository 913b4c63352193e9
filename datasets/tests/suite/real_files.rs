//! The published files themselves, where `MEDTUNE_DATA` names their folder.

use std::path::Path;

use serde_json::json;

use crate::source;

/// Format, path, other keys of the source, records, and records that are bad.
const FILES: &[(&str, &str, &str, usize, usize)] = &[
    ("alpaca", "alpaca/alpaca_5000.json", "{}", 5000, 0),
    ("records", "alpaca/seed_tasks.jsonl", "{}", 175, 0),
    ("alpaca", "alpacare/med_seed.json", "{}", 167, 0),
    ("records", "alpacare/MedInstruct-test.jsonl", "{}", 216, 0),
    (
        "alpaca",
        "alpacare/reference_gpt4/iCliniq_output.jsonl",
        "{}",
        1000,
        0,
    ),
    ("alpaca", "chatdoctor/chatdoctor5k.json", "{}", 5452, 0),
    ("ddi-blue", "ddi2013/dev.tsv", "{}", 7244, 0),
    (
        "records",
        "dolly/databricks-dolly-15k.first_records.jsonl",
        "{}",
        23,
        0,
    ),
    ("records", "gsm8k/train.jsonl", "{}", 7473, 0),
    ("records", "gsm8k/test.jsonl", "{}", 1319, 0),
    ("hoc", "hoc/train.tsv", "{}", 1108, 0),
    ("hoc", "hoc/dev.tsv", "{}", 157, 0),
    ("csv", "indiana_cxr/indiana_reports.csv", "{}", 2000, 0),
    (
        "alpaca",
        "medalpaca/medical_meadow_small.json",
        "{}",
        5942,
        0,
    ),
    (
        "xlsx",
        "medicationqa/MedInfo2019-QA-Medications.xlsx",
        r#"{"sheet": "DrugQA"}"#,
        690,
        0,
    ),
    (
        "medmcqa",
        "medmcqa/validation.first2000.jsonl",
        "{}",
        2000,
        0,
    ),
    ("medqa", "medqa/dev.tsv", "{}", 1272, 0),
    ("mmlu", "mmlu/data/dev", "{}", 285, 0),
    ("mmlu", "mmlu/data/val", "{}", 1542, 0),
    ("mslr", "mslr/test-summaries.jsonl", "{}", 5, 0),
    ("csv", "mslr/test-targets.csv", "{}", 5, 0),
    // The last of its 322 rows is cut.
    ("mtsamples", "mtsamples/mtsamples.csv", "{}", 321, 1),
    (
        "csv",
        "mts-dialog/Main-Dataset/MTS-Dialog-TrainingSet.csv",
        "{}",
        1201,
        0,
    ),
    (
        "csv",
        "mts-dialog/Main-Dataset/MTS-Dialog-ValidationSet.csv",
        "{}",
        100,
        0,
    ),
    ("pubmedqa", "pubmedqa/ori_pqal.json", "{}", 1000, 0),
    ("sharegpt", "sharegpt/dummy_conversation.json", "{}", 500, 0),
    (
        "sharegpt",
        "sharegpt/glaive_toolcall_en_demo.json",
        "{}",
        300,
        0,
    ),
    ("alpaca", "sharegpt/alpaca_en_demo.json", "{}", 999, 0),
    ("truthfulqa", "truthfulqa/TruthfulQA.csv", "{}", 790, 0),
];

#[test]
fn real_files() {
    let Some(data) = std::env::var_os("MEDTUNE_DATA") else {
        println!("skipped: MEDTUNE_DATA does not name the folder of the published files");
        return;
    };
    let data = Path::new(&data);
    let mut subjects = std::collections::BTreeSet::new();
    for &(format, path, keys, good, bad) in FILES {
        let mut section = json!({"format": format, "path": path, "on_bad_record": "drop"});
        let keys: serde_json::Value = serde_json::from_str(keys).unwrap();
        section
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let mut found = (0, 0);
        for record in datasets::read_source(&source(section), data).unwrap() {
            match record {
                Ok(record) => {
                    found.0 += 1;
                    if format == "mmlu" {
                        subjects.insert(record.text("subject").unwrap().to_string());
                    }
                }
                Err(error) => {
                    found.1 += 1;
                    assert!(error.to_string().starts_with(path), "{error}");
                }
            }
        }
        assert_eq!(found, (good, bad), "{format} {path}");
    }
    assert_eq!(subjects.len(), 57);
    let cxr = source(json!({"format": "csv", "path": "indiana_cxr/indiana_reports.csv"}));
    let both = datasets::read_source(&cxr, data).unwrap().filter(|record| {
        let record = record.as_ref().unwrap();
        ["findings", "impression"]
            .iter()
            .all(|field| !record.text(field).unwrap().is_empty())
    });
    assert_eq!(both.count(), 1741);
}

/// Prints how fast generated lines and tables of 200 MB are read:
/// `cargo test --release -p medtune-datasets -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    let folder = tempfile::tempdir().unwrap();
    let words = "The patient was admitted with chest pain and was seen by cardiology . ";
    let text = words.repeat(25);
    let files: [(&str, &str, String); 3] = [
        (
            "records",
            "a.jsonl",
            format!("{{\"id\": \"7\", \"note\": \"{text}\", \"label\": \"x\"}}\n"),
        ),
        (
            "records",
            "a.json",
            format!("{{\"id\": \"7\", \"note\": \"{text}\", \"label\": \"x\"}},\n"),
        ),
        (
            "csv",
            "a.csv",
            format!("7,\"{}\",x\n", text.replace(" . ", " .\n")),
        ),
    ];
    for (format, name, row) in files {
        let (begin, end) = match name {
            "a.json" => ("[", "{}]"),
            "a.csv" => ("id,note,label\n", ""),
            _ => ("", ""),
        };
        let rows = row.repeat(200_000_000 / row.len());
        let bytes = format!("{begin}{rows}{end}");
        std::fs::write(folder.path().join(name), &bytes).unwrap();
        let section = source(json!({"format": format, "path": name}));
        let start = std::time::Instant::now();
        let records = datasets::read_source(&section, folder.path()).unwrap();
        let count = records.map(Result::unwrap).count();
        let seconds = start.elapsed().as_secs_f64();
        let speed = bytes.len() as f64 / 1e6 / seconds;
        println!("{name}: {count} records, {speed:.0} MB/s");
    }
}
