//! `train.eval_tasks` and `merge.validate`: what a model in training and after the merge is asked.

use std::fs;

use serde_json::Value;

use super::Place;

/// Scored by the likelihood of options, and marked finely enough that no two models score the same.
const FINE: &str = r#"name = "fine"
version = 1
answering = ["log-likelihood"]
options.fixed = ["yes", "no"]
metrics = ["accuracy", "brier"]

[source]
name = "fine"
format = "alpaca"
path = "questions.jsonl"

[source.task]
prompt = "{{ instruction }}"
answer = "{{ output }}"
"#;

/// Written, and marked by what is written.
const WRITTEN: &str = r#"name = "written"
version = 1
answering = ["generate"]
metrics = ["rouge_1", "rouge_l"]

[generate]
max_new_tokens = 7

[source]
name = "written"
format = "alpaca"
path = "questions.jsonl"

[source.task]
prompt = "{{ instruction }}"
answer = "{{ output }}"
"#;

/// Trains without merging, and asks both tasks at every other step.
fn place() -> Place {
    let place = Place::new();
    place.write("tasks/fine.toml", FINE.as_bytes());
    place.write("tasks/written.toml", WRITTEN.as_bytes());
    place.edit("recipe.toml", "[merge]\n", "");
    place.edit(
        "recipe.toml",
        "[train]\nmax_steps = 4",
        "[train]\neval_steps = 3\neval_tasks = [\"tasks/fine.toml:5\", \"tasks/written.toml:7\"]\nmax_steps = 8",
    );
    place.edit(
        "recipe.toml",
        "tasks = [\"tasks/which.toml\"]",
        "tasks = [\"tasks/which.toml\", \"tasks/fine.toml:5\", \"tasks/written.toml:7\"]",
    );
    place
}

fn json(place: &Place, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(place.path(file)).unwrap()).unwrap()
}

