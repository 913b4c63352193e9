//! `medtune merge` on folders that lie anywhere: its options, its refusals, and being killed.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Place, Said};

fn merge(place: &Place, more: &[&str]) -> Said {
    let args = ["merge", "--base", "base", "--adapter", "adapter"];
    place.medtune(&[&args[..], more].concat())
}

/// A base folder of its own and an adapter trained on it.
fn base_and_adapter() -> Place {
    let place = Place::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/smollm.gguf");
    place.write("base.gguf", &fs::read(base).unwrap());
    for stage in [
        "[merge]\n",
        "[eval]\ntasks = [\"tasks/which.toml\"]\n",
        "[[expect]]\nmetric = \"tuned.which.items\"\nat_least = 8.0\n",
    ] {
        place.edit("recipe.toml", stage, "");
    }
    // Far enough that the adapter is seen through rounding.
    place.edit(
        "recipe.toml",
        "learning_rate = 1e-2",
        "learning_rate = 1e-1",
    );
    place.medtune(&["convert", "base.gguf", "base"]).ok();
    place.edit(
        "recipe.toml",
        "init = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"",
        "path = \"base\"",
    );
    place
        .medtune(&["train", "recipe.toml", "--out", "tuned"])
        .ok();
    fs::rename(place.path("tuned/adapter"), place.path("adapter")).unwrap();
    place
}

