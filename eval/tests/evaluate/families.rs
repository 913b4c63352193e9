//! Both families of metrics, and metrics that read option scores or embeddings, from the task file
//! to the report.

use eval::report::html::evaluation_sections;
use eval::{
    Baseline, BertScorer, Embedder, Error, ModelError, Report, ReportFile, Task, TokenEmbeddings,
    run_task_with,
};

use crate::scripted::{SETTINGS, Scripted, ask, folder, open, questions, yes_no};

#[test]
fn paper_metrics_read_the_raw_text_and_corrected_ones_the_answer() {
    let lines = "answering = [\"generate\"]\n\
                 metrics = [\"accuracy\", \"paper_accuracy\", \"paper_missing\"]\n\
                 generate.max_new_tokens = 256";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    // Right for the six that say yes. For the others no answer, but "no" is a part of "known".
    let write = |prompt: &str| match prompt {
        p if p.contains("yes") => "<think>no?</think>Yes.".to_owned(),
        _ => "It is not known.".to_owned(),
    };
    let mut model = Scripted {
        write,
        ..Scripted::default()
    };
    let result = ask(&task, &items, &mut model, &SETTINGS);
    let values: Vec<f64> = result.scores.iter().map(|score| score.value).collect();
    assert_eq!(values, [0.5, 1.0, 0.0]);
    assert_eq!(result.unextracted, Some(6));

    let mut report = Report::new(SETTINGS.bootstrap);
    report.add_task("tuned", result);
    insta::assert_snapshot!(report.table(), @"
                      tuned
    questions (12 items, generate, zero-shot)
      accuracy        0.500 [0.250, 0.750]
      as the paper's scorer marks, to check published numbers:
      paper_accuracy  1.000 [1.000, 1.000]
      paper_missing   0.000 [0.000, 0.000]
      no answer       50.0 %
    ");
    let scores = &report.json(false)["models"][0]["tasks"][0]["scores"];
    assert_eq!(scores[0]["family"], "corrected");
    assert_eq!(scores[1]["family"], "paper-compatible");
}

#[test]
fn each_way_of_answering_takes_the_metrics_that_fit() {
    let lines = "answering = [\"log-likelihood\", \"generate\"]\n\
                 metrics = [\"accuracy\", \"ece_10\", \"brier\", \"token_perplexity\", \"paper_macro_f1\"]";
    let folder = folder(&yes_no(lines), &questions());
    let tasks = Task::load(&folder.path().join("task.toml"), &[]).unwrap();
    let names = |task: &Task| {
        let names: Vec<&str> = task.metrics.iter().map(|metric| metric.name).collect();
        names.join(" ")
    };
    assert_eq!(names(&tasks[0]), "accuracy ece_10 brier token_perplexity");
    assert_eq!(names(&tasks[1]), "accuracy paper_macro_f1");

    let items = tasks[0].items(folder.path()).unwrap();
    let log_prob = |_: &str, option: &str| match option.trim() {
        "yes" => 0.7f64.ln(),
        "no" => 0.2f64.ln(),
        _ => 0.1f64.ln(),
    };
    let mut model = Scripted {
        log_prob,
        ..Scripted::default()
    };
    let result = ask(&tasks[0], &items, &mut model, &SETTINGS);
    let values: Vec<f64> = result.scores.iter().map(|score| score.value).collect();
    let expected = [
        0.5,
        0.2,
        (0.3f64.powi(2)
            + 0.2f64.powi(2)
            + 0.1f64.powi(2)
            + 0.7f64.powi(2)
            + 0.8f64.powi(2)
            + 0.1f64.powi(2))
            / 2.0,
        1.0 / (0.7f64 * 0.2).sqrt(),
    ];
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-12, "{values:?}");
    }
}

#[test]
fn perplexity_needs_no_options() {
    let task = yes_no("answering = [\"log-likelihood\"]\nmetrics = [\"byte_perplexity\"]")
        .replace("options.fixed = [\"yes\", \"no\", \"maybe\"]\n", "");
    let record = "{\"question\": \"?\", \"answer\": \"no acute disease\"}";
    let (task, items) = open(&folder(&task, record)).unwrap();
    assert_eq!(items[0].options, ["no acute disease"]);
    let result = ask(&task, &items, &mut Scripted::default(), &SETTINGS);
    // The scripted model gives a nat a byte.
    assert!((result.scores[0].value - 1.0f64.exp()).abs() < 1e-12);
}

#[test]
fn a_pattern_narrows_what_the_filter_sees() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"accuracy\"]\n\
                 generate.pattern = '(?s)final answer:(.*)'";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let write = |prompt: &str| match prompt {
        p if p.contains("yes") => "Not no. Final answer: no; final answer: yes".to_owned(),
        _ => "no".to_owned(),
    };
    let mut model = Scripted {
        write,
        ..Scripted::default()
    };
    let result = ask(&task, &items, &mut model, &SETTINGS);
    assert_eq!(result.scores[0].value, 0.5);
    assert_eq!(result.unextracted, Some(6));
}

