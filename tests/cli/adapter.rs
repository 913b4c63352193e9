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
    insta::assert_snapshot!(said.stdout, @r"
      method       LoRA
      rank, alpha  3, 7
      scaling      2.3333333333333335
      dropout      0
      targets      q_proj, v_proj
      modules      4
      parameters   960
      base         not named (no fingerprint)
      tokenizer    not known
      access       credentialed
      norm         29.1402

    norm of the update by layer and target
      layer   q_proj  v_proj      all
      0      18.1039  9.7445  20.5598
      1      18.1919  9.7725  20.6506

    modules by norm
      module                           out × in     norm  largest σ  stable rank  effective rank
      model.layers.1.self_attn.q_proj   48 × 48  18.1919    12.7470         2.04            2.95
      model.layers.0.self_attn.q_proj   48 × 48  18.1039    13.5141         1.79            2.91
      model.layers.1.self_attn.v_proj   16 × 48   9.7725     7.3320         1.78            2.91
      model.layers.0.self_attn.v_proj   16 × 48   9.7445     7.5119         1.68            2.89
    ");
    let json = place
        .medtune(&["adapter", "inspect", "b", "--json"])
        .ok()
        .json();
    assert_eq!(json["access"], "open");
    assert_eq!(json["method"], "rsLoRA");
    assert_eq!(json["modules"].as_array().unwrap().len(), 4);
}

