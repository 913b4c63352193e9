use eval::{Report, run_perplexity};

use crate::scripted::{SETTINGS, Scripted, ask, folder, open, questions, yes_no};

const GENERATE: &str = "answering = [\"generate\"]\nmetrics = [\"accuracy\", \"macro_f1\"]";

/// A base that always says yes or rambles, and a tuned model that is right but for one.
fn report(access: &str) -> Report {
    let task = yes_no(GENERATE).replace(
        "[source.task]",
        &format!("access = \"{access}\"\n[source.task]"),
    );
    let (task, items) = open(&folder(&task, &questions())).unwrap();
    let base = |prompt: &str| match prompt {
        p if p.contains("11") => "Unclear.".to_owned(),
        _ => "yes".to_owned(),
    };
    let tuned = |prompt: &str| match prompt {
        p if p.contains("Question 3") => "maybe".to_owned(),
        p if p.contains("yes") => "yes".to_owned(),
        _ => "no".to_owned(),
    };
    let mut report = Report::new(SETTINGS.bootstrap);
    let samples = [datasets::Tokenized {
        id: "1".into(),
        sample: 0,
        input_ids: vec![1; 3],
        loss_mask: vec![false, true, true],
    }];
    for (label, write) in [("base", base as fn(&str) -> String), ("tuned", tuned)] {
        let mut model = Scripted {
            write,
            ..Scripted::default()
        };
        report.add_task(label, ask(&task, &items, &mut model, &SETTINGS));
        let perplexity = run_perplexity("validation", &samples, &mut model, &SETTINGS, &mut |_| {});
        report.add_perplexity(label, perplexity.unwrap());
    }
    report
}

#[test]
fn the_table_shows_before_after_and_change() {
    insta::assert_snapshot!(report("open").table(), @"
    task        metric      items  base                  tuned                 change
    questions   accuracy    12     0.500 [0.250, 0.750]  0.917 [0.750, 1.000]  +0.417 [+0.081, +0.750]
                macro_f1           0.353 [0.214, 0.455]  0.636 [0.555, 1.000]  +0.283 [+0.169, +0.786]
                no answer          8.3 %                 0.0 %                 -8.3 %
    validation  perplexity  1      2.000                 2.000                 +0.000
    ");
}

#[test]
fn metrics_have_dotted_names() {
    let lines: Vec<String> = report("open")
        .metrics()
        .into_iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    base.questions.accuracy 0.5000
    base.questions.items 12.0000
    base.questions.macro_f1 0.3529
    base.questions.unanswered 0.0000
    base.questions.unextracted 0.0833
    base.validation.perplexity 2.0000
    change.questions.accuracy 0.4167
    change.questions.items 0.0000
    change.questions.macro_f1 0.2834
    change.questions.unanswered 0.0000
    change.questions.unextracted -0.0833
    change.validation.perplexity 0.0000
    tuned.questions.accuracy 0.9167
    tuned.questions.items 12.0000
    tuned.questions.macro_f1 0.6364
    tuned.questions.unanswered 0.0000
    tuned.questions.unextracted 0.0000
    tuned.validation.perplexity 2.0000
    ");
}

#[test]
fn json_has_every_item() {
    let json = report("open").json(false);
    let task = &json["models"][1]["tasks"][0];
    insta::assert_snapshot!(serde_json::to_string_pretty(&task["items"][3]).unwrap(), @r#"
    {
      "id": "items/4",
      "prompt_sha256": "3889d64a4e3c9d9117246ad56ad7c1a20ef5ad7d2935e208cc61b8deec68b107",
      "score": 0.0,
      "gold_option": 0,
      "picked_option": 2,
      "correct": false,
      "gold": "yes",
      "answer": "maybe",
      "extracted": "maybe"
    }
    "#);
    assert_eq!(task["items"].as_array().unwrap().len(), 12);
    insta::assert_snapshot!(serde_json::to_string_pretty(&task["scores"][0]).unwrap(), @r#"
    {
      "metric": "accuracy",
      "family": "corrected",
      "value": 0.9166666666666666,
      "interval": [
        0.75,
        1.0
      ],
      "change": {
        "value": 0.41666666666666663,
        "interval": [
          0.08125000000000027,
          0.75
        ]
      }
    }
    "#);
}

#[test]
fn texts_that_are_not_open_stay_out_of_json() {
    let report = report("credentialed");
    assert_eq!(report.access(), ledger::AccessClass::Credentialed);
    let json = report.json(false);
    assert!(!json.to_string().contains("yes"), "{json}");
    let item = &json["models"][1]["tasks"][0]["items"][0];
    assert_eq!(
        (&item["gold_option"], &item["picked_option"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        report.json(true)["models"][1]["tasks"][0]["items"][0]["answer"],
        "yes"
    );
}

#[test]
fn one_model_has_no_change() {
    let (task, items) = open(&folder(&yes_no(GENERATE), &questions())).unwrap();
    let mut report = Report::new(SETTINGS.bootstrap);
    report.add_task(
        "tuned",
        ask(&task, &items, &mut Scripted::default(), &SETTINGS),
    );
    assert!(!report.table().contains("change"));
    assert!(
        report
            .metrics()
            .keys()
            .all(|name| name.starts_with("tuned.questions."))
    );
}

#[test]
fn changes_on_other_items_have_no_interval() {
    let mut report = Report::new(SETTINGS.bootstrap);
    for (label, lines) in [("base", 12), ("tuned", 8)] {
        let records: String = questions()
            .lines()
            .take(lines)
            .map(|line| format!("{line}\n"))
            .collect();
        let (task, items) = open(&folder(&yes_no(GENERATE), &records)).unwrap();
        report.add_task(
            label,
            ask(&task, &items, &mut Scripted::default(), &SETTINGS),
        );
    }
    let change = &report.json(false)["models"][1]["tasks"][0]["scores"][0]["change"];
    assert_eq!(change["interval"], serde_json::Value::Null);
    assert_eq!(change["value"], 0.25);
}

/// Others' scores stand beside those of all items of the set, and of nothing less.
#[test]
fn published_scores_stand_beside_the_whole_set() {
    let set = "[published]\ndataset = \"HoC\"\nsplit = \"test\"\nitems = 12\n[source]";
    let lines = "answering = [\"generate\"]\nmetrics = [\"multi_label_f1\"]";
    let task = yes_no(lines).replace("[source]", set);
    let (task, items) = open(&folder(&task, &questions())).unwrap();
    let score = |items: &[eval::Item]| {
        let mut report = Report::new(SETTINGS.bootstrap);
        let result = ask(&task, items, &mut Scripted::default(), &SETTINGS);
        report.add_task("base", result);
        report.json(false)["models"][0]["tasks"][0]["scores"][0].clone()
    };
    let all = score(&items);
    let theirs = &all["published"][3];
    assert_eq!(theirs["model"], "Me-LLaMA-13B-chat");
    assert_eq!(theirs["value"], 0.335);
    assert!(theirs["source"].as_str().unwrap().contains("table 3"));
    assert!(score(&items[..11])["published"].is_null());
}
