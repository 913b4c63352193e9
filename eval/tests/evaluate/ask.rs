use eval::{Prompt, Settings, Task, choose_tasks, run_perplexity, run_task};

use crate::scripted::{SETTINGS, Scripted, ask, folder, open, questions, yes_no};

const BY_LIKELIHOOD: &str = r#"
answering = ["log-likelihood"]
metrics = ["accuracy", "macro_f1"]
"#;

/// Knows the answer of the questions that say yes.
fn says_yes(prompt: &str, option: &str) -> f64 {
    match option.trim() {
        "yes" if prompt.contains("yes") => -0.5,
        "no" => -2.0,
        "maybe" => -1.0,
        _ => -3.0,
    }
}

#[test]
fn picks_the_likeliest_option() {
    let (task, items) = open(&folder(&yes_no(BY_LIKELIHOOD), &questions())).unwrap();
    let mut model = Scripted {
        log_prob: says_yes,
        ..Scripted::default()
    };
    let result = ask(&task, &items, &mut model, &SETTINGS);
    assert_eq!(result.scores[0].value, 0.5);
    // yes: 1, no: 0 and maybe: 0, which is answered six times and so counts.
    assert!((result.scores[1].value - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(result.unextracted, None);
    assert_eq!(result.items[0].extracted.as_deref(), Some("yes"));
    assert_eq!(result.items[11].extracted.as_deref(), Some("maybe"));
    assert_eq!((result.items[0].score, result.items[11].score), (1.0, 0.0));
    assert_eq!(model.calls, [4, 4, 4]);
}

#[test]
fn normalisation_divides_by_length() {
    let pick = |normalisation: &str| {
        let task = yes_no(&format!(
            "answering = [\"log-likelihood\"]\nlog_likelihood.normalisation = \"{normalisation}\"\n\
             metrics = [\"accuracy\"]\noptions.field = \"options\""
        ));
        let task = task.replace("options.fixed = [\"yes\", \"no\", \"maybe\"]\n", "");
        let record = r#"{"question": "?", "answer": "b", "options": ["aaaa", "b", "c c"]}"#;
        let (task, items) = open(&folder(&task, record)).unwrap();
        let log_prob = |_: &str, option: &str| match option {
            "aaaa" => -4.5,
            "b" => -4.0,
            _ => -6.0,
        };
        let mut model = Scripted {
            log_prob,
            ..Scripted::default()
        };
        ask(&task, &items, &mut model, &SETTINGS)
            .items
            .remove(0)
            .extracted
    };
    assert_eq!(pick("none").as_deref(), Some("b"));
    assert_eq!(pick("tokens").as_deref(), Some("c c"));
    assert_eq!(pick("bytes").as_deref(), Some("aaaa"));
}

#[test]
fn counts_answers_that_cannot_be_extracted() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"accuracy\"]";
    let (task, items) = open(&folder(&yes_no(lines), &questions())).unwrap();
    let write = |prompt: &str| match prompt {
        p if p.contains("yes") => "Yes, it is.".to_owned(),
        _ => "It is not known.".to_owned(),
    };
    let result = ask(
        &task,
        &items,
        &mut Scripted {
            write,
            ..Scripted::default()
        },
        &SETTINGS,
    );
    assert_eq!((result.scores[0].value, result.unextracted), (0.5, Some(6)));
    assert_eq!(result.items[0].answer, "Yes, it is.");
    assert_eq!(result.items[11].extracted, None);
}

#[test]
fn several_labels_are_compared_as_lists() {
    let lines = "answering = [\"generate\"]\nmetrics = [\"multi_label_f1\", \"accuracy\"]\n\
                 generate.filter = \"labels\"";
    let record = r#"{"question": "?", "answer": "maybe ;yes"}"#;
    let (task, items) = open(&folder(&yes_no(lines), record)).unwrap();
    assert_eq!(items[0].gold, "yes; maybe");
    let write = |_: &str| "Maybe, then yes".to_owned();
    let result = ask(
        &task,
        &items,
        &mut Scripted {
            write,
            ..Scripted::default()
        },
        &SETTINGS,
    );
    assert!((result.scores[0].value - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(result.scores[1].value, 1.0);
}

#[test]
fn prompts_are_chats_or_plain_text() {
    let (_, items) = open(&folder(&yes_no(BY_LIKELIHOOD), &questions())).unwrap();
    let Prompt::Chat(messages) = &items[0].prompt else {
        panic!("{:?}", items[0].prompt)
    };
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1].content, "Question 0: yes?");

    let plain = format!("{BY_LIKELIHOOD}chat_template = false\n");
    let (task, items) = open(&folder(&yes_no(&plain), &questions())).unwrap();
    assert_eq!(
        items[0].prompt,
        Prompt::Text("Answer the question.\n\nQuestion 0: yes?".into())
    );
    // Under plain text an option goes on after a space, which is no part of its length.
    let log_prob = |_: &str, option: &str| {
        assert!(option.starts_with(' '));
        says_yes("yes", option)
    };
    let result = ask(
        &task,
        &items,
        &mut Scripted {
            log_prob,
            ..Scripted::default()
        },
        &SETTINGS,
    );
    assert_eq!(result.items[0].option_scores[0].bytes, 3);
}

#[test]
fn a_limit_draws_from_the_whole_file_and_batches_change_nothing() {
    let (task, items) = open(&folder(&yes_no(BY_LIKELIHOOD), &questions())).unwrap();
    let ids = |settings: &Settings| {
        let mut model = Scripted {
            log_prob: says_yes,
            ..Scripted::default()
        };
        let result = ask(&task, &items, &mut model, settings);
        result
            .items
            .into_iter()
            .map(|item| item.id)
            .collect::<Vec<_>>()
    };
    let limited = ids(&Settings {
        items: Some(6),
        ..SETTINGS
    });
    assert_eq!(limited.len(), 6);
    assert_ne!(limited, ids(&SETTINGS)[..6]);
    assert_eq!(
        limited,
        ids(&Settings {
            items: Some(6),
            batch_items: 1,
            ..SETTINGS
        })
    );
}

#[test]
fn progress_counts_items() {
    let (task, items) = open(&folder(&yes_no(BY_LIKELIHOOD), &questions())).unwrap();
    let mut seen = Vec::new();
    let settings = Settings {
        batch_items: 5,
        ..SETTINGS
    };
    run_task(
        &task,
        &items,
        &mut Scripted::default(),
        &settings,
        &mut |progress| {
            seen.push((progress.done, progress.total));
        },
    )
    .unwrap();
    assert_eq!(seen, [(5, 12), (10, 12), (12, 12)]);
}

#[test]
fn both_ways_of_answering_make_two_tasks() {
    let lines = "answering = [\"log-likelihood\", \"generate\"]\nmetrics = [\"accuracy\"]";
    let folder = folder(&yes_no(lines), &questions());
    let tasks = Task::load(&folder.path().join("task.toml"), &[]).unwrap();
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["questions", "questions-generate"]);

    let choice = ["task.toml:5".to_owned()];
    let chosen = choose_tasks(&choice, folder.path(), &[]).unwrap();
    let limits: Vec<_> = chosen
        .iter()
        .map(|chosen| (&chosen.task.name, chosen.limit))
        .collect();
    assert_eq!(
        limits,
        [(&tasks[0].name, Some(5)), (&tasks[1].name, Some(5))]
    );
}

#[test]
fn a_recipe_section_says_what_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eval.toml");
    std::fs::write(&path, "tasks = [\"pubmedqa:100\"]\nresamples = 500\n").unwrap();
    let section = ledger::recipe::read::<eval::recipe::EvalSection>(&path, &[])
        .unwrap()
        .value;
    assert!(section.baseline && section.perplexity);
    assert_eq!(section.bootstrap().resamples, 500);
    assert_eq!(section.tasks, ["pubmedqa:100"]);
}

#[test]
fn perplexity_sums_over_batches() {
    let sample = |id: u64| datasets::Tokenized {
        id: id.to_string(),
        sample: id,
        input_ids: vec![1; 4],
        loss_mask: vec![false, true, true, true],
    };
    let samples: Vec<_> = (0..9).map(sample).collect();
    let mut model = Scripted::default();
    let result =
        run_perplexity("validation", &samples, &mut model, &SETTINGS, &mut |_| {}).unwrap();
    assert_eq!(result.total.tokens, 27);
    assert!((result.total.value() - 2.0).abs() < 1e-12);
}