/// Steps that were evaluated, with their scores.
fn scores(place: &Place, out: &str) -> Vec<(u64, Value)> {
    let log = fs::read_to_string(place.path(out).join("train/steps.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter_map(|line: Value| Some((line["step"].as_u64()?, line.get("scores")?.clone())))
        .collect()
}

#[test]
fn a_score_in_training_is_the_score_afterwards() {
    let place = place();
    let said = place.medtune(&["run", "recipe.toml", "--out", "out"]).ok();
    let scores = scores(&place, "out");
    let steps: Vec<u64> = scores.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [3, 6, 8]);
    let last = &scores[2].1;
    let report = json(&place, "out/eval/report.json");
    for name in [
        "fine.accuracy",
        "fine.brier",
        "written.rouge_1",
        "written.rouge_l",
    ] {
        let after = &report["metrics"][format!("tuned.{name}")];
        assert!(
            after.is_f64() && &last[name] == after,
            "{name}: {last} {after}"
        );
    }
    // It moves: these are the weights as they are, and not the base.
    assert_ne!(scores[0].1["fine.brier"], last["fine.brier"]);
    assert_ne!(report["metrics"]["base.fine.brier"], last["fine.brier"]);
    assert!(
        said.stderr.contains("train  step 3: held-out loss ")
            && said.stderr.contains(" fine.accuracy "),
        "{}",
        said.stderr
    );
    let manifest = json(&place, "out/adapter/manifest.json");
    assert_eq!(&manifest["details"]["scores"], last);
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    for part in ["brier", "rouge_1", "of fine during training"] {
        assert!(page.contains(part), "no {part}");
    }
    let events = fs::read_dir(place.path("out/train/tensorboard")).unwrap();
    let events: Vec<u8> = events
        .flat_map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    let tag = b"eval/fine/brier";
    assert_eq!(events.windows(tag.len()).filter(|w| w == tag).count(), 3);
}

/// However the weights are held and computed with.
#[test]
fn a_score_in_training_is_the_score_afterwards_in_every_way_of_training() {
    type Way = (&'static str, fn(&Place));
    let ways: [Way; 5] = [
        ("bf16, dropout", |place| {
            place.edit("recipe.toml", "[model]", "[model]\ndtype = \"bf16\"");
            place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\ndropout = 0.1");
        }),
        ("DoRA over NF4", |place| {
            place.edit("recipe.toml", "[model]", "[model]\nquantization = \"nf4\"");
            place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\nuse_dora = true");
        }),
        ("recomputed, several micro-batches", |place| {
            let more = "[train]\nrecompute = \"full\"\ngradient_accumulation_steps = 2";
            place.edit("recipe.toml", "[train]", more);
        }),
        ("asked by another template", |place| {
            place.edit("recipe.toml", "[eval]", "[eval]\ntemplate = \"me-llama\"");
        }),
        ("every weight", |place| {
            place.edit("recipe.toml", "[adapter.lora]\nrank = 4\nalpha = 8.0\n", "");
            place.edit("recipe.toml", "[train]\n", "[train]\nmethod = \"full\"\n");
        }),
    ];
    for (way, set_up) in ways {
        let place = place();
        set_up(&place);
        place.medtune(&["run", "recipe.toml", "--out", "out"]).ok();
        let scores = scores(&place, "out");
        let report = json(&place, "out/eval/report.json");
        for name in ["fine.accuracy", "fine.brier", "written.rouge_1"] {
            let (during, after) = (
                &scores[2].1[name],
                &report["metrics"][format!("tuned.{name}")],
            );
            assert!(after.is_f64() && during == after, "{way}: {during} {after}");
        }
    }
}

#[test]
fn asking_changes_no_weight() {
    let place = place();
    place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\ndropout = 0.1");
    place
        .medtune(&["train", "recipe.toml", "--out", "asked"])
        .ok();
    let none = ["--set", "train.eval_tasks=[]"];
    place
        .medtune(&[&["train", "recipe.toml", "--out", "silent"][..], &none].concat())
        .ok();
    let adapter =
        |out: &str| fs::read(place.path(out).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("asked") == adapter("silent"));
    // What was only looked at is no reason to train again.
    let again = ["train", "recipe.toml", "--out", "asked"];
    let said = place.medtune(&[&again[..], &none].concat()).ok();
    assert!(said.stderr.contains("train  kept: "), "{}", said.stderr);
}

/// Chosen by a task: the highest, of equals the earlier.
fn choosing() -> Place {
    let place = place();
    place.edit(
        "recipe.toml",
        "eval_steps = 3",
        "eval_steps = 1\nload_best_model_at_end = true\nmetric_for_best_model = \"fine.accuracy\"",
    );
    place
}

#[test]
fn the_best_checkpoint_is_chosen_by_a_task() {
    let place = choosing();
    let said = place.medtune(&["run", "recipe.toml", "--out", "out"]).ok();
    let scores = scores(&place, "out");
    let value = |scores: &Value| scores["fine.accuracy"].as_f64().unwrap();
    let highest = scores.iter().map(|(_, s)| value(s)).fold(0.0, f64::max);
    let (best, at_best) = scores.iter().find(|(_, s)| value(s) == highest).unwrap();
    let manifest = json(&place, "out/adapter/manifest.json");
    let details = &manifest["details"];
    assert_eq!(details["best_step"], *best);
    assert_eq!(&details["scores"], at_best);
    assert_eq!(details["chosen_by"]["metric"], "fine.accuracy");
    assert!(
        said.stderr
            .contains("the file of `fine` does not say which split its items are"),
        "{}",
        said.stderr
    );
    // Its weights are those that are evaluated, and the report says what chose them. `which` asks the same items.
    let report = json(&place, "out/eval/report.json");
    assert_eq!(report["metrics"]["tuned.fine.brier"], at_best["fine.brier"]);
    let eval = json(&place, "out/eval/manifest.json");
    let chose = &eval["details"]["chose_checkpoint"];
    assert_eq!(chose, &serde_json::json!(["which", "fine", "written"]));
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("chose the checkpoint") && page.contains("(by fine.accuracy)"));
    let table = fs::read_to_string(place.path("out/eval/report.txt")).unwrap();
    let line = "  chose the checkpoint, by fine.accuracy: expect less on new items";
    assert_eq!(table.lines().filter(|l| *l == line).count(), 3, "{table}");
    let report = place.medtune(&["report", "out"]).ok().stdout;
    let figure = format!("  {:<20}{best} (by fine.accuracy)", "best step");
    assert!(report.lines().any(|line| line == figure), "{report}");

    // Other items choose another checkpoint: they are an input.
    place.edit("questions.jsonl", "number 3", "number 33");
    place.edit("tasks/fine.toml", "questions.jsonl", "others.jsonl");
    let rows = fs::read(place.path("questions.jsonl")).unwrap();
    place.write("others.jsonl", &rows);
    place.edit("questions.jsonl", "number 33", "number 3");
    let said = place
        .medtune(&["train", "recipe.toml", "--out", "out"])
        .ok();
    assert!(
        said.stderr.contains("train  runs again: "),
        "{}",
        said.stderr
    );
}

#[test]
fn a_plan_counts_the_answers_to_the_items_that_are_asked() {
    let place = place();
    let args = ["plan", "recipe.toml", "--machine", "h200"];
    let planned = |place: &Place| {
        let json = place
            .medtune(&[&args[..], &["--json"]].concat())
            .ok()
            .json();
        let kept = json["train"][0]["memory"].as_array().unwrap().iter();
        let mut kept = kept.filter(|part| part["part"] == "keys and values of answers");
        let bytes = kept.next().unwrap()["bytes"].as_u64().unwrap();
        (json["train"][0]["answering"].to_string(), bytes)
    };
    let (asked, bytes) = planned(&place);
    insta::assert_snapshot!(asked, @r#"{"scored_tokens":86,"scored_targets":10,"read_tokens":106,"read_room_tokens":112,"written_room_tokens":224,"sequences":7}"#);
    assert!(
        !place
            .medtune(&args)
            .ok()
            .stdout
            .contains("as if every prompt")
    );

    // Without the items it says by what it goes.
    for task in ["tasks/fine.toml", "tasks/written.toml"] {
        place.edit(task, "questions.jsonl", "elsewhere.jsonl");
    }
    let (estimated, more) = planned(&place);
    insta::assert_snapshot!(estimated, @r#"{"scored_tokens":640,"scored_targets":640,"read_tokens":896,"read_room_tokens":896,"written_room_tokens":1792,"sequences":7,"estimated":{"prompt_tokens":128,"because":"task `fine`: cannot read elsewhere.jsonl: No such file or directory (os error 2)"}}"#);
    assert!(more > bytes, "{more} {bytes}");
    let said = place.medtune(&args).ok().stdout;
    let from = said.find("  asking train.eval_tasks").unwrap();
    let lines: Vec<&str> = said[from..].lines().take(2).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    asking train.eval_tasks is planned as if every prompt had 128 tokens, which is likely too much:
      task `fine`: cannot read elsewhere.jsonl: No such file or directory (os error 2)
    ");
}

#[test]
fn tasks_that_cannot_watch_a_training() {
    let after = |from: &str, to: &str| {
        let place = choosing();
        place.edit("recipe.toml", from, to);
        place.medtune(&["check", "recipe.toml"]).stdout
    };
    insta::assert_snapshot!(after("tasks/fine.toml:5", "tasks/find.toml:5"), @"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: there is no task file `tasks/find.toml`
      hint: a relative path starts from the recipe's folder

    1 of 1 are wrong
    ");
    insta::assert_snapshot!(after("tasks/fine.toml:5", "tasks/fine.toml:0"), @"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: task `tasks/fine.toml:0`: `0` is not a number of items
      hint: write `name:100` to ask 100 items, or `name` to ask all

    1 of 1 are wrong
    ");
    insta::assert_snapshot!(after("tasks/fine.toml:5", "tasks/fine.toml[dev]:5"), @"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: task `fine`: `[dev]` is asked for, and its [source] names no `split`
      hint: only formats with official splits (pubmedqa) have them by name; name a task file whose [source] reads the other split's items, as `medqa-dev` does

    1 of 1 are wrong
    ");
    insta::assert_snapshot!(after("\"fine.accuracy\"", "\"fine.acuracy\""), @r#"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:24:1: `train.metric_for_best_model` is "fine.acuracy", which train.eval_tasks does not measure
      hint: did you mean `fine.accuracy`?

    1 of 1 are wrong
    "#);
    insta::assert_snapshot!(after("\"fine.accuracy\"", "\"which.accuracy\""), @r#"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:24:1: `train.metric_for_best_model` is "which.accuracy", which train.eval_tasks does not measure
      hint: did you mean `fine.accuracy`?

    1 of 1 are wrong
    "#);
    insta::assert_snapshot!(after("eval_steps = 1\n", ""), @"
    wrong  recipe.toml
    error: the recipe has 2 problems
    recipe.toml:22:1: `train.load_best_model_at_end` needs eval_steps above 0: it chooses among the steps that are evaluated
    recipe.toml:24:1: `train.eval_tasks` needs eval_steps above 0: tasks are asked at those steps, and [eval] asks them at the end

    1 of 1 are wrong
    ");
    insta::assert_snapshot!(after("load_best_model_at_end = true\n", ""), @r#"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:23:1: `train.metric_for_best_model` is "fine.accuracy", and load_best_model_at_end is off: the last weights are used, whichever are best

    1 of 1 are wrong
    "#);
    insta::assert_snapshot!(after("\"tasks/fine.toml:5\", ", "\"tasks/fine.toml:5\", \"tasks/fine.toml\", "), @"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: the task `fine` is asked twice
      hint: name it once, or give the other file's task another `name`

    1 of 1 are wrong
    ");
}

#[test]
fn a_task_that_is_misspelt_or_too_long_is_named_before_the_first_step() {
    let place = choosing();
    place.write(
        "eval/fine.toml",
        &fs::read(place.path("tasks/fine.toml")).unwrap(),
    );
    place.edit("recipe.toml", "tasks/fine.toml:5", "fin:5");
    insta::assert_snapshot!(place.medtune(&["train", "recipe.toml", "--out", "out"]).failure(), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: there is no task `fin`
      hint: did you mean `fine`?
    ");
    place.edit("recipe.toml", "fin:5", "pubmedqa[dev]:5");
    insta::assert_snapshot!(place.medtune(&["train", "recipe.toml", "--out", "out"]).failure(), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:25:1: `train.eval_tasks`: there is no task `pubmedqa`
      hint: it comes with medtune: `medtune recipes copy eval/mibe/pubmedqa` gives you its file
    ");
    place.edit("recipe.toml", "pubmedqa[dev]:5", "tasks/fine.toml:5");
    place.edit(
        "tasks/written.toml",
        "max_new_tokens = 7",
        "max_new_tokens = 250",
    );
    let said = place.medtune(&["train", "recipe.toml", "--out", "out"]);
    let error = said.failure();
    let error = &error[error.find("error: ").unwrap()..];
    insta::assert_snapshot!(error, @"
    error: item written/1: its prompt and answer are 266 tokens, more than the 256 the model can read
    hint: shorten the task's prompt or use a model with a longer context
    ");
    assert!(!place.path("out/train/steps.jsonl").exists());
}

#[test]
fn test_items_choose_nothing() {
    let place = choosing();
    let chosen_by_test = |place: &Place| place.medtune(&["check", "recipe.toml"]).stdout;
    place.edit(
        "tasks/fine.toml",
        "[source]\n",
        "[published]\ndataset = \"Fine\"\nsplit = \"test\"\nitems = 8\n\n[source]\n",
    );
    insta::assert_snapshot!(chosen_by_test(&place), @r#"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:24:1: `train.metric_for_best_model` is "fine.accuracy", and `fine` asks test items: a checkpoint that they choose has seen the test
      hint: choose by "eval_loss", or by a task over development items

    1 of 1 are wrong
    "#);
    // Looked at they may be.
    place.edit("recipe.toml", "\"fine.accuracy\"", "\"written.rouge_1\"");
    assert!(chosen_by_test(&place).starts_with("ok "));

    // A source with official splits is asked on another one.
    let place = choosing();
    place.edit(
        "tasks/fine.toml",
        "format = \"alpaca\"",
        "format = \"pubmedqa\"\nsplit = \"test\"",
    );
    insta::assert_snapshot!(chosen_by_test(&place), @r#"
    wrong  recipe.toml
    error: the recipe has a problem
    recipe.toml:24:1: `train.metric_for_best_model` is "fine.accuracy", and `fine` asks test items: a checkpoint that they choose has seen the test
      hint: ask another split: train.eval_tasks = ["fine[dev]"]

    1 of 1 are wrong
    "#);
    place.edit("recipe.toml", "tasks/fine.toml:5", "fine[dev]:5");
    place.write(
        "eval/fine.toml",
        &fs::read(place.path("tasks/fine.toml")).unwrap(),
    );
    place.edit("recipe.toml", "\"fine.accuracy\"", "\"fine[dev].accuracy\"");
    let said = chosen_by_test(&place);
    assert!(said.starts_with("ok "), "{said}");
}

#[test]
fn a_merge_is_looked_over_where_that_is_asked_for() {
    let place = Place::new();
    place.write("tasks/fine.toml", FINE.as_bytes());
    place.edit(
        "recipe.toml",
        "[merge]\n",
        "[merge]\nvalidate = [\"tasks/fine.toml:5\"]\n",
    );
    let said = place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    assert!(
        said.stderr
            .contains("quick validation: a look, on few items")
            && said.stderr.contains("fine (5 items"),
        "{}",
        said.stderr
    );
    let manifest = json(&place, "out/merged/manifest.json");
    let look = &manifest["details"]["validation"];
    assert_eq!(look["items"]["fine"], 5);
    for name in ["fine.brier", "fine.accuracy", "validation.perplexity"] {
        for label in ["base", "merged"] {
            assert!(
                look["metrics"][format!("{label}.{name}")].is_f64(),
                "{look}"
            );
        }
    }
    assert_ne!(
        look["metrics"]["base.fine.brier"],
        look["metrics"]["merged.fine.brier"]
    );
    // alpaca is open where the recipe says nothing else.
    assert_eq!(look["samples"].as_array().unwrap().len(), 2);
    assert_eq!(look["samples_left_out"], 0);
    let card = fs::read_to_string(place.path("out/merged/README.md")).unwrap();
    assert!(
        card.contains("## Quick validation") && card.contains("at 5 items of fine"),
        "{card}"
    );
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("Quick validation"));
    let again = place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    assert!(again.stderr.contains("merge  kept: "), "{}", again.stderr);

    // Sample answers of what is not open are counted, and not written anywhere.
    place.edit(
        "recipe.toml",
        "path = \"questions.jsonl\"",
        "path = \"questions.jsonl\"\naccess = \"credentialed\"",
    );
    let run = [
        "merge",
        "recipe.toml",
        "--out",
        "closed",
        "--i-have-credentials",
    ];
    let said = place.medtune(&run[..4]);
    let said = if said.code == 0 {
        said
    } else {
        place.medtune(&run)
    };
    let said = said.ok();
    let manifest = json(&place, "closed/merged/manifest.json");
    let look = &manifest["details"]["validation"];
    assert_eq!(look["samples"].as_array().unwrap().len(), 0);
    assert_eq!(look["samples_left_out"], 2);
    assert!(
        said.stderr
            .contains("sample answers left out, of material that is not open: 2"),
        "{}",
        said.stderr
    );
}

/// Held-out samples stay as they were trained on.
#[test]
fn a_merged_model_is_asked_by_the_template_of_the_evaluation() {
    let place = Place::new();
    place.write("tasks/fine.toml", FINE.as_bytes());
    let validate = "[merge]\nvalidate = [\"tasks/fine.toml:5\"]\n";
    place.edit("recipe.toml", "[merge]\n", validate);
    place.edit("recipe.toml", "which.toml", "fine.toml:5");
    place.edit(
        "recipe.toml",
        "tuned.which.items\"\nat_least = 8.0",
        "tuned.fine.items\"\nat_least = 5.0",
    );
    let run = |out: &str, more: &[&str]| {
        let args = [&["run", "recipe.toml", "--out", out][..], more].concat();
        place.medtune(&args).ok();
        let manifest = json(&place, &format!("{out}/merged/manifest.json"));
        let look = manifest["details"]["validation"]["metrics"].clone();
        (
            look,
            json(&place, &format!("{out}/eval/report.json"))["metrics"].clone(),
        )
    };
    let (own_look, own) = run("own", &[]);
    let (look, report) = run("named", &["--set", "eval.template=\"me-llama\""]);
    for (look, report) in [(&own_look, &own), (&look, &report)] {
        for name in ["fine.brier", "validation.perplexity"] {
            let (base, merged) = (format!("base.{name}"), format!("merged.{name}"));
            assert_eq!(look[base.as_str()], report[base.as_str()], "{name}");
            assert_eq!(
                look[merged.as_str()],
                report[format!("tuned.{name}")],
                "{name}"
            );
        }
    }
    assert_ne!(own["base.fine.brier"], report["base.fine.brier"]);
    assert_eq!(
        own["tuned.validation.perplexity"],
        report["tuned.validation.perplexity"]
    );
}

#[test]
fn any_two_folders_are_looked_over_too() {
    let place = Place::new();
    place.write("tasks/fine.toml", FINE.as_bytes());
    place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    let args = [
        "merge",
        "--base",
        "out/merged",
        "--adapter",
        "out/adapter",
        "--into",
        "twice",
        "--force",
        "--validate",
        "tasks/fine.toml:5",
        "--json",
    ];
    let said = place.medtune(&args).ok();
    let look = &said.json()["merge"]["validation"];
    assert!(look["metrics"]["merged.fine.brier"].is_f64(), "{look}");
    assert_eq!(look["samples"].as_array().unwrap().len(), 2);
}
