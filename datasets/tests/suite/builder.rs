//! What the data builder takes, leaves out and refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use datasets::clean::Probe;
use datasets::recipe::DataSection;
use datasets::{BuildOptions, Built, Error, build};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{folder, shown};

const WORDS: [&str; 40] = [
    "aspirin",
    "lowers",
    "fever",
    "renal",
    "clearance",
    "depends",
    "on",
    "age",
    "weight",
    "and",
    "dose",
    "patients",
    "with",
    "asthma",
    "should",
    "avoid",
    "beta",
    "blockers",
    "because",
    "of",
    "spasm",
    "insulin",
    "acts",
    "within",
    "minutes",
    "after",
    "injection",
    "under",
    "skin",
    "statins",
    "reduce",
    "cholesterol",
    "by",
    "blocking",
    "an",
    "enzyme",
    "in",
    "liver",
    "cells",
    "daily",
];

/// A text of `words` words that shares next to nothing with one of another seed.
fn text(seed: u64, words: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        WORDS[(state >> 33) as usize % WORDS.len()]
    };
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

fn rows(first: u64, count: u64) -> String {
    let row = |i| json!({"question": text(i, 30), "answer": text(i + 1_000_000, 20), "patient": i / 3, "kind": if i % 2 == 0 { "even" } else { "odd" }});
    (first..first + count)
        .map(|i| format!("{}\n", row(i)))
        .collect()
}

fn source(name: &str, path: &str, more: Value) -> Value {
    let mut source = json!({"name": name, "format": "records", "path": path,
        "task": {"prompt": "Answer this question truthfully.\n{{ question }}", "answer": "{{ answer }}"}});
    source
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    source
}

fn build_in(
    root: &Path,
    section: Value,
    options: &BuildOptions<'_>,
) -> (Result<Built, Error>, tempfile::TempDir) {
    let section: DataSection = serde_json::from_value(section).unwrap();
    let out = tempfile::tempdir().unwrap();
    (build(&section, root, out.path(), options), out)
}

