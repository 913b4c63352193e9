//! Scores without the items that a build found in its sources.

use datasets::clean::Probe;
use datasets::recipe::DataSection;
use eval::{FlaggedItems, Report};

use crate::scripted::{SETTINGS, Scripted, ask, folder, open, questions, yes_no};

const LINES: &str = "answering = [\"generate\"]\nmetrics = [\"accuracy\", \"macro_f1\"]";

/// Says yes to all.
fn result() -> eval::TaskResult {
    let (task, items) = open(&folder(&yes_no(LINES), &questions())).unwrap();
    ask(&task, &items, &mut Scripted::default(), &SETTINGS)
}

#[test]
fn flagged_items_are_left_out_of_a_second_score() {
    let result = result();
    assert_eq!(result.scores[0].value, 0.5);
    let scores = |family: &str, flagged: &FlaggedItems| {
        let mut result = result.clone();
        flagged.mark(family, &mut result);
        let count = result.items.iter().filter(|item| item.flagged).count();
        let mut report = Report::new(SETTINGS.bootstrap);
        report.add_task("base", result);
        let scores = report.file(false).models.remove(0).tasks.remove(0).scores;
        let unflagged: Vec<_> = scores.iter().map(|score| score.unflagged).collect();
        (count, unflagged)
    };
    let of_all = FlaggedItems::of([
        ("questions", "items/7"),
        ("questions", "items/8"),
        ("questions", "items/9"),
        ("questions", "items/99"),
        ("others", "items/1"),
    ]);
    let (count, clean) = scores("questions", &of_all);
    let (accuracy, macro_f1) = (clean[0].unwrap(), clean[1].unwrap());
    assert_eq!((accuracy.items, count), (9, 3));
    assert_eq!(accuracy.value, 6.0 / 9.0);
    // yes: 2 * 6 / (2 * 6 + 3), no: 0.
    assert!((macro_f1.value - 0.4).abs() < 1e-12);
    // As if only those had been asked.
    let (task, mut items) = open(&folder(&yes_no(LINES), &questions())).unwrap();
    items.retain(|item| !["items/7", "items/8", "items/9"].contains(&item.id.as_str()));
    let alone = ask(&task, &items, &mut Scripted::default(), &SETTINGS);
    assert_eq!(accuracy.interval, alone.scores[0].interval);
    assert_eq!(scores("quest", &of_all), (0, vec![None, None]));
    assert!(FlaggedItems::default().is_empty());

    let ids: Vec<String> = (1..=12).map(|i| format!("items/{i}")).collect();
    let every = FlaggedItems::of(ids.iter().map(|id| ("questions", id.as_str())));
    assert_eq!(scores("questions", &every), (12, vec![None, None]));
}

#[test]
fn json_has_both_scores() {
    let mut result = result();
    FlaggedItems::of([("questions", "items/12")]).mark("questions", &mut result);
    let mut report = Report::new(SETTINGS.bootstrap);
    report.add_task("base", result);
    let task = &report.json(false)["models"][0]["tasks"][0];
    let clean = &task["scores"][0]["unflagged"];
    assert_eq!(
        (&clean["items"], &clean["value"]),
        (&11.into(), &(6.0 / 11.0).into())
    );
    assert_eq!(task["items"][11]["flagged"], true);
    assert!(task["items"][10].get("flagged").is_none());
    assert_eq!(
        report.metrics()["base.questions.accuracy_unflagged"],
        6.0 / 11.0
    );
}

#[test]
fn a_builds_list_is_read() {
    let item = "does the new anticoagulant prevent strokes in elderly patients who fell more than twice last winter";
    let place = tempfile::tempdir().unwrap();
    let train = format!(
        "{{\"instruction\": \"Yes or no: {item}?\", \"input\": \"\", \"output\": \"yes\"}}\n\
         {{\"instruction\": \"What is a stroke?\", \"input\": \"\", \"output\": \"An infarct\"}}\n\
         {{\"instruction\": \"What is a stroke?\", \"input\": \"\", \"output\": \"An infarct\"}}\n"
    );
    std::fs::write(place.path().join("train.jsonl"), train).unwrap();
    let section: DataSection = serde_json::from_value(serde_json::json!({
        "source": [{"name": "train", "format": "alpaca", "path": "train.jsonl"}],
    }))
    .unwrap();
    let out = place.path().join("data");
    std::fs::create_dir(&out).unwrap();
    let options = datasets::BuildOptions {
        name: "test",
        seed: 1,
        probes: vec![Probe {
            task: "questions".into(),
            item_id: "items/3".into(),
            text: item.into(),
            options: Vec::new(),
        }],
        counter: None,
        allow_missing: false,
        parquet: false,
    };
    datasets::build(&section, place.path(), &out, &options).unwrap();
    let flagged = FlaggedItems::read(&out.join(datasets::DROPPED_FILE)).unwrap();
    assert_eq!(flagged, FlaggedItems::of([("questions", "items/3")]));
}

#[test]
fn lists_that_are_none_are_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("dropped.jsonl");
    let fails = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        let error = FlaggedItems::read(&path).unwrap_err();
        let text = format!("{error}\nhint: {}", error.hint().unwrap());
        text.replace(&format!("{}/", place.path().display()), "")
    };
    insta::assert_snapshot!(fails(b"{\"id\": \"a\"}\n{\"items\": [\"patient Smith\"]}\n"), @"
    `dropped.jsonl`, line 2: column 26 is not as a build writes it
    hint: it is the `dropped.jsonl` of a run's `data/`; build the data again
    ");
    insta::assert_snapshot!(fails(b"{\"id\": \"a\", "), @"
    `dropped.jsonl`, line 1: column 12 is not as a build writes it
    hint: it is the `dropped.jsonl` of a run's `data/`; build the data again
    ");
    insta::assert_snapshot!(fails(b"\xff\xfe"), @"
    `dropped.jsonl`, line 1: column 1 is not as a build writes it
    hint: it is the `dropped.jsonl` of a run's `data/`; build the data again
    ");
    std::fs::remove_file(&path).unwrap();
    let missing = FlaggedItems::read(&path).unwrap_err().to_string();
    assert!(missing.contains("dropped.jsonl`, line 0: "), "{missing}");
}
