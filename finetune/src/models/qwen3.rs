//! Qwen 3: no bias by default, an RMS norm over each head of q and k, and its own head width.

use crate::Result;
use crate::config::{ConfigJson, DecoderConfig};

/// `attention_bias` covers q, k, v and o here, as in transformers' `Qwen3Attention`.
pub fn config(json: &ConfigJson) -> Result<DecoderConfig> {
    json.refuse("use_sliding_window", |v| v == false)?;
    super::qwen2::refuse_mixed_layers(json)?;
    let attention_bias = json.flag_or("attention_bias", false)?;
    let base = json.base("qwen3", 10_000.0)?;
    Ok(DecoderConfig {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        qk_norm: true,
        // transformers' Qwen3Config defaults to 128 whatever the hidden size is.
        head_dim: json.size_or("head_dim", 128)?,
        ..base
    })
}
