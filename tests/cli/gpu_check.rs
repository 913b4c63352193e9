//! `medtune gpu-check` and `scripts/gpu-check`, rehearsed on the processor at tiny sizes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Place, Said};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// The script on the processor, with these arguments and variables.
fn script(out: &Path, args: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(Path::new(TREE).join("scripts/gpu-check"));
    command
        .args(["-b", env!("CARGO_BIN_EXE_medtune"), "-t", "-o"])
        .arg(out)
        .args(args)
        .env("DEVICE", "cpu")
        .env("SEED", "7")
        // Which has no torch, and whatever this machine has.
        .env("PYTHON", "false")
        .envs(variables.iter().copied());
    Said::of(command.output().unwrap())
}

fn record(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("gpu-check.json")).unwrap()).unwrap()
}

fn outcome<'a>(record: &'a Value, stage: &str) -> &'a Value {
    let mut stages = record["stages"].as_array().unwrap().iter();
    let found = stages.rfind(|found| found["stage"] == stage);
    found.map_or(&Value::Null, |found| &found["outcome"])
}

#[test]
fn without_a_gpu_it_says_what_device_cuda_says() {
    let place = Place::new();
    if !cfg!(feature = "cuda") {
        insta::assert_snapshot!(place.medtune(&["gpu-check", "ops"]).failure(), @"
        exit 2
        error: this build of medtune cannot compute on `cuda`
        hint: leave --device out: every recipe runs on the CPU; scripts/cuda-build makes a build that computes on NVIDIA GPUs
        ");
    }
    let row = place.medtune(&[
        "gpu-check",
        "--device",
        "cpu",
        "speed-train",
        "--row",
        "13b",
    ]);
    insta::assert_snapshot!(row.failure(), @"
    exit 2
    error: there is no row `13b`
    hint: rows are: 7b-lora, 8b-lora, 13b-lora, 13b-lora-mix, 13b-qlora, 13b-full, 70b-qlora, 70b-lora
    ");
    // Its own files are elsewhere: the stage fails, and says which folder is meant.
    let said = place.medtune(&["gpu-check", "--device", "cpu", "gradients"]);
    assert_eq!(said.code, 1);
    let failed = said.stdout.lines().filter(|line| line.starts_with("  "));
    let failed: Vec<&str> = failed.map(str::trim).collect();
    insta::assert_snapshot!(failed.join("\n"), @"
    error: there is no `./tests/golden`
    hint: name the folder that holds medtune's recipes with --tree
    ");
}

#[test]
fn the_script_makes_one_record_of_all_stages() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("check");
    let stages = [
        "report",
        "ops",
        "gradients",
        "ceilings",
        "speed-ops",
        "speed-train/13b-qlora",
    ];
    let said = script(&out, &stages, &[]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let found = record(&out);
    for (stage, expected) in [
        ("report", "measured"),
        ("ops", "passed"),
        ("gradients", "passed"),
        ("ceilings", "measured"),
        ("speed-ops", "measured"),
        ("speed-train/13b-qlora", "measured"),
    ] {
        assert_eq!(outcome(&found, stage), expected, "{stage}");
    }
    assert_eq!(found["rehearsal"], "on the processor");
    let markdown = std::fs::read_to_string(out.join("gpu-check.md")).unwrap();
    assert!(
        markdown.contains("## ops: passed") && markdown.contains("| rms_norm |"),
        "{markdown}"
    );

    // Of a rehearsal no figure is kept, and the table of results stays as it is.
    let results: PathBuf = folder.path().join("results.csv");
    std::fs::write(&results, "date\n").unwrap();
    let said = script(&out, &["-a", results.to_str().unwrap(), "report"], &[]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(
        said.stderr.contains("this is a rehearsal"),
        "{}",
        said.stderr
    );
    assert_eq!(std::fs::read_to_string(&results).unwrap(), "date\n");
    // What was found before is kept.
    assert_eq!(outcome(&record(&out), "ops"), "passed");
}

#[test]
fn a_stage_that_does_not_end_has_failed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("check");
    let said = script(&out, &["ops", "peers/7b-lora"], &[("STAGE_SECS", "0.001")]);
    assert_eq!(said.code, 1, "{}{}", said.stdout, said.stderr);
    let found = record(&out);
    assert_eq!(outcome(&found, "ops"), "failed");
    assert_eq!(outcome(&found, "peers/7b-lora"), "failed");
    assert_eq!(script(&out, &["everything"], &[]).code, 2);
}

/// The processor beside itself: the same losses, and two kills that leave no trace.
#[test]
fn a_training_is_killed_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("check");
    let said = script(&out, &["train"], &[]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let found = record(&out);
    assert_eq!(outcome(&found, "train"), "passed");
    let stages = found["stages"].as_array().unwrap();
    let figures = stages
        .iter()
        .flat_map(|stage| stage["figures"].as_array().unwrap());
    let value = |what: &str| figures.clone().find(|f| f["what"] == what).unwrap()["value"].as_f64();
    assert_eq!(value("bf16: largest difference of a loss"), Some(0.0));
    assert!(value("kills survived").is_some_and(|kills| kills >= 1.0));
}
