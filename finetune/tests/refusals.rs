//! What the decoder refuses, and in which words.

use adapters::{Builder, Method, Weights};
use candle_core::DType;
use datasets::{Batch, Pack, Tokenized};
use finetune::models::decoder_config;
use finetune::{Base, Checkpoint, tensor_specs};
use serde_json::{Value, json};

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2
    })
}

/// `error` and `hint` of a llama `config.json` with these keys changed.
fn refusal(changes: Value) -> String {
    let mut config = llama();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let error = decoder_config(&config).unwrap_err();
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

#[test]
fn settings_that_change_the_arithmetic_are_refused_by_name() {
    insta::assert_snapshot!(refusal(json!({"model_type": "gpt_neox"})), @r#"
    architecture "gpt_neox" is not supported
    hint: supported: llama, mistral, qwen2, qwen3
    "#);
    insta::assert_snapshot!(refusal(json!({"hidden_act": "gelu"})), @r#"
    config.json of this llama model sets hidden_act = "gelu", which is not supported
    hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
    "#);
    insta::assert_snapshot!(refusal(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})), @r#"
    config.json of this llama model sets rope_scaling.rope_type = "yarn", which is not supported
    hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
    "#);
    insta::assert_snapshot!(refusal(json!({"quantization_config": {"bits": 4}})), @r#"
    config.json of this llama model sets quantization_config = {"bits":4}, which is not supported
    hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
    "#);
    insta::assert_snapshot!(refusal(json!({"model_type": "qwen2", "use_sliding_window": true})), @r"
    config.json of this qwen2 model sets use_sliding_window = true, which is not supported
    hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
    ");
}

#[test]
fn shapes_that_cannot_be_are_named() {
    insta::assert_snapshot!(refusal(json!({"num_key_value_heads": 3})), @r"
    config.json: num_key_value_heads is 3, which does not divide num_attention_heads = 4
    hint: compare config.json with the one the model was published with
    ");
    insta::assert_snapshot!(refusal(json!({"hidden_size": null})), @r"
    config.json: hidden_size is missing or zero
    hint: compare config.json with the one the model was published with
    ");
    insta::assert_snapshot!(refusal(json!({"vocab_size": "many"})), @r#"
    config.json: vocab_size is "many", not a whole number below 2^32
    hint: compare config.json with the one the model was published with
    "#);
    insta::assert_snapshot!(refusal(json!({"head_dim": 7})), @r"
    config.json: head_dim is 7; rotary embedding needs an even width above zero
    hint: compare config.json with the one the model was published with
    ");
    insta::assert_snapshot!(refusal(json!({"model_type": null})), @r"
    config.json: model_type is missing
    hint: compare config.json with the one the model was published with
    ");
    insta::assert_snapshot!(refusal(json!({"hidden_size": 99999999999u64})), @r"
    config.json: hidden_size is 99999999999, not a whole number below 2^32
    hint: compare config.json with the one the model was published with
    ");
}

/// A tiny decoder of `vocab_size` rows, and a batch of one sample.
fn decoder(vocab_size: usize) -> finetune::Decoder {
    let mut config = llama();
    config["vocab_size"] = json!(vocab_size);
    let shape = decoder_config(&config).unwrap();
    let weights = Weights::random(config, tensor_specs(&shape, 0.02), 1);
    let mut builder = Builder::new(&weights, DType::F32, Method::Frozen, 1);
    finetune::Decoder::build(&mut builder, shape, DType::F32).unwrap()
}

fn batch(input_ids: Vec<u32>) -> Batch {
    let loss_mask = vec![false; input_ids.len()];
    let sample = Tokenized {
        id: "s1".into(),
        sample: 0,
        input_ids,
        loss_mask,
    };
    Batch::from_packs([&Pack::single(&sample)])
}

fn said(error: finetune::Error) -> String {
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

#[test]
fn a_token_without_a_row_is_named_with_its_place() {
    let error = decoder(50).logits(&batch(vec![4, 49, 50, 3])).unwrap_err();
    insta::assert_snapshot!(said(error), @r"
    token id 50 at position 2 is outside the table of 50 rows
    hint: the tokenizer does not belong to this model, or its vocabulary was extended and the model's was not
    ");
}

#[test]
fn a_batch_that_teaches_nothing_is_refused() {
    let error = decoder(50).token_scores(&batch(vec![4, 9])).unwrap_err();
    insta::assert_snapshot!(said(error), @r"
    a batch holds no target token, so there is nothing to learn from it
    hint: look at the samples with `medtune show RECIPE --sample 3`
    ");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = llama();
    config["vocab_size"] = json!(300);
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let tokenizer =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizers/smollm2");
    let base = Base::Random {
        config: path,
        tokenizer: Some(tokenizer),
        seed: 0,
    };
    let error = Checkpoint::open(&base).err().unwrap();
    insta::assert_snapshot!(said(error), @r"
    the tokenizer has 400 tokens, but the model's embedding has 300 rows
    hint: use the tokenizer the model came with, or a checkpoint whose embedding was resized for the added tokens
    ");
}

#[test]
fn a_sample_longer_than_a_pack_is_named() {
    let sample = Tokenized {
        id: "alpaca/7".into(),
        sample: 0,
        input_ids: vec![1; 20],
        loss_mask: vec![true; 20],
    };
    let error = finetune::Steps::new(&[sample], &Default::default(), 16, true, 0)
        .err()
        .unwrap();
    insta::assert_snapshot!(said(error), @r"
    sample alpaca/7 is 20 tokens, more than data.max_seq_len = 16
    hint: raise data.max_seq_len, or let data.on_too_long drop or cut such samples
    ");
}

#[test]
fn loraplus_is_a_ratio_for_adapters() {
    use finetune::recipe::{TrainMethod, TrainSection};
    let problems = |loraplus_lr_ratio, method| {
        TrainSection {
            loraplus_lr_ratio,
            method,
            ..Default::default()
        }
        .problems()
    };
    assert!(problems(16.0, TrainMethod::Adapter).is_empty());
    assert!(problems(1.0, TrainMethod::Full).is_empty());
    let told = [
        problems(0.0, TrainMethod::Adapter),
        problems(16.0, TrainMethod::Full),
    ];
    let told: Vec<String> = told
        .concat()
        .into_iter()
        .map(|(k, m)| format!("{k} {m}"))
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    loraplus_lr_ratio is 0, not a number above 0
    loraplus_lr_ratio is for adapters, and `method` is "full"
    "#);
}
