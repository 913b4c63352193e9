//! Models and adapters as GGUF files.

use super::Place;

/// A place where the recipe has been run up to the merge.
fn merged() -> Place {
    let place = Place::new();
    place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    place
}

const IDS: &str = "1,40,700,12,5,2";

#[test]
fn a_merged_model_answers_from_its_gguf_file_as_from_its_folder() {
    let place = merged();
    let logits = |model: &str| {
        place
            .medtune(&["logits", model, "--ids", IDS, "--json"])
            .ok()
            .stdout
    };
    let said = place
        .medtune(&["export", "out/merged", "model.gguf", "--type", "f32"])
        .ok();
    insta::assert_snapshot!(said.stderr, @"20 tensors (20 F32), 400.6 kB in model.gguf");
    assert_eq!(logits("model.gguf"), logits("out/merged"));
    // And its tokenizer is the folder's.
    place.medtune(&["convert", "model.gguf", "back"]).ok();
    assert_eq!(logits("back"), logits("out/merged"));
}

#[test]
fn rows_that_are_no_blocks_are_listed() {
    let place = merged();
    let said = place
        .medtune(&["export", "out/merged", "model.gguf", "--type", "q4_k"])
        .ok();
    insta::assert_snapshot!(said.stderr, @r"
    blk.*.attn_k.weight (2 tensors): Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    blk.*.attn_output.weight (2 tensors): Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    blk.*.attn_q.weight (2 tensors): Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    blk.*.attn_v.weight: Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    blk.*.attn_v.weight: Q8_0 instead of Q6_K, whose blocks do not divide rows of 32
    blk.*.ffn_down.weight: Q5_0 instead of Q4_K, whose blocks do not divide rows of 64
    blk.*.ffn_down.weight: Q8_0 instead of Q6_K, whose blocks do not divide rows of 64
    blk.*.ffn_gate.weight (2 tensors): Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    blk.*.ffn_up.weight (2 tensors): Q5_0 instead of Q4_K, whose blocks do not divide rows of 32
    token_embd.weight: Q8_0 instead of Q6_K, whose blocks do not divide rows of 32
    20 tensors (5 F32, 12 Q5_0, 3 Q8_0), 148.0 kB in model.gguf
    ");
    let json = place
        .medtune(&[
            "export",
            "out/merged",
            "again.gguf",
            "--type",
            "q4_k",
            "--json",
        ])
        .ok()
        .json();
    let fallbacks = json["export"]["fallbacks"].as_array().unwrap();
    assert_eq!(fallbacks.len(), 15);
    assert_eq!(json["file"], "again.gguf");
    assert_eq!(json["export"]["types"]["Q5_0"], 12);
    let read = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(read("model.gguf") == read("again.gguf"));
}

#[test]
fn an_adapter_is_exported_for_its_base() {
    let place = merged();
    // The recipe's base is made of a seed; any model of its shape is a base.
    let args = [
        "export",
        "--adapter",
        "out/adapter",
        "--base",
        "out/merged",
        "lora.gguf",
    ];
    let said = place.medtune(&args).ok();
    insta::assert_snapshot!(said.stderr, @"28 tensors (28 F32), 18.5 kB in lora.gguf");
    insta::assert_snapshot!(place.medtune(&args).failure(), @r"
    exit 2
    error: `lora.gguf` is there already
    hint: give another file, or remove it first
    ");
    insta::assert_snapshot!(place.medtune(&["export", "out/merged"]).failure(), @r"
    exit 2
    error: a model and the file to write are needed
    hint: medtune export MODEL OUT.gguf
    ");
    let two = [
        "export",
        "--adapter",
        "out/adapter",
        "--base",
        "out/merged",
        "a",
        "b",
    ];
    insta::assert_snapshot!(place.medtune(&two).failure(), @r"
    exit 2
    error: an adapter is exported to one file
    hint: medtune export --adapter DIR --base MODEL OUT.gguf
    ");
    let four_bits = [&args[..5], &["lora4.gguf", "--type", "q4_k"]].concat();
    insta::assert_snapshot!(place.medtune(&four_bits).failure(), @r"
    exit 2
    error: dtype q4_k is not one of f32, f16, bf16, q8_0 for an adapter
    ");
    assert!(!place.path("lora4.gguf").exists());
}

#[test]
fn a_vocabulary_without_a_name_asks_for_one() {
    let place = merged();
    // The first is the one that cuts.
    let (cut, whole) = ("\"use_regex\": true", "\"use_regex\": false");
    place.edit("out/merged/tokenizer.json", cut, whole);
    let failure = |pre: &[&str]| {
        let args = [&["export", "out/merged", "model.gguf"], pre].concat();
        place.medtune(&args).failure()
    };
    insta::assert_snapshot!(failure(&[]), @r"
    exit 2
    error: out/merged/tokenizer.json: the way this vocabulary cuts text into words has no known tokenizer.ggml.pre
    hint: if llama.cpp has a name for it, give it with --pre; see `get_vocab_base_pre` in its convert_hf_to_gguf.py
    ");
    insta::assert_snapshot!(failure(&["--pre", "qwen2"]), @r#"
    exit 2
    error: out/merged/tokenizer.json: with tokenizer.ggml.pre = "qwen2" the same text gets other ids
    hint: leave --pre out, or name the way that the vocabulary was made with
    "#);
    assert!(!place.path("model.gguf").exists());
}