#[test]
fn marked_up_answers_always_report_what_they_altered() {
    let task = yes_no(
        "answering = [\"generate\"]\nmetrics = [\"entity_f1\"]\ngenerate.filter = \"spans\"",
    )
    .replace("options.fixed = [\"yes\", \"no\", \"maybe\"]\n", "");
    let (task, items) = open(&folder(&task, &questions())).unwrap();
    let names: Vec<&str> = task.metrics.iter().map(|metric| metric.name).collect();
    assert_eq!(names, ["entity_f1", "altered_text"]);
    let result = ask(&task, &items, &mut Scripted::default(), &SETTINGS);
    assert_eq!(result.scores[1].value, 0.5);
}

/// One token a text, whose vector tells "yes" from everything else.
struct Words;

impl Embedder for Words {
    fn name(&self) -> &str {
        "words"
    }

    fn sha256(&self) -> &str {
        "5ha256"
    }

    fn max_tokens(&self) -> usize {
        1
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError> {
        let embed = |text: &&str| TokenEmbeddings {
            ids: vec![u32::from(*text == "yes")],
            special: vec![false],
            vectors: if *text == "yes" {
                vec![3.0, 4.0]
            } else {
                vec![-4.0, 3.0]
            },
            cut_tokens: usize::from(*text == "maybe"),
        };
        Ok(texts.iter().map(embed).collect())
    }
}

#[test]
fn bert_score_is_left_out_by_name_where_there_is_no_encoder() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"accuracy\", \"bert_score\", \"bert_score_recall\"]";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let mut model = Scripted::default();
    let mut run = |bert: Option<&mut BertScorer<'_>>| {
        run_task_with(&task, &items, &mut model, bert, &SETTINGS, &mut |_| {}).unwrap()
    };
    let without = run(None);
    assert_eq!(without.scores.len(), 1);
    let names: Vec<&str> = without.not_computed.iter().map(|m| m.name).collect();
    assert_eq!(names, ["bert_score", "bert_score_recall"]);
    assert!(without.bert_score.is_none());

    let mut bert = BertScorer {
        embedder: &mut Words,
        idf: false,
        baseline: None,
    };
    let with = run(Some(&mut bert));
    assert!((with.scores[1].value - 0.5).abs() < 1e-6);
    assert!(with.not_computed.is_empty());
    let note = with.bert_score.unwrap();
    assert_eq!(note.signature, "words_no-idf");
    assert_eq!((note.cut_gold, note.cut_answers), (0, 0));
}

#[test]
fn an_item_that_only_bert_score_can_mark_needs_an_encoder_before_it_is_asked() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"bert_score\", \"accuracy\"]";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let mut model = Scripted::default();
    let error = run_task_with(&task, &items, &mut model, None, &SETTINGS, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::NoEmbedder { .. }));
    assert!(model.calls.is_empty());
}

/// A model of two columns, each marked by a BERTScore of its own, or not.
fn with_bert_score(idf: [Option<bool>; 2]) -> ReportFile {
    let metrics = "\"accuracy\", \"bert_score\", \"bert_score_precision\", \"bert_score_recall\"";
    marked_by(metrics, idf.map(|idf| Some((idf?, None))))
}

fn marked_by(metrics: &str, settings: [Option<(bool, Option<Baseline>)>; 2]) -> ReportFile {
    let lines = format!("answering = [\"generate\"]\nmetrics = [{metrics}]");
    let (task, items) = open(&folder(&yes_no(&lines), &questions())).unwrap();
    let mut report = Report::new(SETTINGS.bootstrap);
    for (label, settings) in ["base", "tuned"].into_iter().zip(settings) {
        let mut model = Scripted {
            write: |prompt| match prompt {
                p if p.contains("11") => "maybe".to_owned(),
                _ => "yes".to_owned(),
            },
            ..Scripted::default()
        };
        let mut bert = settings.map(|(idf, baseline)| BertScorer {
            embedder: Box::leak(Box::new(Words)),
            idf,
            baseline,
        });
        let bert = bert.as_mut();
        let result = run_task_with(&task, &items, &mut model, bert, &SETTINGS, &mut |_| {});
        report.add_task(label, result.unwrap());
    }
    report.file(false)
}