#[test]
fn a_combination_says_what_it_is_made_of() {
    let place = place();
    under(&place, "b", AccessClass::Registered);
    let combine = [
        "adapter",
        "combine",
        "out",
        "a",
        "b",
        "--weights",
        "0.7,-0.4",
    ];
    let said = place.medtune(&combine).ok();
    insta::assert_snapshot!(said.stderr, @r"
    warning: `a` does not say which base it belongs to
    warning: `b` does not say which base it belongs to
    2 adapters as one of rank 6: 6 modules, in out
    ");
    let manifest = Manifest::read(&place.path("out")).unwrap().unwrap();
    assert_eq!(
        (manifest.stage.as_str(), manifest.access),
        ("combine", AccessClass::Registered)
    );
    let names = |files: &[ledger::FileHash]| -> Vec<String> {
        files.iter().map(|file| file.path.clone()).collect()
    };
    insta::assert_debug_snapshot!((names(&manifest.inputs), names(&manifest.outputs)), @r#"
    (
        [
            "adapter-1/adapter_config.json",
            "adapter-1/adapter_model.safetensors",
            "adapter-2/adapter_config.json",
            "adapter-2/adapter_model.safetensors",
        ],
        [
            "adapter_config.json",
            "adapter_model.safetensors",
        ],
    )
    "#);
    insta::assert_snapshot!(manifest.settings.to_string(), @r#"{"method":"linear","weights":[0.7,-0.4],"density":null,"rank":null,"seed":0,"force":false}"#);
    insta::assert_snapshot!(place.medtune(&combine).failure(), @r"
    exit 2
    error: `out` is there already
    hint: give another folder, or remove it first
    ");
    // The same from another folder is the same to the byte.
    let other = [
        "adapter",
        "combine",
        "deep/out",
        "a",
        "b",
        "--method",
        "cat",
        "--weights=0.7,-0.4",
    ];
    place.medtune(&other).ok();
    for name in [
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
    ] {
        let read = |folder: &str| fs::read(place.path(folder).join(name)).unwrap();
        assert_eq!(read("out"), read("deep/out"), "{name}");
    }
}

#[test]
fn a_failure_leaves_nothing() {
    let place = place();
    let said = place.medtune(&[
        "adapter",
        "combine",
        "out",
        "a",
        "b",
        "--weights",
        "1,1",
        "--method",
        "ties",
    ]);
    insta::assert_snapshot!(said.failure(), @r"
    exit 2
    error: method ties needs a density
    hint: --density is the share of the numbers that is kept, above 0 and at most 1: TIES was published with 0.2, DARE with 0.1 and more
    ");
    let said = place.medtune(&["adapter", "resize", "a", "out", "--rank", "17"]);
    insta::assert_snapshot!(said.failure(), @r"
    exit 2
    error: rank 17 is more than module `model.layers.0.self_attn.v_proj` (16 × 48) has
    hint: ask for at most 16, or leave the module out
    ");
    let said = place.medtune(&["adapter", "inspect", "none"]);
    insta::assert_snapshot!(said.failure(), @r"
    exit 2
    error: none/adapter_config.json does not exist
    hint: an adapter is a folder with adapter_config.json and adapter_model.safetensors
    ");
    assert!(!place.path("out").exists() && !place.path("out.partial").exists());
    assert_eq!(
        place
            .medtune(&["adapter", "combine", "out", "a", "--weights", "1"])
            .code,
        2
    );
}

#[test]
fn a_rank_is_changed() {
    let place = place();
    under(&place, "a", AccessClass::Credentialed);
    let said = place
        .medtune(&["adapter", "resize", "a", "small", "--rank", "2"])
        .ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @r"
      module                              norm     kept
      model.layers.1.self_attn.q_proj  18.1919  78.96 %
      model.layers.1.self_attn.v_proj   9.7725  82.09 %
      model.layers.0.self_attn.q_proj  18.1039  82.41 %
      model.layers.0.self_attn.v_proj   9.7445  82.61 %
    rank 3 to 2 (alpha 4.666666666666666), 81.05 % of the update kept, in small
    ");
    let manifest = Manifest::read(&place.path("small")).unwrap().unwrap();
    assert_eq!(manifest.access, AccessClass::Credentialed);
    let said = place
        .medtune(&["adapter", "resize", "small", "large", "--rank", "5"])
        .ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @"rank 2 to 5 (alpha 11.666666666666664), 100.00 % of the update kept, in large");
}

#[test]
fn an_update_is_extracted() {
    let place = Place::new();
    copied(&place, "llama_linear_rope", "base");
    copied(&place, "mistral_window", "tuned");
    under(&place, "tuned", AccessClass::NonCommercial);
    let said = place
        .medtune(&["adapter", "extract", "base", "tuned", "out", "--rank", "3"])
        .ok();
    insta::assert_snapshot!(said.stdout + &said.stderr, @r"
      module                          norm     kept
      model.layers.0.mlp.gate_proj  9.4947  25.18 %
      model.layers.0.mlp.down_proj  7.8236  25.70 %
      model.layers.1.mlp.down_proj  8.0701  26.09 %
      model.layers.0.mlp.up_proj    9.2963  26.19 %
      model.layers.1.mlp.up_proj    9.4356  26.76 %
    warning: these differ, have no low-rank update, and are NOT in the adapter; --save-rest saves them whole:
      lm_head.weight                                  output head   1.4e0
      model.embed_tokens.weight                         embedding   1.4e0
      model.layers.0.input_layernorm.weight                  norm  1.5e-1
      model.layers.0.post_attention_layernorm.weight         norm  1.5e-1
      model.layers.1.input_layernorm.weight                  norm  1.5e-1
      model.layers.1.post_attention_layernorm.weight         norm  1.3e-1
      model.norm.weight                                      norm  1.2e-1
    14 modules at rank 3, 29.18 % of their change kept, 9.62 % of the whole change, in out
    ");
    let manifest = Manifest::read(&place.path("out")).unwrap().unwrap();
    assert_eq!(manifest.access, AccessClass::NonCommercial);
    let json = place
        .medtune(&["adapter", "inspect", "out", "--json"])
        .ok()
        .json();
    let base = manifest
        .inputs
        .iter()
        .find(|file| file.path == "base")
        .unwrap();
    assert_eq!(json["belonging"]["base_fingerprint"], base.sha256.as_str());
    let all = [
        "adapter",
        "extract",
        "base",
        "tuned",
        "all",
        "--rank",
        "3",
        "--save-rest",
        "--json",
    ];
    let json = place.medtune(&all).ok().json();
    assert!(
        json["rest"]
            .as_array()
            .unwrap()
            .iter()
            .all(|rest| rest["saved"] == true)
    );
}
