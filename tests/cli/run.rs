//! A whole run: its folder, what is kept, what runs again, and how it ends.

use std::fs;

use super::Place;

/// Which stages ran and which were kept, as stderr says.
fn stages(stderr: &str) -> Vec<String> {
    let kept = |line: &str| line.contains(" kept: ");
    let ran = |line: &str| line.contains(", in ");
    let lines = stderr.lines().filter(|line| kept(line) || ran(line));
    lines
        .map(|line| {
            let stage = line.split_whitespace().next().unwrap_or_default();
            format!("{stage} {}", if kept(line) { "kept" } else { "ran" })
        })
        .collect()
}

#[test]
fn a_run_does_every_stage_once_and_again_only_what_changed() {
    let place = Place::new();
    let run = |more: &[&str]| {
        let args: Vec<&str> = ["run", "recipe.toml", "--out", "out"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        place.medtune(&args).ok()
    };
    let first = run(&[]);
    assert_eq!(
        stages(&first.stderr),
        ["data ran", "train ran", "merge ran", "eval ran"],
        "{}",
        first.stderr
    );
    assert!(
        first
            .stdout
            .contains("met      tuned.which.items = 8.0000, expected at least 8"),
        "{}",
        first.stdout
    );
    for folder in ["data", "adapter", "merged", "eval"] {
        for file in ["manifest.json", "measured.json"] {
            assert!(
                place.path(&format!("out/{folder}/{file}")).is_file(),
                "{folder}/{file}"
            );
        }
    }

    let second = run(&[]);
    assert_eq!(
        stages(&second.stderr),
        ["data kept", "train kept", "merge kept", "eval kept"]
    );
    assert_eq!(second.stdout, first.stdout);

    // How often it is looked at changes nothing; how many are asked changes what is asked, and nothing before it.
    let looked = run(&["--set", "train.eval_steps=2"]);
    assert_eq!(
        stages(&looked.stderr),
        ["data kept", "train kept", "merge kept", "eval kept"]
    );
    let sixty_four = run(&["--set", "eval.resamples=64"]);
    assert_eq!(
        stages(&sixty_four.stderr),
        ["data kept", "train kept", "merge kept", "eval ran"]
    );
    let longer = run(&["--set", "train.max_steps=5"]);
    assert!(
        longer
            .stderr
            .contains("train  runs again: setting `train.max_steps` changed"),
        "{}",
        longer.stderr
    );
    assert_eq!(
        stages(&longer.stderr),
        ["data kept", "train ran", "merge ran", "eval ran"]
    );
    let fresh = run(&["--set", "train.max_steps=5", "--fresh"]);
    assert_eq!(
        stages(&fresh.stderr),
        ["data ran", "train ran", "merge ran", "eval ran"]
    );

    let edited = fs::read_to_string(place.path("questions.jsonl"))
        .unwrap()
        .replace("number 0", "number 9");
    place.write("questions.jsonl", edited.as_bytes());
    let changed = run(&[]);
    assert!(
        changed
            .stderr
            .contains("data   runs again: input `questions.jsonl` changed"),
        "{}",
        changed.stderr
    );
}

#[test]
fn two_runs_of_a_recipe_are_the_same_bytes() {
    let place = Place::new();
    for out in ["one", "two"] {
        place.medtune(&["run", "recipe.toml", "--out", out]).ok();
    }
    for file in [
        "data/train.jsonl",
        "data/manifest.json",
        "adapter/adapter_model.safetensors",
        "adapter/manifest.json",
        "merged/model.safetensors",
        "merged/manifest.json",
        "eval/report.json",
        "eval/manifest.json",
    ] {
        let read = |out: &str| fs::read(place.path(out).join(file)).unwrap();
        assert_eq!(read("one"), read("two"), "{file}");
    }
}

#[test]
fn an_expectation_that_is_not_met_is_exit_code_1() {
    let place = Place::new();
    place.edit("recipe.toml", "at_least = 8.0", "at_least = 9.0");
    let said = place.medtune(&["run", "recipe.toml", "--out", "out"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(
        said.stdout
            .contains("NOT MET  tuned.which.items = 8.0000, expected at least 9"),
        "{}",
        said.stdout
    );
}

#[test]
fn commands_run_up_to_their_stage() {
    let place = Place::new();
    let built = place
        .medtune(&["build", "recipe.toml", "--out", "out"])
        .ok();
    assert_eq!(stages(&built.stderr), ["data ran"]);
    let trained = place
        .medtune(&["train", "recipe.toml", "--out", "out", "--json"])
        .ok();
    assert_eq!(stages(&trained.stderr), ["data kept", "train ran"]);
    assert_eq!(trained.json()["metrics"]["train.steps"], 4.0);
    let merged = place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    assert_eq!(
        stages(&merged.stderr),
        ["data kept", "train kept", "merge ran"]
    );
    let verified = place
        .medtune(&["verify", "recipe.toml", "--out", "out"])
        .ok();
    assert!(
        verified.stdout.ends_with("merged = base + adapter\n"),
        "{}",
        verified.stdout
    );
    let answer = place.medtune(&[
        "chat",
        "recipe.toml",
        "--out",
        "out",
        "--prompt",
        "Does it?",
        "--max-new-tokens",
        "3",
    ]);
    assert!(answer.ok().stdout.ends_with('\n'));
    place
        .medtune(&["plan", "recipe.toml", "--out", "out", "--json"])
        .ok()
        .json();
}

#[test]
fn a_merge_that_was_tampered_with_is_not_proven() {
    let place = Place::new();
    place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    let path = place.path("out/merged/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&path, bytes).unwrap();
    let said = place.medtune(&["verify", "recipe.toml", "--out", "out"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    assert!(
        said.stdout.contains("merged is not base + adapter"),
        "{}",
        said.stdout
    );
}

#[test]
fn any_adapter_is_merged_into_any_base() {
    let place = Place::new();
    // A base of files: train every weight once.
    place.edit("recipe.toml", "[adapter.lora]\nrank = 4\nalpha = 8.0\n", "");
    place.edit("recipe.toml", "[train]\n", "[train]\nmethod = \"full\"\n");
    place.edit("recipe.toml", "[merge]\n", "");
    place
        .medtune(&["train", "recipe.toml", "--out", "base"])
        .ok();
    let place_two = Place::new();
    let base = place.path("base/model").display().to_string();
    place_two.edit(
        "recipe.toml",
        "init = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"",
        &format!("path = \"{base}\""),
    );
    place_two
        .medtune(&["train", "recipe.toml", "--out", "tuned"])
        .ok();
    let merge = [
        "merge",
        "--base",
        &base,
        "--adapter",
        "tuned/adapter",
        "--into",
        "merged",
    ];
    place_two.medtune(&merge).ok();
    let verify = [
        "verify",
        "--base",
        &base,
        "--adapter",
        "tuned/adapter",
        "--merged",
        "merged",
        "--json",
    ];
    assert_eq!(place_two.medtune(&verify).ok().json()["holds"], true);
    let answer = place_two
        .medtune(&[
            "chat",
            "merged",
            "--prompt",
            "Does it?",
            "--max-new-tokens",
            "3",
        ])
        .ok();
    assert!(answer.stdout.ends_with('\n'));
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    let lock = fs::File::create(place.path("out/.lock")).unwrap();
    lock.lock().unwrap();
    insta::assert_snapshot!(place.medtune(&["run", "recipe.toml", "--out", "out"]).failure(), @"
    exit 2
    error: another medtune is working in `out`
    hint: wait for it, or give another folder with --out
    ");
}

#[cfg(unix)]
#[test]
fn a_training_that_is_stopped_goes_on_and_ends_the_same() {
    let place = Place::new();
    place
        .medtune(&[
            "train",
            "recipe.toml",
            "--out",
            "whole",
            "--set",
            "train.max_steps=400",
        ])
        .ok();
    let mut child = place
        .command(&[
            "train",
            "recipe.toml",
            "--out",
            "stopped",
            "--set",
            "train.max_steps=400",
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = place.path("stopped/train/steps.jsonl");
    while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 3 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be stopped"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert!(!place.path("stopped/adapter").exists());

    // What was learned so far is not thrown away for a changed setting.
    let other = place.medtune(&[
        "train",
        "recipe.toml",
        "--out",
        "stopped",
        "--set",
        "train.max_steps=9",
    ]);
    assert_eq!(other.code, 2);
    assert!(
        other
            .stderr
            .contains("is of another run: train.max_steps was 400 and is now 9"),
        "{}",
        other.stderr
    );

    let said = place
        .medtune(&[
            "train",
            "recipe.toml",
            "--out",
            "stopped",
            "--set",
            "train.max_steps=400",
        ])
        .ok();
    assert!(
        said.stderr.contains(" steps (from step "),
        "{}",
        said.stderr
    );
    for file in ["adapter_model.safetensors", "manifest.json"] {
        let read = |out: &str| fs::read(place.path(out).join("adapter").join(file)).unwrap();
        assert_eq!(read("whole"), read("stopped"), "{file}");
    }
}

#[test]
fn a_base_without_a_chat_template_is_asked_by_the_one_that_the_recipe_names() {
    let place = Place::new();
    let config = fs::read(place.path("shape/tokenizer_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config
        .as_object_mut()
        .unwrap()
        .remove("chat_template")
        .unwrap();
    place.write("shape/tokenizer_config.json", config.to_string().as_bytes());
    let recipe = "name = \"bare\"\n\n[model]\ninit = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"\n\n[eval]\ntasks = [\"tasks/which.toml\"]\n";
    place.write("bare.toml", recipe.as_bytes());
    let args = ["eval", "bare.toml", "--out", "bare"];
    insta::assert_snapshot!(place.medtune(&args).failure(), @r#"
    exit 2
    error: cannot write conversations for this model
      the tokenizer shape/tokenizer.json has no chat template
    hint: set data.template (for an evaluation eval.template) = "me-llama", or put a chat_template.jinja beside the tokenizer
    "#);
    let named = [&args[..], &["--set", "eval.template=\"me-llama\""]].concat();
    let said = place.medtune(&named).ok();
    assert!(said.stdout.contains("which (8 items"), "{}", said.stdout);
    let again = place.medtune(&named).ok();
    assert!(again.stderr.contains("eval   kept"), "{}", again.stderr);
}
