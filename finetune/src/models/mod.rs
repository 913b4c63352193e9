//! One file an architecture: how its `config.json` becomes a [`DecoderConfig`].
//!
//! To add one: write its file, add its line to [`MODELS`], and a line to `scripts/golden/make.py`.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use serde_json::Value;

use crate::config::{ConfigJson, DecoderConfig};
use crate::{Error, Result};

/// An architecture this decoder implements.
pub struct Model {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Reads the rest of `config.json`.
    pub config: fn(&ConfigJson) -> Result<DecoderConfig>,
}

/// Every architecture, by `model_type`. SmolLM2 and TinyLlama are `llama`.
pub const MODELS: &[Model] = &[
    Model {
        model_type: "llama",
        config: llama::config,
    },
    Model {
        model_type: "mistral",
        config: mistral::config,
    },
    Model {
        model_type: "qwen2",
        config: qwen2::config,
    },
    Model {
        model_type: "qwen3",
        config: qwen3::config,
    },
];

/// Reads a `config.json`; an architecture or setting that is not implemented is refused by name.
pub fn decoder_config(json: &Value) -> Result<DecoderConfig> {
    let json = ConfigJson::new(json)?;
    let model = MODELS
        .iter()
        .find(|m| m.model_type == json.model_type())
        .ok_or_else(|| Error::UnknownArchitecture {
            model_type: json.model_type().to_owned(),
            known: MODELS.iter().map(|m| m.model_type).collect(),
        })?;
    (model.config)(&json)
}
