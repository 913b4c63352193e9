//! `medtune adapter`: what it prints, and what it writes beside an adapter.

use std::fs;
use std::path::{Path, PathBuf};

use ledger::{AccessClass, Manifest};

use super::Place;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Copies a folder of files into the place.
fn copied(place: &Place, from: &str, to: &str) {
    for entry in fs::read_dir(golden(from)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap();
            place.write(&format!("{to}/{name}"), &fs::read(&path).unwrap());
        }
    }
}

/// States an adapter's terms.
fn under(place: &Place, folder: &str, access: AccessClass) {
    let manifest = Manifest {
        stage: "train".into(),
        program_version: "0".into(),
        inputs: vec![],
        settings: serde_json::Value::Null,
        outputs: vec![],
        counts: Default::default(),
        access,
        details: serde_json::Value::Null,
    };
    manifest.write(&place.path(folder)).unwrap();
}

fn place() -> Place {
    let place = Place::new();
    copied(&place, "combine/a", "a");
    copied(&place, "combine/b", "b");
    place
}

#[test]
fn an_adapter_is_shown() {
    let place = place();
    under(&place, "a", AccessClass::Credentialed);
    let said = place.medtune(&["adapter", "inspect", "a"]).ok();
    insta::assert_snapshot!(said.stdout, @"");
    let json = place.medtune(&["adapter", "inspect", "b", "--json"]).ok().json();
    assert_eq!(json["access"], "open");
    assert_eq!(json["method"], "rsLoRA");
    assert_eq!(json["modules"].as_array().unwrap().len(), 4);
}

#[test]
fn a_combination_says_what_it_is_made_of() {
    let place = place();
    under(&place, "b", AccessClass::Registered);
    let combine = ["adapter", "combine", "out", "a", "b", "--weights", "0.7,-0.4"];
    let said = place.medtune(&combine).ok();
    insta::assert_snapshot!(said.stderr, @"");
    let manifest = Manifest::read(&place.path("out")).unwrap().unwrap();
    assert_eq!((manifest.stage.as_str(), manifest.access), ("combine", AccessClass::Registered));
    let names = |files: &[ledger::FileHash]| -> Vec<String> {
        files.iter().map(|file| file.path.clone()).collect()
    };
    insta::assert_debug_snapshot!((names(&manifest.inputs), names(&manifest.outputs)), @"");
    insta::assert_snapshot!(manifest.settings.to_string(), @"");
    insta::assert_snapshot!(place.medtune(&combine).failure(), @"");
    // The same from another folder is the same to the byte.
    let other = ["adapter", "combine", "deep/out", "a", "b", "--method", "cat", "--weights=0.7,-0.4"];
    place.medtune(&other).ok();
    for name in ["adapter_model.safetensors", "adapter_config.json", "manifest.json"] {
        let read = |folder: &str| fs::read(place.path(folder).join(name)).unwrap();
        assert_eq!(read("out"), read("deep/out"), "{name}");
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let place = place();
    let said = place.medtune(&["adapter", "combine", "out", "a", "b", "--weights", "1,1", "--method", "ties"]);
    insta::assert_snapshot!(said.failure(), @"");
    let said = place.medtune(&["adapter", "resize", "a", "out", "--rank", "17"]);
    insta::assert_snapshot!(said.failure(), @"");
    let said = place.medtune(&["adapter", "inspect", "none"]);
    insta::assert_snapshot!(said.failure(), @"");
    assert!(!place.path("out").exists() && !place.path("out.partial").exists());
    assert_eq!(place.medtune(&["adapter", "combine", "out", "a", "--weights", "1"]).code, 2);
}

#[test]
fn a_rank_is_changed() {
    let place = place();
    under(&place, "a", AccessClass::Credentialed);
    let said = place.medtune(&["adapter", "resize", "a", "small", "--rank", "2"]).ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @"");
    let manifest = Manifest::read(&place.path("small")).unwrap().unwrap();
    assert_eq!(manifest.access, AccessClass::Credentialed);
    let said = place.medtune(&["adapter", "resize", "small", "large", "--rank", "5"]).ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @"");
}

#[test]
fn an_update_is_extracted() {
    let place = Place::new();
    copied(&place, "llama_linear_rope", "base");
    copied(&place, "mistral_window", "tuned");
    under(&place, "tuned", AccessClass::NonCommercial);
    let said = place.medtune(&["adapter", "extract", "base", "tuned", "out", "--rank", "3"]).ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @"");
    let manifest = Manifest::read(&place.path("out")).unwrap().unwrap();
    assert_eq!(manifest.access, AccessClass::NonCommercial);
    let json = place.medtune(&["adapter", "inspect", "out", "--json"]).ok().json();
    let base = manifest.inputs.iter().find(|file| file.path == "base").unwrap();
    assert_eq!(json["belonging"]["base_fingerprint"], base.sha256.as_str());
    let all = ["adapter", "extract", "base", "tuned", "all", "--rank", "3", "--save-rest", "--json"];
    let json = place.medtune(&all).ok().json();
    assert!(json["rest"].as_array().unwrap().iter().all(|rest| rest["saved"] == true));
}
