use eval::report::html::{Page, evaluation_sections};
use eval::report::{FORGETTING, Published, RunReport, compare_runs};
use eval::{Bootstrap, Report, ReportFile, TaskNotes, run_perplexity};

use crate::scripted::{SETTINGS, Scripted, ask, folder, open, questions, yes_no};

const GENERATE: &str = "answering = [\"generate\"]\nmetrics = [\"accuracy\", \"macro_f1\"]";

/// A base that always says yes or rambles, and a tuned model that is right but for one.
pub(crate) fn report(access: &str) -> Report {
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
                  base   tuned                 change
    questions (12 items, generate, zero-shot)
      accuracy    0.500  0.917 [0.750, 1.000]  +0.417 [+0.081, +0.750]
      macro_f1    0.353  0.636 [0.555, 1.000]  +0.283 [+0.169, +0.786]
      no answer   8.3 %  0.0 %
    validation (1 held out)
      perplexity  2.000  2.000                 +0.000
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
    let mut score = task["scores"][0].clone();
    let marks = score.as_object_mut().unwrap().remove("marks").unwrap();
    assert_eq!(marks["classes"], serde_json::json!([""]));
    assert_eq!(marks["items"][3], serde_json::json!([[0, 0.0, 1.0, 0.0]]));
    insta::assert_snapshot!(score, @r#"{"metric":"accuracy","family":"corrected","value":0.9166666666666666,"interval":[0.75,1.0],"change":{"value":0.41666666666666663,"interval":[0.08125000000000027,0.75],"p":0.03980099502487562}}"#);
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
    let task = &report.json(false)["models"][1]["tasks"][0];
    let change = &task["scores"][0]["change"];
    assert_eq!(change["interval"], serde_json::Value::Null);
    assert_eq!(change["value"], 0.25);
    assert!(task.get("change").is_none(), "{task}");
}

#[test]
fn what_a_report_knows_of_items_comes_out_in_their_pairs() {
    let file = report("open").file(false);
    let task = &file.models[1].tasks[0];
    let change = task.change.as_ref().unwrap();
    let test = change.mcnemar.unwrap();
    assert_eq!((test.only_before, test.only_after), (1, 6));
    assert!(test.exact && change.p == Some(0.125) && change.p_holm == Some(0.125));
    assert_eq!(change.worse, ["items/4"]);
    assert_eq!(change.better.len(), 6);
    assert!(!change.prompts_differ);
    let paired = task.scores[1].change.unwrap();
    assert!(paired.p.unwrap() > 0.0 && paired.p.unwrap() <= 1.0);
}

#[test]
fn a_report_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let file = report("credentialed").file(false);
    std::fs::write(&path, file.text()).unwrap();
    let back = ReportFile::read(&path).unwrap();
    assert_eq!(back, file);
    assert_eq!(back.table(), report("credentialed").table());
    // An item is a line.
    let of_item = |line: &&str| line.trim_start().starts_with("{\"id\":");
    assert_eq!(file.text().lines().filter(of_item).count(), 24);
    for (name, text) in [
        ("cut", file.text()[..500].to_owned()),
        ("marks", file.text().replacen("[[[0,1.0,1.0,0.0]],", "[", 1)),
        (
            "class",
            file.text()
                .replacen("[[[0,1.0,1.0,0.0]],", "[[[9,1.0,1.0,0.0]],", 1),
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = ReportFile::read(&path).unwrap_err();
        let place = folder.path().to_str().unwrap();
        let shown = format!("{error}\nhint: {}", error.hint().unwrap()).replace(place, "run/eval");
        assert!(
            shown
                .starts_with("`run/eval/report.json` is not a report that this version can read: "),
            "{shown}"
        );
        match name {
            "cut" => assert!(shown.contains("EOF"), "{shown}"),
            "marks" => insta::assert_snapshot!(shown, @"
            `run/eval/report.json` is not a report that this version can read: task `questions`, metric `accuracy`: 11 marks for 12 items
            hint: evaluate again: remove the run's `eval` folder, and run its recipe
            "),
            _ => insta::assert_snapshot!(shown, @"
            `run/eval/report.json` is not a report that this version can read: task `questions`, metric `accuracy`: there is no class 9
            hint: evaluate again: remove the run's `eval` folder, and run its recipe
            "),
        }
    }
}

#[test]
fn texts_that_a_file_holds_are_not_shown_without_leave() {
    let revealed = report("registered").file(true);
    let page = |reveal| {
        let sections = evaluation_sections(&revealed, reveal);
        sections
            .iter()
            .map(|section| section.body.clone())
            .collect::<String>()
    };
    assert!(page(true).contains("<blockquote>maybe</blockquote>"));
    assert!(!page(false).contains("maybe"));
    assert!(!revealed.clone().without_texts().text().contains("maybe"));
    // What stands in the task's file is no record's text.
    let mut described = report("registered");
    let labels = ["yes", "no", "maybe"].map(String::from).to_vec();
    described.describe(
        "questions",
        TaskNotes {
            labels,
            ..TaskNotes::default()
        },
    );
    let sections = evaluation_sections(&described.file(false), false);
    let classes = sections
        .iter()
        .find(|section| section.id == "classes")
        .unwrap();
    assert!(
        classes.body.contains("<th scope=\"row\">maybe</th>"),
        "{}",
        classes.body
    );
}

/// A report in which every name is out to break a page.
fn hostile() -> ReportFile {
    let evil = "<script>alert(1)</script>\"'&|\u{1b}[31m";
    let mut report = report("open");
    report.describe(
        "questions",
        TaskNotes {
            labels: vec!["yes".into(), evil.into(), "maybe".into()],
            shots: 3,
            tags: vec![FORGETTING.into(), evil.into()],
            chose_checkpoint: Some(evil.into()),
            published: vec![Published {
                model: evil.into(),
                metric: "accuracy".into(),
                value: 0.7,
                source: evil.into(),
            }],
            flagged: vec!["items/1".into(), "items/3".into()],
        },
    );
    let mut file = report.file(false);
    for model in &mut file.models {
        model.label = format!("{} {evil}", model.label);
        for task in &mut model.tasks {
            task.task = format!("{} {evil}", task.task);
            task.answering = evil.into();
            for item in &mut task.items {
                item.id = format!("{} {evil}", item.id);
                item.answer = Some(evil.into());
                item.gold = Some(evil.into());
            }
            for score in &mut task.scores {
                score.metric = format!("{} {evil}", score.metric);
            }
            let change = task.change.iter_mut();
            change.for_each(|change| change.better = vec![evil.into()]);
        }
        for set in &mut model.perplexity {
            set.name = evil.into();
        }
    }
    file
}

#[test]
fn no_name_is_markup() {
    let file = hostile();
    let page = Page {
        title: "run <b>".into(),
        lead: String::new(),
        sections: evaluation_sections(&file, true),
    };
    let html = page.html();
    assert!(
        !html.contains("<script") && !html.contains('\u{1b}'),
        "{html}"
    );
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;|"));
    for outside in ["http:", "https:", "url(", "@import", "src="] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!file.table().contains('\u{1b}'));
    assert!(!file.markdown().contains("<script") && file.markdown().contains("\\|"));
    assert_eq!(
        html,
        Page {
            title: "run <b>".into(),
            lead: String::new(),
            sections: evaluation_sections(&hostile(), true)
        }
        .html()
    );
}

#[test]
fn notes_show_where_they_belong() {
    let mut report = report("open");
    report.describe(
        "questions",
        TaskNotes {
            shots: 5,
            tags: vec![FORGETTING.into()],
            published: vec![Published {
                model: "Me-LLaMA 13B-chat".into(),
                metric: "accuracy".into(),
                value: 0.7,
                source: "npj Digit Med 8:141, table 3".into(),
            }],
            flagged: vec!["items/1".into(), "items/4".into()],
            ..TaskNotes::default()
        },
    );
    insta::assert_snapshot!(report.table(), @"
                              base   tuned                 change
    forgetting
    questions (12 items, generate, 5 shots)
      accuracy                0.500  0.917 [0.750, 1.000]  +0.417 [+0.081, +0.750]
        not in training data  0.400  1.000
      macro_f1                0.353  0.636 [0.555, 1.000]  +0.283 [+0.169, +0.786]
        not in training data  0.308  1.000
      no answer               8.3 %  0.0 %
      published, not measured here: accuracy 0.700
        Me-LLaMA 13B-chat, npj Digit Med 8:141, table 3
    validation (1 held out)
      perplexity              2.000  2.000                 +0.000
    ");
    insta::assert_snapshot!(report.file(false).markdown(), @"
    ## Forgetting

    | task | metric | items | shots | base | tuned | change | p |
    |---|---|---:|---:|---|---|---|---:|
    | questions | accuracy | 12 | 5 | 0.500 [0.250, 0.750] | 0.917 [0.750, 1.000] | +0.417 [+0.081, +0.750] | 0.125 |
    |  | macro_f1 |  |  | 0.353 [0.214, 0.455] | 0.636 [0.555, 1.000] | +0.283 [+0.169, +0.786] |  |
    |  | no answer |  |  | 8.3 % | 0.0 % |  |  |

    ## Perplexity

    | set | base | tuned |
    |---|---:|---:|
    | validation | 2.000 | 2.000 |

    ## Published by others, not measured here

    | task | metric | model | score | source |
    |---|---|---|---:|---|
    | questions | accuracy | Me-LLaMA 13B-chat | 0.700 | npj Digit Med 8:141, table 3 |

    Intervals: 95 %, 200 bootstrap resamples, seed 1; those of changes are paired by item. p: McNemar's test where the first metric is right or wrong, else the paired bootstrap; Holm's adjustment over the tasks.
    ");
    assert_eq!(report.metrics()["tuned.questions.accuracy_unflagged"], 1.0);
}

#[test]
fn runs_are_put_side_by_side_by_their_last_models() {
    let run = |name: &str| RunReport {
        name: name.into(),
        file: report("open").file(false),
    };
    let mut third = run("rank-32");
    third.file.models[1].tasks[0].version = 9;
    let file = compare_runs(&[run("rank-8"), run("rank-16"), third]).unwrap();
    insta::assert_snapshot!(file.table(), @"
                  rank-8  rank-16  change  rank-32  change
    questions (12 items, generate, zero-shot)
      accuracy    0.917   0.917    +0.000  0.917    -
      macro_f1    0.636   0.636    +0.000  0.636    -
      no answer   0.0 %   0.0 %            0.0 %
    validation (1 held out)
      perplexity  2.000   2.000    +0.000  2.000    +0.000
    ");
    let mut other = run("other");
    for model in &mut other.file.models {
        model.tasks[0].task = "another".into();
        model.perplexity.clear();
    }
    let error = compare_runs(&[run("rank-8"), other]).unwrap_err();
    insta::assert_snapshot!(format!("{error}\nhint: {}", error.hint().unwrap()), @"
    `rank-8` and `other` have no task and metric in common
    hint: compare runs whose recipes name a common task in `eval.tasks`
    ");
}

#[test]
fn scores_on_the_items_that_chose_the_checkpoint_are_marked() {
    let mut report = report("open");
    let plain = report.file(false);
    let notes = TaskNotes {
        chose_checkpoint: Some("questions.macro_f1".into()),
        ..TaskNotes::default()
    };
    report.describe("questions", notes);
    let chose = report.file(false);
    let line = "chose the checkpoint, by questions.macro_f1: expect less on new items";
    let table = chose.table();
    let below: Vec<&str> = table.lines().skip(1).take(2).collect();
    let about = "questions (12 items, generate, zero-shot)";
    assert_eq!(below, [about, &format!("  {line}")]);
    let markdown = chose.markdown();
    assert!(
        markdown.contains(&format!("\nquestions: {line}\n")),
        "{markdown}"
    );
    let page = evaluation_sections(&chose, false).remove(0).body;
    assert!(page.contains("badge\">chose the checkpoint<") && page.contains(line));
    assert_eq!(
        chose.value()["models"][1]["tasks"][0]["chose_checkpoint"],
        "questions.macro_f1"
    );
    assert!(!plain.table().contains("chose"));

    // Of runs side by side it may be said of one.
    let run = |name: &str, file: &ReportFile| RunReport {
        name: name.into(),
        file: file.clone(),
    };
    for runs in [["last", "best"], ["best", "last"]] {
        let runs = runs.map(|name| run(name, if name == "best" { &chose } else { &plain }));
        let table = compare_runs(&runs).unwrap().table();
        let line = "chose best's checkpoint, by questions.macro_f1: expect less on new items";
        assert_eq!(table.lines().nth(2), Some(&*format!("  {line}")), "{table}");
    }
}

#[test]
fn an_empty_report_is_no_failure() {
    let file = Report::new(Bootstrap {
        resamples: 10,
        seed: 0,
    })
    .file(false);
    assert!(file.models.is_empty() && !file.table().contains("change"));
    let sections = evaluation_sections(&file, false);
    assert!(
        sections
            .iter()
            .all(|section| section.body.contains("class=\"empty\""))
    );
}

/// Others' scores stand beside those of all items of the set, and of nothing less.
#[test]
fn published_scores_stand_beside_the_whole_set() {
    let set = "[published]\ndataset = \"HoC\"\nsplit = \"test\"\nitems = 12\n[source]";
    let lines = "answering = [\"generate\"]\nmetrics = [\"multi_label_f1\"]";
    let task = yes_no(lines).replace("[source]", set);
    let (task, items) = open(&folder(&task, &questions())).unwrap();
    let report = |items: &[eval::Item]| {
        let mut report = Report::new(SETTINGS.bootstrap);
        let result = ask(&task, items, &mut Scripted::default(), &SETTINGS);
        report.add_task("base", result);
        report.file(false)
    };
    let all = report(&items);
    let published = &all.models[0].tasks[0].published;
    let theirs = &published[3];
    assert_eq!(theirs.model, "Me-LLaMA-13B-chat");
    assert_eq!(
        (theirs.metric.as_str(), theirs.value),
        ("multi_label_f1", 0.335)
    );
    insta::assert_snapshot!(theirs.source, @"Me-LLaMA: Xie et al. 2025, npj Digital Medicine 8:141, table 3 (zero-shot, measured by the authors)");
    let line = format!(
        "published by others: {} scores, in report.html",
        published.len()
    );
    assert!(all.table().contains(&line), "{}", all.table());
    assert!(report(&items[..11]).models[0].tasks[0].published.is_empty());
}