#[test]
fn every_report_says_how_bert_score_was_computed_or_why_not() {
    insta::assert_snapshot!(with_bert_score([Some(false), Some(false)]).table(), @"
                            base   tuned                 change
    questions (12 items, generate, zero-shot)
      accuracy              0.500  0.500 [0.250, 0.750]  +0.000 [+0.000, +0.000]
      bert_score            0.583  0.583 [0.331, 0.833]  +0.000 [+0.000, +0.000]
      bert_score_precision  0.583  0.583 [0.331, 0.833]  +0.000 [+0.000, +0.000]
      bert_score_recall     0.583  0.583 [0.331, 0.833]  +0.000 [+0.000, +0.000]
      BERTScore by words_no-idf
        base: 1 answers and 0 gold texts of 12 cut to 1 tokens
        tuned: 1 answers and 0 gold texts of 12 cut to 1 tokens
      no answer             0.0 %  0.0 %
    ");
    insta::assert_snapshot!(with_bert_score([None, None]).table(), @"
                 base   tuned                 change
    questions (12 items, generate, zero-shot)
      accuracy   0.500  0.500 [0.250, 0.750]  +0.000 [+0.000, +0.000]
      bert_score, bert_score_precision, bert_score_recall:
        not computed: no [eval.bert_score] model
      no answer  0.0 %  0.0 %
    ");
    insta::assert_snapshot!(with_bert_score([Some(false), Some(true)]).table(), @"
                            base   tuned                 change
    questions (12 items, generate, zero-shot)
      accuracy              0.500  0.500 [0.250, 0.750]  +0.000 [+0.000, +0.000]
      bert_score            0.583  0.583 [0.331, 0.833]  -
      bert_score_precision  0.583  0.583 [0.331, 0.833]  -
      bert_score_recall     0.583  0.583 [0.331, 0.833]  -
      BERTScore by different encoders or settings, not to be compared:
        base: words_no-idf, encoder 5ha256
        tuned: words_idf, encoder 5ha256
        base: 1 answers and 0 gold texts of 12 cut to 1 tokens
        tuned: 1 answers and 0 gold texts of 12 cut to 1 tokens
      no answer             0.0 %  0.0 %
    ");
    let both = with_bert_score([Some(false), Some(false)]);
    insta::assert_snapshot!(both.markdown(), @"
    ## Evaluation

    | task | metric | items | shots | base | tuned | change | p |
    |---|---|---:|---:|---|---|---|---:|
    | questions | accuracy | 12 | 0 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | +0.000 [+0.000, +0.000] | 1.000 |
    |  | bert_score |  |  | 0.583 [0.331, 0.833] | 0.583 [0.331, 0.833] | +0.000 [+0.000, +0.000] |  |
    |  | bert_score_precision |  |  | 0.583 [0.331, 0.833] | 0.583 [0.331, 0.833] | +0.000 [+0.000, +0.000] |  |
    |  | bert_score_recall |  |  | 0.583 [0.331, 0.833] | 0.583 [0.331, 0.833] | +0.000 [+0.000, +0.000] |  |
    |  | no answer |  |  | 0.0 % | 0.0 % |  |  |

    questions: BERTScore by words_no-idf  base: 1 answers and 0 gold texts of 12 cut to 1 tokens  tuned: 1 answers and 0 gold texts of 12 cut to 1 tokens

    Intervals: 95 %, 200 bootstrap resamples, seed 1; those of changes are paired by item. p: McNemar's test where the first metric is right or wrong, else the paired bootstrap; Holm's adjustment over the tasks.
    ");
    insta::assert_snapshot!(with_bert_score([None, None]).markdown(), @r#"
    ## Evaluation

    | task | metric | items | shots | base | tuned | change | p |
    |---|---|---:|---:|---|---|---|---:|
    | questions | accuracy | 12 | 0 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | +0.000 [+0.000, +0.000] | 1.000 |
    |  | no answer |  |  | 0.0 % | 0.0 % |  |  |

    questions: bert_score, bert_score_precision, bert_score_recall:  not computed: no \[eval.bert_score\] model

    Intervals: 95 %, 200 bootstrap resamples, seed 1; those of changes are paired by item. p: McNemar's test where the first metric is right or wrong, else the paired bootstrap; Holm's adjustment over the tasks.
    "#);
    let task = &both.value()["models"][1]["tasks"][0];
    insta::assert_snapshot!(task["bert_score"], @r#"{"signature":"words_no-idf","encoder_sha256":"5ha256","max_tokens":1,"cut_gold":0,"cut_answers":1}"#);
    let html = |file: &ReportFile| evaluation_sections(file, false).remove(0).body;
    let page = html(&both);
    for part in [
        "bert_score_precision",
        "bert_score_recall",
        "BERTScore by words_no-idf",
        "1 answers and 0 gold",
    ] {
        assert!(page.contains(part), "no {part}: {page}");
    }
    let without = html(&with_bert_score([None, None]));
    assert!(
        without.contains("not computed: no [eval.bert_score] model"),
        "{without}"
    );
}

#[test]
fn scores_of_another_encoder_or_of_other_settings_have_no_change() {
    let file = with_bert_score([Some(false), Some(true)]);
    let changes = |file: &ReportFile| -> Vec<String> {
        let names = file.metrics.keys();
        let changes = names.filter_map(|name| name.strip_prefix("change.questions."));
        changes.map(str::to_owned).collect()
    };
    let counts = ["items", "unanswered", "unextracted"];
    assert_eq!(changes(&file), [&["accuracy"][..], &counts].concat());
    let json = file.value();
    let scores = json["models"][1]["tasks"][0]["scores"].as_array().unwrap();
    let changed: Vec<bool> = scores.iter().map(|s| s.get("change").is_some()).collect();
    assert_eq!(changed, [true, false, false, false]);
    let markdown = file.markdown();
    let row = "|  | bert_score |  |  | 0.583 [0.331, 0.833] | 0.583 [0.331, 0.833] | - |  |";
    assert!(markdown.contains(row), "{markdown}");
    let page = evaluation_sections(&file, false).remove(0).body;
    let none = "<td class=\"n\" data-label=\"change\">–</td>";
    assert_eq!(page.matches(none).count(), 3, "{page}");

    // Nor have items come out better or worse where they are told apart by such a score.
    let first = "\"bert_score\", \"accuracy\"";
    let file = marked_by(first, [Some((false, None)), Some((true, None))]);
    assert_eq!(file.models[1].tasks[0].change, None);
    assert_eq!(changes(&file), [&["accuracy"][..], &counts].concat());
    let same = marked_by(first, [Some((true, None)), Some((true, None))]);
    assert!(same.models[1].tasks[0].change.is_some());
    assert!(changes(&same).contains(&"bert_score".to_owned()));

    // The signature does not tell one baseline from another.
    let [low, high] = [0.125, 0.25].map(|f1| Baseline {
        precision: 0.0,
        recall: -0.5,
        f1,
    });
    let by = |one, other| {
        marked_by(
            first,
            [Some((false, Some(one))), Some((false, Some(other)))],
        )
    };
    assert!(changes(&by(low, low)).contains(&"bert_score".to_owned()));
    let file = by(low, high);
    assert_eq!(changes(&file), [&["accuracy"][..], &counts].concat());
    insta::assert_snapshot!(file.table(), @"
                  base   tuned                 change
    questions (12 items, generate, zero-shot)
      bert_score  0.524  0.444 [0.108, 0.778]  -
      accuracy    0.500  0.500 [0.250, 0.750]  +0.000 [+0.000, +0.000]
      BERTScore by different encoders or settings, not to be compared:
        base: words_no-idf_rescaled, encoder 5ha256, rescaled by 0 -0.5 0.125
        tuned: words_no-idf_rescaled, encoder 5ha256, rescaled by 0 -0.5 0.25
        base: 1 answers and 0 gold texts of 12 cut to 1 tokens
        tuned: 1 answers and 0 gold texts of 12 cut to 1 tokens
      no answer   0.0 %  0.0 %
    ");
}

#[test]
fn mc2_is_the_probability_of_the_true_options() {
    let task = r#"
name = "truth"
version = 1
answering = ["log-likelihood"]
options.field = "all"
metrics = ["mc2"]
chat_template = false
[source]
name = "items"
format = "records"
path = "items.jsonl"
[source.task]
prompt = "{{ question }}"
answer = "{{ right | join('; ') }}"
"#;
    let record =
        r#"{"question": "Q?", "right": ["yes", "indeed"], "all": ["yes", "indeed", "no"]}"#;
    let (task_, items) = open(&folder(task, record)).unwrap();
    let mut model = Scripted {
        // 1/2, 1/8, 1/8
        log_prob: |_, option| {
            if option.contains("yes") {
                0.5f64.ln()
            } else {
                0.125f64.ln()
            }
        },
        ..Scripted::default()
    };
    let result = ask(&task_, &items, &mut model, &SETTINGS);
    assert!((result.scores[0].value - 0.625 / 0.75).abs() < 1e-12);
    let mut report = Report::new(SETTINGS.bootstrap);
    report.add_task("base", result);
    // The option picked is one of the true ones.
    let json = report.json(false);
    assert_eq!(json["models"][0]["tasks"][0]["items"][0]["correct"], true);

    let mixed = task.replace("[\"mc2\"]", "[\"mc2\", \"accuracy\"]");
    let error = open(&folder(&mixed, record)).unwrap_err();
    insta::assert_snapshot!(format!("{error}\nhint: {}", error.hint().unwrap_or_default()), @"
    task `truth`: the metric `accuracy` is for one right option an item, `mc2` for several
    hint: write two task files: `accuracy` doesn't know of several right options
    ");
}
