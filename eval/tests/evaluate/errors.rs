//! What the user reads when something is wrong, word for word.

use std::error::Error as _;

use eval::{BaselineProblem, Error, ModelError, TaskChoice, choose_tasks, find_task, run_task};

use crate::scripted::{SETTINGS, Scripted, folder, open, questions, yes_no};

/// The message, its causes, and the hint.
fn shown(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\ncaused by: {error}"));
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

/// The error of opening a task with these lines and records, with the folder's path left out.
fn opening(task: &str, records: &str) -> String {
    let folder = folder(task, records);
    let error = open(&folder).expect_err("an error");
    shown(&error).replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn unknown_tasks() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pubmedqa.toml"), "").unwrap();
    std::fs::write(folder.path().join("medqa.toml"), "").unwrap();
    let find = |name| find_task(name, folder.path(), &[folder.path().to_owned()]).unwrap_err();
    insta::assert_snapshot!(shown(&find("pubmed_qa")), @"
    there is no task `pubmed_qa`
    hint: did you mean `pubmedqa`?
    ");
    insta::assert_snapshot!(shown(&find("summaries")), @"
    there is no task `summaries`
    hint: the tasks are: medqa, pubmedqa; or name a task file by its path
    ");
    let missing = shown(&find("mine.toml"));
    insta::assert_snapshot!(missing.replace(&format!("{}/", folder.path().display()), ""), @"
    there is no task file `mine.toml`
    hint: a relative path starts from the recipe's folder
    ");
    let nowhere = find_task("pubmedqa", folder.path(), &[]).unwrap_err();
    insta::assert_snapshot!(shown(&nowhere), @"
    there is no task `pubmedqa`
    hint: name a task file by its path, as in `tasks/my-task.toml`
    ");
    let task = yes_no("answering = [\"generate\"]\nmetrics = [\"accuracy\"]");
    std::fs::write(folder.path().join("questions.toml"), task).unwrap();
    let choices = ["questions".to_owned(), "questions.toml:5".to_owned()];
    let twice = choose_tasks(&choices, folder.path(), &[folder.path().to_owned()]).unwrap_err();
    insta::assert_snapshot!(shown(&twice), @"
    the task `questions` is asked twice
    hint: name it once, or give the other file's task another `name`
    ");
    insta::assert_snapshot!(shown(&TaskChoice::parse("pubmedqa:all").unwrap_err()), @"
    task `pubmedqa:all`: `all` is not a number of items
    hint: write `name:100` to ask 100 items, or `name` to ask all
    ");
}

#[test]
fn task_files_with_problems() {
    let task = yes_no(
        "answering = [\"guess\"]\nmetrics = [\"acuracy\"]\ngenerate.filter = \"lable\"\ntemperature = 1.0",
    );
    insta::assert_snapshot!(opening(&task, ""), @r#"
    the recipe has 4 problems
    task.toml:5:14: `answering[0]` is the string "guess", expected `log-likelihood` or `generate`
    task.toml:6:12: `metrics[0]` is the string "acuracy", expected one of `accuracy`, `macro_f1`, `weighted_f1`, `micro_f1`, `multi_label_f1`, `multi_label_micro_f1`, `multi_label_example_f1`, `exact_match`, `token_f1`, `number_match`, `entity_f1`, `entity_macro_f1`, `entity_partial_f1`, `entity_partial_macro_f1`, `altered_text`, `rouge_1`, `rouge_2`, `rouge_l`, `rouge_lsum`, `rouge_1_stemmed`, `rouge_2_stemmed`, `rouge_l_stemmed`, `rouge_lsum_stemmed`, `bert_score`, `bert_score_precision`, `bert_score_recall`, `token_perplexity`, `word_perplexity`, `byte_perplexity`, `ece_10`, `ece_15`, `brier`, `mc2`, `paper_accuracy`, `paper_macro_f1`, `paper_weighted_f1`, `paper_missing`, `paper_one_label_accuracy`, `paper_one_label_macro_f1`, `paper_one_label_weighted_f1`, `paper_one_label_missing`, `paper_multi_label_f1`, `paper_emrqa_exact_match`, `paper_emrqa_f1`, `paper_ner_f1`, `paper_rouge_1`, `paper_rouge_2`, `paper_rouge_l`, `top_1`, `top_3`, `top_5`, `judged_top_1`, `judged_top_3`, `judged_top_5`
      hint: did you mean `accuracy`?
    task.toml:7:19: `generate.filter` is the string "lable", expected one of `label`, `labels`, `letter`, `first_line`, `strip`, `spans`, `number`, `marked_number`, `ranked_list`
      hint: did you mean `label`?
    task.toml:8:1: unknown key `temperature` in the recipe
      hint: known keys: `about`, `reference`, `chat_template`, `log_likelihood`, `few_shot`, `published`, `judge`, `extends`
    "#);
}

#[test]
fn task_files_that_contradict_themselves() {
    let lines = |lines: &str| opening(&yes_no(lines), "");
    let by_likelihood = "answering = [\"log-likelihood\"]\n";
    let generate = "answering = [\"generate\"]\n";
    insta::assert_snapshot!(lines("answering = []\nmetrics = [\"accuracy\"]"), @r#"
    task `questions`: `answering` is empty
    hint: write `answering = ["log-likelihood"]`, `["generate"]`, or both
    "#);
    insta::assert_snapshot!(lines(
        "answering = [\"generate\", \"generate\"]\nmetrics = [\"accuracy\"]"
    ), @r#"
    task `questions`: `answering` names `generate` twice
    hint: write `answering = ["log-likelihood"]`, `["generate"]`, or both
    "#);
    insta::assert_snapshot!(lines(&format!("{generate}metrics = []")), @r#"
    task `questions`: `metrics` is empty
    hint: name at least one, as in `metrics = ["accuracy"]`
    "#);
    insta::assert_snapshot!(lines(&format!(
        "{by_likelihood}metrics = [\"multi_label_f1\"]"
    )), @r#"
    task `questions`: the metric `multi_label_f1` marks generated answers, and the task is answered by log-likelihood
    hint: write `answering = ["generate"]`
    "#);
    insta::assert_snapshot!(lines(&format!("{by_likelihood}metrics = [\"paper_accuracy\"]")), @r#"
    task `questions`: the metric `paper_accuracy` marks generated answers, and the task is answered by log-likelihood
    hint: write `answering = ["generate"]`
    "#);
    insta::assert_snapshot!(lines(&format!("{generate}metrics = [\"accuracy\", \"ece_10\"]")), @r#"
    task `questions`: the metric `ece_10` marks log-probabilities, and the task is answered by generation
    hint: write `answering = ["log-likelihood"]`, or leave the metric out
    "#);
    insta::assert_snapshot!(lines(&format!(
        "{generate}metrics = [\"accuracy\"]\ngenerate.pattern = 'answer: ('"
    )), @r#"
    task `questions`: `generate.pattern` is no regular expression: unclosed group
    hint: write it in single quotes, as in `pattern = 'answer: (\w+)'`; look-around and back-references are not known
    "#);
    insta::assert_snapshot!(lines(&format!(
        "{generate}metrics = [\"macro_f1\", \"multi_label_f1\"]"
    )), @"
    task `questions`: the metric `macro_f1` is for one right option an item, `multi_label_f1` for several
    hint: `accuracy` goes with `multi_label_f1`: it counts lists that are right as a whole
    ");
    insta::assert_snapshot!(lines(&format!(
        "{generate}metrics = [\"accuracy\"]\ngenerate.max_new_tokens = 0"
    )), @"
    task `questions`: `generate.max_new_tokens` is 0
    hint: leave it out for the default, or write how many
    ");

    let options = |options: &str, lines: &str| {
        let task = yes_no(lines).replace("options.fixed = [\"yes\", \"no\", \"maybe\"]", options);
        opening(&task, "")
    };
    let accuracy = "metrics = [\"accuracy\"]";
    let task = yes_no(&format!("{generate}{accuracy}"));
    let (unasked, _) = task.split_once("[source.task]").unwrap();
    insta::assert_snapshot!(opening(unasked, ""), @"
    task `questions`: it has no [source.task]
    hint: write the question's template as `prompt` and the right answer's as `answer` there
    ");
    insta::assert_snapshot!(options("", &format!("{by_likelihood}{accuracy}")), @r#"
    task `questions`: answering by log-likelihood needs options, and the task has none
    hint: list them, as in `options.fixed = ["yes", "no"]`
    "#);
    insta::assert_snapshot!(options("", &format!("{generate}metrics = [\"macro_f1\"]")), @r#"
    task `questions`: the metric `macro_f1` needs options, and the task has none
    hint: list them, as in `options.fixed = ["yes", "no"]`
    "#);
    insta::assert_snapshot!(options(
        "",
        &format!("{generate}{accuracy}\ngenerate.filter = \"letter\"")
    ), @r#"
    task `questions`: the filter `letter` needs options, and the task has none
    hint: list them, as in `options.fixed = ["yes", "no"]`
    "#);
    insta::assert_snapshot!(options(
        "options.fixed = []",
        &format!("{generate}{accuracy}")
    ), @r#"
    task `questions`: a choice needs two options or more, found 0
    hint: list them, as in `options.fixed = ["yes", "no"]`
    "#);
    insta::assert_snapshot!(options(
        "options.fixed = [\"yes\", \" \"]",
        &format!("{generate}{accuracy}")
    ), @"task `questions`: option 2 is empty");
    insta::assert_snapshot!(options(
        "options.fixed = [\"yes\", \"yes\"]",
        &format!("{generate}{accuracy}")
    ), @"task `questions`: option 2 repeats an earlier one");
}

#[test]
fn records_that_make_no_item() {
    let lines = "answering = [\"log-likelihood\"]\nmetrics = [\"accuracy\"]";
    let fixed = |record: &str| opening(&yes_no(lines), record);
    insta::assert_snapshot!(fixed(""), @"
    task `questions` has no items
    hint: check the path and the split in the task's [source]
    ");
    insta::assert_snapshot!(fixed(r#"{"question": "?", "answer": "perhaps"}"#), @"
    task `questions`, item `items/1`: the gold answer is none of the 3 options
    hint: `answer` in [source.task] must give an option's text, letter for letter
    ");
    insta::assert_snapshot!(fixed(r#"{"question": "?"}"#), @"
    task `questions`
    caused by: sample items/1 (items.jsonl, record 1): template task.answer, line 1: undefined value: `answer` is undefined
    caused by: template task.answer, line 1: undefined value: `answer` is undefined
    hint: the record's fields are question
    ");

    let surprise = yes_no("answering = [\"log-likelihood\"]\nmetrics = [\"byte_perplexity\"]")
        .replace("options.fixed = [\"yes\", \"no\", \"maybe\"]", "");
    insta::assert_snapshot!(opening(&surprise, r#"{"question": "?", "answer": " "}"#), @"
    task `questions`, item `items/1`: the gold answer is empty
    hint: perplexity needs a gold answer; leave the record out
    ");

    let options = |options: &str, record: &str| {
        let task = yes_no(lines).replace("options.fixed = [\"yes\", \"no\", \"maybe\"]", options);
        opening(&task, record)
    };
    let field = "options.field = \"choices\"";
    insta::assert_snapshot!(options(field, r#"{"question": "?", "answer": "yes"}"#), @"
    task `questions`, item `items/1`: the field `choices` is no list of texts
    hint: `options.field` names a field that holds a list of strings
    ");
    insta::assert_snapshot!(options(
        field,
        r#"{"question": "?", "answer": "yes", "choices": []}"#
    ), @"task `questions`, item `items/1`: a choice needs two options or more, found 0");
    insta::assert_snapshot!(options(
        field,
        r#"{"question": "?", "answer": "yes", "choices": ["yes", "yes"]}"#
    ), @"task `questions`, item `items/1`: option 2 repeats an earlier one");
    let template = r#"options.templates = ["{{ a }}", "{{ b }}"]"#;
    insta::assert_snapshot!(options(
        template,
        r#"{"question": "?", "answer": "yes", "a": "yes"}"#
    ), @"
    task `questions`
    caused by: sample items/1 (items.jsonl, record 1): template options.templates, line 1: undefined value: `b` is undefined
    caused by: template options.templates, line 1: undefined value: `b` is undefined
    hint: the record's fields are question, answer, a
    ");
    let broken = r#"options.templates = ["{{ a }}", "{{ b"]"#;
    insta::assert_snapshot!(options(
        broken,
        r#"{"question": "?", "answer": "yes", "a": "yes"}"#
    ), @"
    task `questions`
    caused by: template options.templates, line 1: syntax error: unexpected end of input, expected end of variable block
    ");
}

#[test]
fn models_that_fail() {
    let lines = "answering = [\"log-likelihood\"]\nmetrics = [\"accuracy\"]";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let mut model = Scripted {
        log_prob: |_, _| f64::NAN,
        ..Scripted::default()
    };
    let error = run_task(&task, &items, &mut model, &SETTINGS, &mut |_| {}).unwrap_err();
    insta::assert_snapshot!(shown(&error), @"
    task `questions`, item `items/1`: `scripted` scored option 1 as not a number
    hint: the weights hold values that are not numbers; check how the model was made
    ");
    insta::assert_snapshot!(shown(
        &run_task(&task, &[], &mut model, &SETTINGS, &mut |_| {}).unwrap_err()
    ), @"
    task `questions` has no items
    hint: check the path and the split in the task's [source]
    ");
    insta::assert_snapshot!(shown(&Error::NoEmbedder {
        task: "mimic-cxr".into(),
        metric: "bert_score",
    }), @r#"
    task `mimic-cxr`: its first metric `bert_score` needs an encoder, and none is given
    hint: name its folder in [eval.bert_score], as in `model = "models/roberta-large"`, or put another metric before `bert_score`
    "#);
    let baseline = |problem| Error::Baseline {
        path: "baselines/roberta-large.tsv".into(),
        problem,
    };
    insta::assert_snapshot!(shown(&baseline(BaselineProblem::NoLayer { layer: 25 })), @"
    `baselines/roberta-large.tsv` is no baseline for BERTScore: it has no line for layer 25
    hint: take the file of this encoder, or a layer that the file has with `layer`
    ");
    insta::assert_snapshot!(shown(&baseline(BaselineProblem::Header)), @"
    `baselines/roberta-large.tsv` is no baseline for BERTScore: its first line is not `LAYER,P,R,F`
    hint: the files are in `rescale_baseline` of the bert_score package; they begin with `LAYER,P,R,F`
    ");
    insta::assert_snapshot!(shown(&baseline(BaselineProblem::Line { line: 3 })), @"
    `baselines/roberta-large.tsv` is no baseline for BERTScore: line 3 is not a layer and three numbers below 1
    hint: the files are in `rescale_baseline` of the bert_score package; they begin with `LAYER,P,R,F`
    ");
    insta::assert_snapshot!(shown(&Error::Embedder {
        task: "mimic-cxr".into(),
        embedder: "bert-base-multilingual-cased_L9".into(),
        source: ModelError::new("the embedder gave 31 texts where 32 were expected"),
    }), @"
    task `mimic-cxr`: `bert-base-multilingual-cased_L9` embedded no texts
    caused by: the embedder gave 31 texts where 32 were expected
    ");
    insta::assert_snapshot!(shown(&Error::AnswerCount {
        task: "pubmedqa".into(),
        model: "tuned".into(),
        what: "answers",
        asked: 32,
        given: 31,
    }), @"task `pubmedqa`: `tuned` gave 31 answers, 32 were asked for");
    let cause = std::io::Error::other("the prompt has 9,000 tokens, the model reads 8,192");
    insta::assert_snapshot!(shown(&Error::Model {
        task: "pubmedqa".into(),
        model: "tuned".into(),
        source: ModelError::at("pubmedqa-test/123", cause),
    }), @"
    task `pubmedqa`: `tuned` gave no answer
    caused by: item `pubmedqa-test/123`: the prompt has 9,000 tokens, the model reads 8,192
    ");
}
