//! Qwen 2 and 2.5: Llama's layers with a bias on q, k and v.

use crate::Result;
use crate::config::{ConfigJson, DecoderConfig};

/// The window applies only under `use_sliding_window` and only to some layers, which is refused.
pub fn config(json: &ConfigJson) -> Result<DecoderConfig> {
    json.refuse("use_sliding_window", |v| v == false)?;
    refuse_mixed_layers(json)?;
    Ok(DecoderConfig {
        qkv_bias: true,
        ..json.base("qwen2", 10_000.0)?
    })
}

/// transformers 5 lists each layer's attention; anything but full attention is refused.
pub(super) fn refuse_mixed_layers(json: &ConfigJson) -> Result<()> {
    json.refuse("layer_types", |v| {
        v.as_array()
            .is_some_and(|types| types.iter().all(|t| t == "full_attention"))
    })
}
