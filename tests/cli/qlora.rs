//! A base that is quantized as it is loaded, through every stage.

use super::Place;

fn quantized() -> Place {
    let place = Place::new();
    place.edit(
        "recipe.toml",
        "tokenizer = \"shape\"",
        "tokenizer = \"shape\"\nquantization = \"nf4\"",
    );
    place
}

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];

#[test]
fn a_quantized_base_is_tuned_merged_and_evaluated() {
    let place = quantized();
    let first = place.medtune(&RUN).ok();
    assert!(
        first.stderr.contains("14 of 20 tensors changed, proven"),
        "{}",
        first.stderr
    );
    let kept = place.medtune(&RUN).ok();
    assert_eq!(kept.stderr.matches(" kept: ").count(), 4, "{}", kept.stderr);
    // Without quantization it is another base.
    place.edit("recipe.toml", "quantization = \"nf4\"", "");
    let plain = place.medtune(&RUN).ok();
    assert_eq!(
        plain.stderr.matches(" kept: ").count(),
        1,
        "{}",
        plain.stderr
    );
}

#[test]
fn the_plan_counts_the_base_as_it_is_kept() {
    let bytes = |place: &Place| {
        let plan = place
            .medtune(&["plan", "recipe.toml", "--out", "out", "--json"])
            .ok()
            .json();
        let parts = plan["train"][0]["memory"].as_array().unwrap();
        let base = parts.iter().find(|part| part["part"] == "base weights");
        base.unwrap()["bytes"].as_u64().unwrap()
    };
    // A layer has q and o of 32 × 32, k and v of 16 × 32, and three of 64 × 32: of 64 elements each block has 32
    // bytes of codes and one of absmax, and a tensor 8 bytes more.
    let elements = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
    let blocks = elements / 64;
    assert_eq!(
        bytes(&Place::new()) - bytes(&quantized()),
        4 * elements - (33 * blocks + 14 * 8)
    );
}

#[test]
fn quantized_weights_are_not_trained() {
    let place = quantized();
    place.edit("recipe.toml", "[train]", "[train]\nmethod = \"full\"");
    place.edit("recipe.toml", "[adapter.lora]\nrank = 4\nalpha = 8.0\n", "");
    place.edit("recipe.toml", "[merge]\n", "");
    insta::assert_snapshot!(place.medtune(&RUN).failure(), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:7:1: quantized weights are not trained, and train.method is "full"
      hint: train an adapter on the quantized base (QLoRA), or remove `quantization`
    "#);
    let place = quantized();
    place.edit("recipe.toml", "\"nf4\"", "\"fp4\"");
    insta::assert_snapshot!(place.medtune(&RUN).failure(), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:7:16: `model.quantization` is the string "fp4", expected `nf4`
    "#);
}
