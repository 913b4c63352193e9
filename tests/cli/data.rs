//! Building data: its plan, where samples come from, and who may see them.

use serde_json::json;

use super::Place;

const SECRET: &str = "\nlicence = \"PhysioNet 1.5\"\naccess = \"credentialed\"\nphi = \"allow\"";

fn place() -> Place {
    let place = Place::new();
    let more = "path = \"questions.jsonl\"\nquota = 5\nkind = \"QA\"";
    place.edit("recipe.toml", "path = \"questions.jsonl\"", more);
    place
}

#[test]
fn a_plan_says_what_is_there_and_how_to_get_the_rest() {
    let place = place();
    let more = "[[data.source]]\nname = \"notes\"\nformat = \"mimic-iii-notes\"\npath = \"mimic/NOTEEVENTS.csv.gz\"\n\
        tables = { admissions = \"mimic/ADMISSIONS.csv.gz\" }\nobtain = \"PhysioNet: mimiciii 1.4\"\nexpected_records = 2083180\n\
        access = \"credentialed\"\n\n[adapter.lora]";
    place.edit("recipe.toml", "[adapter.lora]", more);
    let said = place.medtune(&["build", "recipe.toml", "--plan"]).ok();
    insta::assert_snapshot!(said.stdout, @"
    tiny

      source     kind  quota  group    records        access          files
      questions    QA      5      -          -          open  1 (540 bytes)
      notes         -      -      -  2 083 180  credentialed        MISSING
    quotas together: 5 samples

    Missing, below .
      notes: mimic/NOTEEVENTS.csv.gz, mimic/ADMISSIONS.csv.gz
        PhysioNet: mimiciii 1.4
    ");
    assert!(!place.path("runs").exists(), "a plan builds nothing");
    let refused = place.medtune(&["build", "recipe.toml", "--out", "out"]);
    insta::assert_snapshot!(refused.failure(), @"
    exit 2
    error: sources that are missing: 1
      notes: mimic/NOTEEVENTS.csv.gz, mimic/ADMISSIONS.csv.gz
        PhysioNet: mimiciii 1.4
    hint: put the files under --data-root, or build the rest with --allow-missing
    ");
    place
        .medtune(&["build", "recipe.toml", "--out", "out", "--allow-missing"])
        .ok();
    let manifest = std::fs::read_to_string(place.path("out/data/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["details"]["sources"][1]["missing"], json!(true));
    assert_eq!(manifest["access"], "open", "nothing credentialed was read");
}

#[test]
fn a_sample_is_traced_to_its_record_and_its_steps() {
    let place = place();
    place
        .medtune(&["train", "recipe.toml", "--out", "out"])
        .ok();
    let train = std::fs::read_to_string(place.path("out/data/train.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(train.lines().next().unwrap()).unwrap();
    let id = first["id"].as_str().unwrap();
    for run in ["out", "recipe.toml"] {
        let facts = place
            .medtune(&["trace", run, id, "--out", "out", "--json"])
            .ok()
            .json();
        assert_eq!(facts["file"], "questions.jsonl", "{run}");
        assert_eq!(facts["record"], first["provenance"]["record"]);
        assert_eq!(facts["file_sha256"].as_str().unwrap().len(), 64);
        // Four steps of one pack that holds all.
        assert_eq!(facts["packs"].as_array().unwrap().len(), 4, "{facts}");
        assert!(facts.get("sample").is_none(), "text only with --reveal");
    }
    let said = place.medtune(&["trace", "out", id, "--reveal"]).ok();
    assert!(said.stdout.contains("Does number"), "{}", said.stdout);
    insta::assert_snapshot!(place.medtune(&["trace", "out", "questions/99"]).failure(), @"
    exit 2
    error: no sample or record `questions/99` in `out/data`
    hint: ids are SOURCE/RECORD, as in train.jsonl and dropped.jsonl; records beyond a quota are not listed
    ");
    insta::assert_snapshot!(place.medtune(&["trace", "recipe.toml", "questions/1", "--out", "none"]).failure(), @"
    exit 2
    error: there is no built data in `none`
    hint: build it first with `medtune build RECIPE`, or name its folder
    ");
}

#[test]
fn a_record_that_was_left_out_is_traced_to_its_reason() {
    let place = place();
    let rows = std::fs::read_to_string(place.path("questions.jsonl")).unwrap();
    let again = format!("{rows}{}\n", rows.lines().next().unwrap());
    place.write("questions.jsonl", again.as_bytes());
    place
        .medtune(&["build", "recipe.toml", "--out", "out"])
        .ok();
    let said = place.medtune(&["trace", "out", "questions/9"]).ok();
    insta::assert_snapshot!(said.stdout, @"
    questions/9: left out, exact duplicate
      kept is     questions/1
    ");
}

#[test]
fn credentialed_text_is_shown_to_those_who_say_that_they_may() {
    let place = place();
    place.edit(
        "recipe.toml",
        "\nquota = 5",
        &format!("{SECRET}\nquota = 5"),
    );
    let show = ["show", "recipe.toml", "--sample", "1", "--out", "out"];
    insta::assert_snapshot!(place.medtune(&show).failure(), @"
    exit 2
    error: `show --sample` would show or export credentialed text: questions (PhysioNet 1.5)
    hint: if you have signed these terms, say so with --i-have-credentials; the run records it
    ");
    let parquet = ["build", "recipe.toml", "--parquet", "--out", "out"];
    insta::assert_snapshot!(place.medtune(&parquet).failure(), @"
    exit 2
    error: `build --parquet` would show or export credentialed text: questions (PhysioNet 1.5)
    hint: if you have signed these terms, say so with --i-have-credentials; the run records it
    ");
    for command in [&show[..], &parquet[..]] {
        let command = [command, &["--i-have-credentials"]].concat();
        place.medtune(&command).ok();
    }
    assert!(place.path("out/data/train.parquet").exists());
    let trace = ["trace", "out", "questions/1", "--reveal"];
    assert_eq!(place.medtune(&trace).code, 2);
    let log = std::fs::read_to_string(place.path("out/access-log.jsonl")).unwrap();
    let commands: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["command"].clone())
        .collect();
    assert_eq!(commands, ["show --sample", "build --parquet"]);
    assert!(log.contains("questions (PhysioNet 1.5)"), "{log}");
    // The class goes with everything that is made of it.
    place
        .medtune(&["run", "recipe.toml", "--out", "out", "--fresh"])
        .ok();
    for stage in ["data", "adapter", "merged", "eval"] {
        let manifest =
            std::fs::read_to_string(place.path(&format!("out/{stage}/manifest.json"))).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["access"], "credentialed", "{stage}");
    }
}

#[test]
fn a_recipe_that_only_builds_data_needs_no_model() {
    let place = Place::new();
    let recipe = "name = \"only\"\n\n[data]\n\n[[data.source]]\nname = \"questions\"\nformat = \"alpaca\"\npath = \"questions.jsonl\"\n";
    place.write("only.toml", recipe.as_bytes());
    place.medtune(&["build", "only.toml", "--out", "out"]).ok();
    let said = place.medtune(&["show", "only.toml", "--sample", "1"]).ok();
    insta::assert_snapshot!(said.stdout, @"
    --- questions/1
    [user]
    Does number 0 help?
    [assistant]
    yes

    8 training samples; the recipe has no model, so what is learned is not marked
    ");
    let said = place.medtune(&["plan", "only.toml"]).ok();
    insta::assert_snapshot!(said.stdout, @"
    only

    Stages, into runs/only
      data

    Needs, with the data root .
      here     questions.jsonl
    ");
    let trained = format!("{recipe}\n[train]\nmethod = \"full\"\n");
    place.write("only.toml", trained.as_bytes());
    insta::assert_snapshot!(place.medtune(&["train", "only.toml"]).failure(), @"
    exit 2
    error: the recipe has a problem
    only.toml:1:1: [model] says neither `path` nor `init`
      hint: name a Hugging Face folder or a GGUF file with model.path
    ");
}