fn built(root: &Path, section: Value) -> (Built, tempfile::TempDir) {
    let (built, out) = build_in(root, section, &BuildOptions::default());
    (built.unwrap(), out)
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn by_source(folder: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines(folder, "train.jsonl")
        .iter()
        .chain(&lines(folder, "validation.jsonl"))
    {
        let name = line["provenance"]["source"].as_str().unwrap().to_owned();
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

#[test]
fn quotas_come_out_whole_after_cleaning() {
    // 60 rows of which 20 are the first source's again.
    let second = rows(0, 20) + &rows(100, 40);
    let root = folder([
        ("a.jsonl", rows(0, 50).as_bytes()),
        ("b.jsonl", second.as_bytes()),
        ("c.jsonl", rows(200, 10).as_bytes()),
    ]);
    let section = json!({
        "validation_fraction": 0.2,
        "group": [{"name": "chat", "quota": 25}],
        "source": [
            source("a", "a.jsonl", json!({"quota": 30})),
            source("b", "b.jsonl", json!({"group": "chat"})),
            source("c", "c.jsonl", json!({"group": "chat"})),
        ],
    });
    let (built, out) = built(root.path(), section);
    // 40 and 10 are left for 25.
    let expected = [("a", 30), ("b", 20), ("c", 5)];
    assert_eq!(
        by_source(out.path()),
        expected.map(|(name, n)| (name.to_owned(), n)).into()
    );
    let b = &built.report.sources[1];
    assert_eq!(
        (b.read, b.dropped["exact duplicate"], b.over_quota, b.quota),
        (60, 20, 20, Some(20))
    );
    assert_eq!(built.report.total.train + built.report.total.validation, 55);
    assert!(built.report.total.validation > 0);
    let dropped = lines(out.path(), "dropped.jsonl");
    assert_eq!(dropped.len(), 20);
    assert_eq!(
        dropped[0],
        json!({"id": "b/1", "reason": "exact duplicate", "of": "a/1"})
    );
}

#[test]
fn a_sample_is_a_share_of_every_quota() {
    let files = [
        ("a.jsonl", rows(0, 50)),
        ("b.jsonl", rows(100, 40)),
        ("c.jsonl", rows(200, 20)),
        ("d.jsonl", rows(300, 30)),
        ("e.jsonl", rows(400, 7)),
    ];
    let root = folder(
        files
            .each_ref()
            .map(|(name, text)| (*name, text.as_bytes())),
    );
    let section = |sample: f64| {
        json!({
            "sample": sample,
            "group": [{"name": "chat", "quota": 45}],
            "source": [
                source("a", "a.jsonl", json!({"quota": 37})),
                source("b", "b.jsonl", json!({"group": "chat"})),
                source("c", "c.jsonl", json!({"group": "chat", "quota": 15})),
                source("d", "d.jsonl", json!({})),
            ],
            "validation": [source("e", "e.jsonl", json!({"quota": 5}))],
        })
    };
    let (whole, whole_out) = built(root.path(), section(1.0));
    let counts = |counts: [(&str, usize); 5]| -> BTreeMap<String, usize> {
        counts.map(|(name, n)| (name.to_owned(), n)).into()
    };
    let all = [("a", 37), ("b", 30), ("c", 15), ("d", 30), ("e", 5)];
    assert_eq!(by_source(whole_out.path()), counts(all));
    // A tenth: 3.7, 4.5 of which 1.5 are c's own, and 3; what is measured on stays whole.
    let (tenth, out) = built(root.path(), section(0.1));
    let some = [("a", 4), ("b", 3), ("c", 2), ("d", 3), ("e", 5)];
    assert_eq!(by_source(out.path()), counts(some));
    let a = &tenth.report.sources[0];
    assert_eq!((a.quota, a.over_quota, a.short_of), (Some(4), 46, 0));
    assert_eq!(whole.report.total.train, 112);
    // The smaller set is part of the larger one.
    let ids = |folder: &Path| -> BTreeSet<String> {
        let rows = lines(folder, "train.jsonl");
        rows.iter()
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(ids(out.path()).is_subset(&ids(whole_out.path())));
    let card = std::fs::read_to_string(out.path().join("DATACARD.md")).unwrap();
    assert!(card.contains("A sample: 0.1 of every quota."), "{card}");
}

#[test]
fn what_a_source_is_short_of_is_said() {
    let root = folder([("a.jsonl", rows(0, 5).as_bytes())]);
    let section = json!({
        "group": [{"name": "chat", "quota": 25}],
        "source": [source("a", "a.jsonl", json!({"quota": 8, "expected_records": 9, "licence": "MIT", "citation": "Doe 2020"})),
            source("again", "a.jsonl", json!({"group": "chat", "kind": "QA"}))],
    });
    let (built, out) = built(root.path(), section);
    assert_eq!(built.report.sources[0].short_of, 3);
    assert_eq!(built.report.short_groups[0].available, 5);
    let card = std::fs::read_to_string(out.path().join("DATACARD.md")).unwrap();
    for expected in [
        "- a: 3 samples fewer than its quota; there were no more after cleaning.",
        "- group chat: 5 of 25 samples.",
        "- a: 5 records were read; its publisher's files have 9.",
        "- a: Doe 2020",
        "| a | unstated | 5 | 50.0 % | not counted | 8 | open | MIT |",
    ] {
        assert!(card.contains(expected), "{expected}\n{card}");
    }
}

#[test]
fn records_are_chosen_by_condition_and_required_fields() {
    let rows = rows(0, 10) + &json!({"question": "no answer to this one", "answer": "x", "kind": "even", "patient": ""}).to_string();
    let root = folder([("a.jsonl", rows.as_bytes())]);
    let section = json!({"source": [source("a", "a.jsonl", json!({"where": "kind == 'even'", "require": ["patient"]}))]});
    let (built, out) = built(root.path(), section);
    let a = &built.report.sources[0];
    assert_eq!((a.read, a.not_selected, a.train), (11, 5, 5));
    assert_eq!(
        lines(out.path(), "dropped.jsonl"),
        [json!({"id": "a/11", "reason": "without patient"})]
    );
}

#[test]
fn one_row_may_serve_several_tasks() {
    let root = folder([("a.jsonl", rows(0, 10).as_bytes())]);
    let other = json!({"task": {"prompt": "Which question has this answer?\n{{ answer }}", "answer": "{{ question }}"}});
    let section = json!({"validation_fraction": 0.5, "source": [source("a", "a.jsonl", json!({})), source("b", "a.jsonl", other)]});
    let (built, out) = built(root.path(), section);
    assert_eq!(built.report.total.train + built.report.total.validation, 20);
    let side = |name| -> BTreeSet<u64> {
        lines(out.path(), name)
            .iter()
            .map(|line| line["provenance"]["record"].as_u64().unwrap())
            .collect()
    };
    assert!(
        side("train.jsonl").is_disjoint(&side("validation.jsonl")),
        "a row is on one side, whatever is made of it"
    );
}

#[test]
fn a_patient_is_on_one_side_of_the_split() {
    let root = folder([
        ("a.jsonl", rows(0, 60).as_bytes()),
        ("b.jsonl", rows(3, 6).as_bytes()),
    ]);
    let patient = json!({"split_group": "patient {{ patient }}"});
    let section =
        json!({"validation_fraction": 0.2, "source": [source("a", "a.jsonl", patient.clone())]});
    let (built, out) = built(root.path(), section);
    assert_eq!(
        (built.report.total.train, built.report.total.validation),
        (48, 12)
    );
    let patients = |name| -> BTreeSet<u64> {
        let rows = lines(out.path(), name);
        rows.iter()
            .map(|line| (line["provenance"]["record"].as_u64().unwrap() - 1) / 3)
            .collect()
    };
    assert_eq!(patients("validation.jsonl").len(), 4);
    assert!(patients("train.jsonl").is_disjoint(&patients("validation.jsonl")));

    // Other rows of the same patients, so not duplicates.
    let other = text(77, 30);
    let more = json!({"question": other, "answer": text(78, 30), "patient": 1}).to_string();
    let root = folder([
        ("a.jsonl", rows(0, 60).as_bytes()),
        ("b.jsonl", more.as_bytes()),
    ]);
    let section = json!({"source": [source("a", "a.jsonl", patient.clone())], "validation": [source("b", "b.jsonl", patient)]});
    let (failed, _) = build_in(root.path(), section, &BuildOptions::default());
    assert_snapshot!(shown(&failed.unwrap_err()), @"
    patients or documents in both training (source a) and validation (source b): 1
    hint: leave them out of one side with `where`, or use validation_fraction, which keeps split groups together
    ");
}

#[test]
fn evaluation_items_are_not_trained_on() {
    let root = folder([("a.jsonl", rows(0, 30).as_bytes())]);
    let probe = |i: u64| Probe {
        task: "exam".into(),
        item_id: i.to_string(),
        text: text(i, 30),
        options: Vec::new(),
    };
    let options = BuildOptions {
        probes: vec![probe(3), probe(17), probe(5_000)],
        ..BuildOptions::default()
    };
    let (built, out) = build_in(
        root.path(),
        json!({"source": [source("a", "a.jsonl", json!({}))]}),
        &options,
    );
    let built = built.unwrap();
    assert_eq!(built.report.sources[0].dropped["evaluation item"], 2);
    assert_eq!(built.report.decontaminated["exam"], 3);
    assert_eq!(
        lines(out.path(), "dropped.jsonl"),
        [
            json!({"id": "a/4", "reason": "evaluation item", "items": [["exam/3", 30]]}),
            json!({"id": "a/18", "reason": "evaluation item", "items": [["exam/17", 30]]}),
        ]
    );
}

#[test]
fn what_may_identify_a_patient_is_blocked_or_redacted() {
    let note = |name: &str| {
        json!({"question": format!("Mr. {name} Whitfield, MRN: 4471023, was seen on 03/14/2019."), "answer": text(1, 20)}).to_string()
    };
    let root = folder([("n.jsonl", (note("Alan") + "\n" + &rows(0, 3)).as_bytes())]);
    let with = |more: Value| json!({"source": [source("n", "n.jsonl", more)]});
    let (failed, _) = build_in(
        root.path(),
        with(json!({"access": "credentialed"})),
        &BuildOptions::default(),
    );
    assert_snapshot!(shown(&failed.unwrap_err()), @r#"
    source n: records that hold what may identify a patient: 1 (name 1, date 1, mrn 1), such as n/1
    hint: look at those records; then set phi = "redact" for the source, or phi = "allow" if you may use them as they are
    "#);
    let (built, out) = built(
        root.path(),
        with(json!({"access": "credentialed", "phi": "redact"})),
    );
    let first = &lines(out.path(), "train.jsonl")[0];
    let question = first["messages"][0]["content"].as_str().unwrap();
    assert!(
        !question.contains("Whitfield")
            && !question.contains("4471023")
            && !question.contains("2019"),
        "{question}"
    );
    assert!(
        first["provenance"]["transforms"].as_array().unwrap().len() >= 3,
        "{first}"
    );
    assert!(built.report.sources[0].phi_found.len() >= 3);
    let (allowed, _) = build_in(
        root.path(),
        with(json!({"access": "credentialed", "phi": "allow"})),
        &BuildOptions::default(),
    );
    assert!(allowed.unwrap().report.sources[0].phi_found.is_empty());
}

#[test]
fn missing_sources_are_named_all_at_once() {
    let root = folder([("a.jsonl", rows(0, 5).as_bytes())]);
    let section = json!({"source": [
        source("a", "a.jsonl", json!({})),
        source("b", "b/notes.csv.gz", json!({"obtain": "PhysioNet, mimiciii 1.4, with credentials", "quota": 10})),
        source("c", "a.jsonl", json!({"tables": {"admissions": "b/ADMISSIONS.csv.gz"}})),
    ]});
    let (failed, _) = build_in(root.path(), section.clone(), &BuildOptions::default());
    assert_snapshot!(shown(&failed.unwrap_err()), @"
    sources that are missing: 2
      b: b/notes.csv.gz
        PhysioNet, mimiciii 1.4, with credentials
      c: b/ADMISSIONS.csv.gz
    hint: put the files under --data-root, or build the rest with --allow-missing
    ");
    let options = BuildOptions {
        allow_missing: true,
        ..BuildOptions::default()
    };
    let (built, _) = build_in(root.path(), section, &options);
    let report = built.unwrap().report;
    let missing: Vec<_> = report
        .sources
        .iter()
        .map(|s| (s.name.as_str(), s.missing, s.short_of))
        .collect();
    assert_eq!(missing, [("a", false, 0), ("b", true, 10), ("c", true, 0)]);
}

#[test]
fn a_file_that_is_another_one_is_named() {
    let root = folder([("a.jsonl", b"{}".as_slice())]);
    let section = json!({"source": [source("a", "a.jsonl", json!({"sha256": "00ff"}))]});
    let section: DataSection = serde_json::from_value(section).unwrap();
    assert_snapshot!(shown(&datasets::inputs(&section, root.path(), false).unwrap_err()), @"
    source a: a.jsonl has SHA-256 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, not 00ff
    hint: download it again; if its publisher has changed it, change sha256 in the recipe
    ");
}

#[test]
fn sections_that_do_not_fit_are_named() {
    let root = folder([("a.jsonl", rows(0, 5).as_bytes())]);
    let fails = |section: Value| {
        shown(
            &build_in(root.path(), section, &BuildOptions::default())
                .0
                .unwrap_err(),
        )
    };
    assert_snapshot!(fails(json!({"source": [source("a", "a.jsonl", json!({"group": "chat"}))], "group": [{"name": "chats", "quota": 3}]})), @r#"
    source a is in group "chat", which is not there
    hint: the groups are chats
    "#);
    assert_snapshot!(fails(json!({"source": [source("a", "a.jsonl", json!({"group": "chat"}))], "group": [{"name": "chat"}]})), @r#"
    group "chat" needs either a quota or a token_share
    hint: quota counts samples, token_share is in proportion to the other groups' tokens
    "#);
    assert_snapshot!(fails(json!({"source": [source("a", "a.jsonl", json!({"group": "chat"}))], "group": [{"name": "chat", "token_share": 3.0}]})), @"
    token_share mixes by tokens, and the recipe has no tokenizer
    hint: name a model with model.path, whose tokenizer counts
    ");
    assert_snapshot!(fails(json!({"source": [source("a", "a.jsonl", json!({}))], "clean": {"near_duplicates": 0.1}})), @"
    clean.near_duplicates = 0.1 is neither 0 nor between 0.3 and 1
    hint: 0.8 is usual; 0 turns it off
    ");
    assert_snapshot!(fails(json!({"source": [source("a", "a.jsonl", json!({"where": "kind =="}))]})), @"template where, line 1: syntax error: unexpected end of block");
}

#[test]
fn parquet_holds_what_jsonl_holds() {
    let root = folder([("a.jsonl", rows(0, 5).as_bytes())]);
    let options = BuildOptions {
        parquet: true,
        ..BuildOptions::default()
    };
    let (built, out) = build_in(
        root.path(),
        json!({"source": [source("a", "a.jsonl", json!({}))]}),
        &options,
    );
    built.unwrap();
    let file = std::fs::File::open(out.path().join("train.parquet")).unwrap();
    let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
    let rows: Vec<parquet::record::Row> =
        parquet::file::reader::FileReader::get_row_iter(&reader, None)
            .unwrap()
            .map(|row| row.unwrap())
            .collect();
    let lines = lines(out.path(), "train.jsonl");
    assert_eq!(rows.len(), 5);
    for (row, line) in rows.iter().zip(&lines) {
        use parquet::record::{ListAccessor, RowAccessor};
        assert_eq!(row.get_string(0).unwrap(), line["id"].as_str().unwrap());
        let messages = row.get_list(1).unwrap();
        assert_eq!(messages.len(), 2);
        for i in 0..2 {
            let message = messages.get_group(i).unwrap();
            assert_eq!(
                message.get_string(0).unwrap(),
                line["messages"][i]["role"].as_str().unwrap()
            );
            assert_eq!(
                message.get_string(1).unwrap(),
                line["messages"][i]["content"].as_str().unwrap()
            );
        }
        assert_eq!(
            row.get_long(4).unwrap(),
            line["provenance"]["record"].as_i64().unwrap()
        );
        assert_eq!(row.get_string(6).unwrap(), "open");
    }
}

#[test]
fn a_task_can_make_documents() {
    let root = folder([("a.jsonl", rows(0, 5).as_bytes())]);
    let task = |task: Value| json!({"source": [source("a", "a.jsonl", json!({"task": task}))]});
    let (_, out) = built(
        root.path(),
        task(json!({"document": "{{ question }}\n\n{{ answer }}"})),
    );
    let first = &lines(out.path(), "train.jsonl")[0];
    assert_eq!(
        first["text"],
        format!("{}\n\n{}", text(0, 30), text(1_000_000, 20))
    );
    let (failed, _) = build_in(
        root.path(),
        task(json!({"document": "{{ question }}", "prompt": "x", "answer": "y"})),
        &BuildOptions::default(),
    );
    assert_snapshot!(shown(&failed.unwrap_err()), @"
    a task needs `prompt` and `answer`, or `document` alone
    hint: prompt and answer make a conversation to tune on, document a text to pre-train on
    ");
}

#[test]
fn a_bad_record_is_left_out_where_the_source_says_so() {
    let chat = |from: &str| json!({"conversations": [{"from": "human", "value": text(1, 9)}, {"from": from, "value": text(2, 9)}]});
    let lines = [
        chat("gpt").to_string(),
        chat("weather").to_string(),
        "{\"conversations\": 3}".into(),
        "{\"conversations\": [".into(),
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}]})
            .to_string(),
    ];
    let root = folder([("chat.jsonl", lines.join("\n").as_bytes())]);
    let source =
        json!({"name": "c", "format": "sharegpt", "path": "chat.jsonl", "on_bad_record": "drop"});
    let (built, out) = built(root.path(), json!({"source": [source]}));
    assert_eq!(
        (built.report.sources[0].read, built.report.total.train),
        (5, 1)
    );
    let dropped = std::fs::read_to_string(out.path().join("dropped.jsonl")).unwrap();
    assert_snapshot!(dropped, @r#"
    {"id":"c/2","reason":"not as its format says"}
    {"id":"c/3","reason":"not as its format says"}
    {"id":"c at chat.jsonl:4","reason":"unreadable"}
    {"id":"c/5","reason":"empty answer"}
    "#);
}

#[test]
fn groups_are_mixed_by_tokens() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/quickstart/base");
    let tokenizer = datasets::Tokenizer::from_folder(&base).unwrap();
    let template = datasets::Template::MeLlama { eos: String::new() };
    let root = folder([
        ("bio.jsonl", rows(0, 400).as_bytes()),
        ("notes.jsonl", rows(1_000, 100).as_bytes()),
        ("web.jsonl", rows(2_000, 200).as_bytes()),
    ]);
    let group = |name: &str, share: f64| json!({"name": name, "token_share": share});
    let document = |name: &str| {
        let task = json!({"document": "{{ question }} {{ answer }}"});
        source(
            name,
            &format!("{name}.jsonl"),
            json!({"group": name, "task": task}),
        )
    };
    let section: DataSection = serde_json::from_value(json!({
        "group": [group("bio", 15.0), group("notes", 1.0), group("web", 4.0)],
        "source": [document("bio"), document("notes"), document("web")],
    }))
    .unwrap();
    let options = BuildOptions {
        counter: Some(datasets::Counter::new(&section, &tokenizer, &template)),
        ..BuildOptions::default()
    };
    let out = tempfile::tempdir().unwrap();
    let built = build(&section, root.path(), out.path(), &options).unwrap();
    let tokens: Vec<f64> = built
        .report
        .sources
        .iter()
        .map(|s| s.tokens as f64)
        .collect();
    // The first group runs out first: all of it is taken.
    assert_eq!(built.report.sources[0].train, 400);
    for (tokens, share) in tokens.iter().zip([15.0, 1.0, 4.0]) {
        let wanted = built.report.total.tokens as f64 * share / 20.0;
        assert!((tokens - wanted).abs() < 150.0, "{tokens} of {wanted}");
    }
}

#[test]
fn a_source_of_bad_records_alone_says_what_is_wrong_with_them() {
    let root = folder([("a.jsonl", b"[1]\n3\n".as_slice()), ("empty.jsonl", b"")]);
    let drop = json!({"on_bad_record": "drop"});
    let fails = |path: &str| {
        let section = json!({"source": [source("a", path, drop.clone())]});
        shown(
            &build_in(root.path(), section, &BuildOptions::default())
                .0
                .unwrap_err(),
        )
    };
    assert_snapshot!(fails("a.jsonl"), @r#"
    a.jsonl:1 (record 1): expected a record (a JSON object), found a number
    hint: a record is written as {"field": ...}
    "#);
    assert_snapshot!(fails("empty.jsonl"), @"
    source a: no records in empty.jsonl
    hint: check the path, the split and the limit
    ");
}
