//! What the commands that only print, print.

use super::Place;

#[test]
fn help_names_every_command() {
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["--help"]).ok().stdout, @"
    Tunes Llama-family models for medicine: builds the data, trains, merges and evaluates, as a recipe
    says

    Usage: medtune [OPTIONS] <COMMAND>

    Commands:
      run          Runs every stage of a recipe: data, training, merge, evaluation
      build        Builds a recipe's data: reads, cleans, splits, samples to quota, and says what it did
      train        Trains, after building the data
      fetch        Downloads a model of the Hugging Face Hub into the cache that its tools share
      merge        Merges an adapter into its base: a recipe's, or any two folders
      verify       Proves that a merged model is its base plus its adapter, tensor by tensor
      eval         Evaluates a recipe's model before and after tuning, or any models and endpoints
      chat         Talks with a model: a recipe's tuned one, a folder or a GGUF file
      plan         Says what a recipe would do: stages, files, sizes; runs nothing
      show         Shows a recipe's settings with where each comes from, or samples with their masks
      trace        Says where a sample came from: source, file, record, what cleaning did, and the packs
                   it is trained in
      report       Shows what a run came to, or compares several: tables, Markdown, JSON, or one HTML
                   page
      check        Finds every problem of recipes and evaluation tasks
      recipes      Lists, prints and copies the recipes that come with medtune
      adapter      Looks into adapters, combines them, extracts them from tuned models, and changes
                   their rank
      convert      Converts a GGUF file to a Hugging Face folder
      export       Writes a model, or an adapter, as a GGUF file for llama.cpp and what is built on it
      logits       Prints a model's logits for token ids, to compare with another implementation
      completions  Prints a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
          --json     Prints the result as JSON on stdout
      -h, --help     Print help
      -V, --version  Print version

    Examples:
      medtune run recipes/quickstart.toml            all stages of a recipe, into runs/quickstart
      medtune run RECIPE --set train.epochs=1        with one setting changed
      medtune check RECIPE                           every problem of a recipe, before anything runs
      medtune show RECIPE --sample 3                 its settings, and three of its samples
      medtune recipes list                           the recipes that come with medtune

    Exit codes: 0 done; 1 an [[expect]] of the recipe is not met; 2 a problem in what was given;
    3 a defect or a failing machine; 4 stopped, and the same command goes on from there.
    ");
}

#[test]
fn the_version_has_the_commit_if_there_is_one() {
    let said = Place::new().medtune(&["--version"]).ok().stdout;
    let version = said.trim().strip_prefix("medtune ").unwrap();
    let (number, commit) = version.split_once(" (").unwrap_or((version, "0000000)"));
    assert_eq!(number, env!("CARGO_PKG_VERSION"));
    let commit = commit.strip_suffix(')').unwrap();
    assert!(
        commit.len() == 7 && commit.chars().all(|c| c.is_ascii_hexdigit()),
        "{said}"
    );
}

#[test]
fn show_says_where_each_setting_comes_from() {
    let place = Place::new();
    place.write(
        "child.toml",
        b"extends = \"recipe.toml\"\n\n[train]\nmax_steps = 6\n",
    );
    let said = place
        .medtune(&["show", "child.toml", "--set", "seed=5"])
        .ok()
        .stdout;
    let chosen = [
        "name",
        "seed",
        "data.max_seq_len",
        "data.packing",
        "train.max_steps",
        "train.learning_rate",
    ];
    let starts = |line: &&str| {
        chosen
            .iter()
            .any(|key| line.starts_with(&format!("{key} =")))
    };
    insta::assert_snapshot!(said.lines().filter(starts).collect::<Vec<_>>().join("\n"), @r#"
    name = "tiny"                               # recipe.toml:1
    seed = 5                                    # --set seed=5
    data.max_seq_len = 128                      # recipe.toml:9
    data.packing = true                         # default
    train.max_steps = 6                         # child.toml:4
    train.learning_rate = 0.01                  # recipe.toml:23
    "#);
}

#[test]
fn show_prints_samples_with_what_is_learned() {
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["show", "recipe.toml", "--sample", "1"]).ok().stdout, @"
    --- questions/1: 19 tokens, 2 of them learned
    <|im_start|>user
    Does number 0 help?<|im_end|>
    <|im_start|>assistant
    ⟦yes<|im_end|>⟧


    6 training samples, 109 tokens, 12 of them learned; ⟦ ⟧ marks what is learned
    ");
    let json = place
        .medtune(&["show", "recipe.toml", "--sample", "2", "--json"])
        .ok()
        .json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(
        json[0]["input_ids"].as_array().unwrap().len(),
        json[0]["tokens"].as_array().unwrap().len()
    );
}

