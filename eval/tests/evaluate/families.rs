//! Both families of metrics, and metrics that read option scores or embeddings, from the task file
//! to the report.

use eval::{BertScorer, Embedder, Error, ModelError, Report, Task, TokenEmbeddings, run_task_with};

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

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError> {
        let embed = |text: &&str| TokenEmbeddings {
            ids: vec![u32::from(*text == "yes")],
            special: vec![false],
            vectors: if *text == "yes" {
                vec![3.0, 4.0]
            } else {
                vec![-4.0, 3.0]
            },
        };
        Ok(texts.iter().map(embed).collect())
    }
}

#[test]
fn bert_score_needs_an_encoder_and_says_so_before_asking() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"accuracy\", \"bert_score\"]";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let mut model = Scripted::default();
    let run = |model: &mut Scripted, bert: Option<&mut BertScorer<'_>>| {
        run_task_with(&task, &items, model, bert, &SETTINGS, &mut |_| {})
    };
    let error = run(&mut model, None).unwrap_err();
    assert!(matches!(error, Error::NoEmbedder { .. }));
    assert!(model.calls.is_empty());

    let mut bert = BertScorer {
        embedder: &mut Words,
        idf: false,
        baseline: None,
    };
    let result = run(&mut model, Some(&mut bert)).unwrap();
    assert!((result.scores[1].value - 0.5).abs() < 1e-6);
}
