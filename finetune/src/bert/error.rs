//! What can be wrong with an encoder's folder.

use std::path::PathBuf;

use super::config::ENCODERS;

/// Why a folder is no encoder that BERTScore can use as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// The folder holds a model of another kind.
    #[error("{} holds a model of type {model_type:?}, and BERTScore needs an encoder", path.display())]
    NotAnEncoder {
        /// The folder.
        path: PathBuf,
        /// Its `model_type`.
        model_type: String,
    },
    /// The model has no such layer.
    #[error("eval.bert_score.layer is {asked}, and {} has {layers} layers", path.display())]
    Layer {
        /// The folder.
        path: PathBuf,
        /// The layer asked for.
        asked: usize,
        /// How many there are.
        layers: usize,
    },
    /// The tokenizer doesn't put one token before a text and one behind it.
    #[error("the tokenizer of {} puts {found} tokens around a text, where an encoder has one before it and one behind it", path.display())]
    Frame {
        /// The folder.
        path: PathBuf,
        /// How many it puts.
        found: usize,
    },
    /// The tokenizer's limit leaves no room for a text.
    #[error("tokenizer_config.json of {} says model_max_length = {limit}, which leaves no room for a token between two special ones", path.display())]
    Limit {
        /// The folder.
        path: PathBuf,
        /// Its limit.
        limit: f64,
    },
}

impl EncoderError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotAnEncoder { .. } => format!(
                "name a folder whose config.json says one of the types {}, such as bert-base-multilingual-cased or roberta-large",
                ENCODERS.join(", ")
            ),
            Self::Layer { layers, .. } => format!(
                "write 1 to {layers}, 0 for the embeddings before the first layer, or leave it out"
            ),
            Self::Frame { .. } | Self::Limit { .. } => {
                "use the tokenizer's files that the encoder was published with".into()
            }
        }
    }
}
