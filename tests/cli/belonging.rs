//! An adapter on a base that it was not trained on: refused before anything is computed, with what differs.

use super::Place;

/// A place with a trained adapter, and its recipe's other base.
fn trained() -> Place {
    let place = Place::new();
    place.medtune(&["train", "recipe.toml"]).ok();
    place
}

fn failing(place: &Place, args: &[&str]) -> String {
    let said = place.medtune(args).failure();
    let lines = said
        .lines()
        .filter(|line| !line.starts_with("data ") && !line.starts_with("train "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_an_adapter_belongs_to_is_recorded() {
    let place = trained();
    let text = std::fs::read_to_string(place.path("runs/tiny/adapter/medtune.json")).unwrap();
    let recorded: serde_json::Value = serde_json::from_str(&text).unwrap();
    let base = &recorded["base"];
    assert_eq!(base["quantization"], serde_json::Value::Null);
    assert_eq!(base["vocabulary"]["rows"], 2048);
    assert_eq!(base["config"]["hidden_size"], 32);
    assert_eq!(base["config"]["rope_scaling"], serde_json::Value::Null);
    for hash in ["config_sha256", "weights_sha256"] {
        assert_eq!(base[hash].as_str().unwrap().len(), 64, "{hash}");
    }
    place.edit(
        "recipe.toml",
        "tokenizer = \"shape\"",
        "tokenizer = \"shape\"\nquantization = \"nf4\"",
    );
    place
        .medtune(&["train", "recipe.toml", "--out", "quantized"])
        .ok();
    let text = std::fs::read_to_string(place.path("quantized/adapter/medtune.json")).unwrap();
    let quantized: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(quantized["base"]["quantization"], "nf4");
    // The same base in the same files, computed with in another form.
    assert_ne!(quantized["base_fingerprint"], recorded["base_fingerprint"]);
    assert_eq!(quantized["base"]["weights_sha256"], base["weights_sha256"]);
}

#[test]
fn another_base_is_refused() {
    let place = trained();
    let start = "[model]\nadapter = \"runs/tiny/adapter\"";
    place.edit("recipe.toml", "[model]", start);
    // The same shapes, computed otherwise, so that nothing but the record can tell.
    place.edit("shape/config.json", "10000.0", "20000.0");
    insta::assert_snapshot!(failing(&place, &["train", "recipe.toml", "--out", "other"]), @"
    exit 2
    error: the adapter was trained on another base: rope_theta is 20000.0 here and 10000.0 in the adapter's base
    hint: use the base that it was trained on; `medtune merge --base BASE --adapter ADAPTER --into DIR --force` merges all the same, and records what differs
    ");
    let base = format!("{}/recipes/quickstart/base", env!("CARGO_MANIFEST_DIR"));
    let chat = [
        "chat",
        &base,
        "--adapter",
        "runs/tiny/adapter",
        "--prompt",
        "x",
    ];
    let said = failing(&place, &chat);
    assert!(
        said.starts_with("exit 2\nerror: the adapter was trained on another base: "),
        "{said}"
    );
    assert!(said.contains("hidden_size is "), "{said}");
    let logits = [
        "logits",
        &base,
        "--adapter",
        "runs/tiny/adapter",
        "--ids",
        "1",
    ];
    assert!(failing(&place, &logits).contains("trained on another base"));
    place.edit("recipe.toml", "[train]", "[trains]");
    let text = std::fs::read_to_string(place.path("recipe.toml")).unwrap();
    let (head, rest) = text.split_once("[trains]").unwrap();
    let tail = rest.split_once("[merge]\n").unwrap().1;
    let adapter = head.split_once("[adapter.lora]").unwrap().0;
    place.write("eval.toml", format!("{adapter}{tail}").as_bytes());
    let said = failing(&place, &["eval", "eval.toml", "--out", "evaluated"]);
    assert!(said.contains("rope_theta is 20000.0 here"), "{said}");
}
