//! Mistral: Llama's layers with an optional sliding attention window.

use crate::Result;
use crate::config::{ConfigJson, DecoderConfig};

/// `sliding_window` null or absent means full causal attention.
pub fn config(json: &ConfigJson) -> Result<DecoderConfig> {
    let window = json.size_or("sliding_window", 0)?;
    Ok(DecoderConfig {
        sliding_window: (window > 0).then_some(window),
        ..json.base("mistral", 10_000.0)?
    })
}