#[test]
fn any_adapter_is_merged_into_any_base_and_taken_out_again() {
    let place = base_and_adapter();
    let said = merge(
        &place,
        &["--into", "merged", "--shard-size", "100KB", "--json"],
    )
    .ok();
    let json = said.json();
    assert_eq!(json["merge"]["proof"]["problems"], serde_json::json!([]));
    let logits = &json["merge"]["logits"];
    let difference = logits["max_difference"].as_f64().unwrap();
    assert!(difference <= 1e-3 * logits["largest_logit"].as_f64().unwrap());
    assert!(place.path("merged/model.safetensors.index.json").exists());
    assert!(!place.path("merged/model.safetensors").exists());
    let manifest = fs::read_to_string(place.path("merged/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for output in manifest["outputs"].as_array().unwrap() {
        let name = output["path"].as_str().unwrap();
        let bytes = fs::read(place.path("merged").join(name)).unwrap();
        assert_eq!(
            output["sha256"],
            ledger::hash::sha256_bytes(&bytes),
            "{name}"
        );
    }
    place
        .medtune(&[
            "verify",
            "--base",
            "base",
            "--adapter",
            "adapter",
            "--merged",
            "merged",
        ])
        .ok();

    let taken = [
        "merge",
        "--base",
        "merged",
        "--adapter",
        "adapter",
        "--subtract",
    ];
    place
        .medtune(&[&taken[..], &["--into", "back", "--verify", "full"]].concat())
        .ok();
    let zero = place.medtune(&[
        "verify",
        "--base",
        "base",
        "--adapter",
        "adapter",
        "--merged",
        "back",
    ]);
    assert_eq!(zero.code, 1);
}

#[test]
fn a_qlora_adapter_goes_onto_what_training_saw_or_with_its_price_onto_what_is_stored() {
    let place = base_and_adapter();
    let said = merge(&place, &["--into", "seen", "--quantization", "nf4"]).ok();
    assert!(
        said.stderr
            .contains("they were widened, as training saw them"),
        "{}",
        said.stderr
    );
    let stored = [
        "--into",
        "stored",
        "--quantization",
        "nf4",
        "--onto",
        "stored",
        "--json",
    ];
    let json = merge(&place, &stored).ok().json();
    let onto = &json["merge"]["onto_stored"];
    // NF4 keeps a normal weight to about a tenth.
    let relative = onto["relative_to_weights"].as_f64().unwrap();
    assert!(relative > 0.01 && relative < 0.2, "{relative}");
    assert!(onto["logits"]["max_difference"].as_f64().unwrap() > 0.0);
    assert_ne!(
        fs::read(place.path("seen/model.safetensors")).unwrap(),
        fs::read(place.path("stored/model.safetensors")).unwrap()
    );
}

#[test]
fn refusals_leave_nothing() {
    let place = base_and_adapter();
    let mut said = String::new();
    for args in [
        &["--into", "base"][..],
        &["--into", "adapter"],
        &["--into", "out", "--shard-size", "5 gigs"],
        &["--into", "out", "--verify", "yes"],
    ] {
        said.push_str(&merge(&place, args).failure());
    }
    insta::assert_snapshot!(said, @"
        exit 2
        error: `base` is the base that is being read
        hint: choose another folder for the result
        exit 2
        error: `adapter` is the adapter that is being read
        hint: choose another folder for the result
        exit 2
        error: invalid value '5 gigs' for '--shard-size <SIZE>': give a size such as 5GB or 500MB

        For more information, try '--help'.
        exit 2
        error: invalid value 'yes' for '--verify <VERIFY>'
          [possible values: none, tensors, standard, full]

        For more information, try '--help'.
        ");
    // The adapter's own files, one wrong at a time.
    let model = fs::read(place.path("adapter/adapter_model.safetensors")).unwrap();
    let mut said = String::new();
    for (from, to) in [
        ("layers.1.mlp.up_proj.lora_B", "layers.1.mlp.up_proj.lora_C"),
        ("layers.1.mlp.up_proj.lora_B", "layers.7.mlp.up_proj.lora_B"),
        ("layers.1.mlp.up_proj.lora_B", "layers.1.mlp.no_proj.lora_B"),
    ] {
        let at = model
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        let mut bytes = model.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        place.write("adapter/adapter_model.safetensors", &bytes);
        said.push_str(&merge(&place, &["--into", "out"]).failure());
    }
    let mut bytes = model.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("adapter/adapter_model.safetensors", &bytes);
    said.push_str(&merge(&place, &["--into", "out"]).failure());
    place.write("adapter/adapter_model.safetensors", &model[..end - 5]);
    said.push_str(&merge(&place, &["--into", "out"]).failure());
    place.write("adapter/adapter_model.safetensors", &model);
    place.edit("adapter/adapter_config.json", "\"r\": 4", "\"r\": 5");
    said.push_str(&merge(&place, &["--into", "out"]).failure());
    insta::assert_snapshot!(said, @"
    exit 2
    error: adapter/adapter_model.safetensors: `base_model.model.model.layers.1.mlp.up_proj.lora_C.weight` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    exit 2
    error: adapter/adapter_model.safetensors: module `model.layers.1.mlp.up_proj` lacks `lora_B.weight`
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    exit 2
    error: adapter/adapter_model.safetensors: module `model.layers.1.mlp.no_proj` lacks `lora_A.weight`
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    exit 2
    error: tensor `base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight` holds a value that is not finite (element 63)
    hint: the training run that wrote it diverged: use an earlier checkpoint
    exit 2
    error: adapter/adapter_model.safetensors is truncated: it holds 57443 bytes and its header promises 57448
    hint: copy or download the file again
    exit 2
    error: adapter/adapter_model.safetensors: `base_model.model.model.layers.0.mlp.down_proj.lora_A.weight` has shape (4, 256), and the adapter's rank is 5
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    for name in ["out", "out.partial"] {
        assert!(!place.path(name).exists(), "{name} was left");
    }
}

/// However far it was: no folder of that name, and the next merge makes what one that was left alone makes.
#[test]
fn a_killed_merge_leaves_no_folder_and_the_next_completes_it() {
    let place = base_and_adapter();
    let began = Instant::now();
    merge(&place, &["--into", "alone"]).ok();
    let whole = began.elapsed();
    let expected = fs::read(place.path("alone/model.safetensors")).unwrap();
    let mut killed = 0;
    for twelfth in 0..12u32 {
        let args = [
            "merge",
            "--base",
            "base",
            "--adapter",
            "adapter",
            "--into",
            "killed",
        ];
        let mut child = place
            .command(&args)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        sleep(whole * twelfth / 12 + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        if place.path("killed").exists() {
            // It had come to its end: then it is whole.
            assert!(fs::read(place.path("killed/model.safetensors")).unwrap() == expected);
            assert!(place.path("killed/manifest.json").exists());
            fs::remove_dir_all(place.path("killed")).unwrap();
        } else {
            killed += 1;
        }
    }
    assert!(killed >= 3, "only {killed} merges were killed on their way");
    merge(&place, &["--into", "killed"]).ok();
    assert!(fs::read(place.path("killed/model.safetensors")).unwrap() == expected);
    assert!(!place.path("killed.partial").exists());
}