#[test]
fn plan_says_what_is_needed_and_runs_nothing() {
    let place = Place::new();
    place.edit("recipe.toml", "\"questions.jsonl\"", "\"other.jsonl\"");
    insta::assert_snapshot!(place.medtune(&["plan", "recipe.toml", "--machine", "h200"]).ok().stdout, @"
    tiny

    Stages, into runs/tiny
      data
      train
      merge
      eval

    Needs, with the data root .
      here     shape/config.json
      MISSING  other.jsonl
      here     questions.jsonl

    Asks
      which (log-likelihood), all items

    Training on h200 (memory is planned block by block; time is an estimate from the device's file, nothing was measured on it)
      parameters trained     4 096
      parameters frozen     84 128
      tokens at once           128
      recompute               none
      base weights        336.5 kB
      trained parameters   16.4 kB
      AdamW moments        32.8 kB
      saved activations   458.8 kB
      logits chunk          1.0 MB
      workspace            59.4 kB
      peak memory           2.0 MB
        of                148.5 GB
      disk                 65.5 kB
      GFLOP a token          0.000
      steps                      4
      time, at most          0.0 s
    ");
    assert!(!place.path("runs").exists());
}

#[test]
fn check_reads_recipes_and_tasks() {
    let place = Place::new();
    place.write("recipes/good.toml", include_bytes!("good.toml"));
    place.write("recipes/bad.toml", b"name = \"bad\"\nsed = 1\n");
    place.write("recipes/eval/which.toml", super::TASK.as_bytes());
    place.write("recipes/notes/other.toml", b"not = \"a recipe\"\n");
    let said = place.medtune(&["check"]);
    assert_eq!(said.code, 2);
    insta::assert_snapshot!(said.stdout, @"
    wrong  recipes/bad.toml
    error: the recipe has a problem
    recipes/bad.toml:2:1: unknown key `sed` in the recipe
      hint: did you mean `seed`?

    ok     recipes/eval/which.toml
    ok     recipes/good.toml
    1 of 3 are wrong
    ");
    let json = place.medtune(&["check", "recipes/bad.toml", "--json"]);
    assert_eq!(json.json()[0]["problems"][0]["line"], 2);
}

#[test]
fn recipes_are_listed_shown_and_copied() {
    let place = Place::new();
    let list = place.medtune(&["recipes", "list"]).ok().stdout;
    assert!(
        list.contains("quickstart") && list.contains("eval/mibe/pubmedqa"),
        "{list}"
    );
    let names = place.medtune(&["recipes", "list", "--json"]).ok().json();
    for entry in names.as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        place
            .medtune(&["recipes", "copy", name, &format!("copies/{name}")])
            .ok();
        assert!(place.path(&format!("copies/{name}/{name}.toml")).is_file());
    }
    let shown = place
        .medtune(&["recipes", "show", "quickstart"])
        .ok()
        .stdout;
    assert!(shown.contains("name = \"quickstart\""));
    insta::assert_snapshot!(place.medtune(&["recipes", "show", "quick"]).failure(), @"
    exit 2
    error: there is no recipe `quick` in medtune
    hint: `medtune recipes list` names them all
    ");
    place
        .medtune(&["recipes", "copy", "quickstart", "again"])
        .ok();
    insta::assert_snapshot!(place.medtune(&["recipes", "copy", "quickstart", "again"]).failure(), @"
    exit 2
    error: `again/quickstart.toml` is there already
    hint: copy into another folder, or remove it first
    ");
}

/// In a folder of one's own nothing is there but the program.
#[test]
fn a_task_that_comes_with_medtune_is_asked_where_it_was_copied_to() {
    let place = Place::new();
    let asked = |task| place.medtune(&["eval", "--model", "shape", "--task", task]);
    insta::assert_snapshot!(asked("pubmedqa").failure(), @"
    exit 2
    error: there is no task `pubmedqa`
    hint: it comes with medtune: `medtune recipes copy eval/mibe/pubmedqa` gives you its file
    ");
    insta::assert_snapshot!(asked("mibe:5").failure(), @"
    exit 2
    error: there is no task `mibe`
    hint: it comes with medtune: `medtune recipes copy eval/mibe` gives you its file
    ");
    place
        .medtune(&["recipes", "copy", "eval/mibe/pubmedqa"])
        .ok();
    // Both share a task, which nobody has changed.
    place.medtune(&["recipes", "copy", "eval/mibe"]).ok();
    let own = "name = \"own\"\n\n[model]\ninit = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"\n\n[eval]\ntasks = [\"pubmedqa\"]\n";
    place.write("own.toml", own.as_bytes());
    let said = place.medtune(&["eval", "own.toml"]).failure();
    assert!(said.contains("ori_pqal.json"), "{said}");
    // Wherever the run's folder is.
    let args = ["eval", "--model", "shape", "--task", "pubmedqa"];
    let deep = [&args[..], &["--out", "runs/a/b/c"]].concat();
    let said = place.medtune(&deep).failure();
    assert!(said.contains("shape is not a model"), "{said}");
    place
        .medtune(&["check", "eval/mibe.toml", "eval/mibe/hoc.toml"])
        .ok();
}

#[test]
fn completions_are_written_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(
            place
                .medtune(&["completions", shell])
                .ok()
                .stdout
                .contains("medtune"),
            "{shell}"
        );
    }
}
