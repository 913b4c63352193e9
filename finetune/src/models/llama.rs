//! Llama 2, 3 and 3.x, and what shares their layout: SmolLM2, TinyLlama, Me-LLaMA.

use crate::Result;
use crate::config::{ConfigJson, DecoderConfig};

/// `attention_bias` covers q, k, v and o; `mlp_bias` the three MLP projections.
pub fn config(json: &ConfigJson) -> Result<DecoderConfig> {
    let attention_bias = json.flag_or("attention_bias", false)?;
    Ok(DecoderConfig {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: json.flag_or("mlp_bias", false)?,
        ..json.base("llama", 10_000.0)?
    })
}
