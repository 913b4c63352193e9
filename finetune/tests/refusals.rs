//! What the decoder refuses, and in which words.

use finetune::models::decoder_config;
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
