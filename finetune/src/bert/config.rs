//! What an encoder is made of, read from Hugging Face's `config.json`.

use serde_json::Value;

use super::activation::Activation;
use crate::config::ConfigJson;
use crate::{Error, Result};

/// Every `model_type` that is an encoder here.
pub(super) const ENCODERS: &[&str] = &["bert", "roberta"];

/// The shape of a BERT. Field names are `config.json`'s where it has them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BertConfig {
    /// Rows of the word table (V).
    pub vocab_size: usize,
    /// Width of a token's vector (D).
    pub hidden_size: usize,
    /// Width of the MLP (F).
    pub intermediate_size: usize,
    /// Number of layers (L).
    pub num_hidden_layers: usize,
    /// Heads (H).
    pub num_attention_heads: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the table of segments, of which only the first is read.
    pub type_vocab_size: usize,
    /// Added to the variance before the root.
    pub layer_norm_eps: f64,
    /// Between the MLP's two layers.
    pub hidden_act: Activation,
    /// RoBERTa: the padding token's id, from which positions count; padding itself keeps that position.
    pub padding: Option<u32>,
}

impl BertConfig {
    /// Reads a `config.json` whose `model_type` is one of [`ENCODERS`].
    pub fn read(json: &Value) -> Result<Self> {
        let config = ConfigJson::new(json)?;
        config.refuse("position_embedding_type", |v| v == "absolute")?;
        config.refuse("is_decoder", |v| v == false)?;
        config.refuse("add_cross_attention", |v| v == false)?;
        config.refuse("quantization_config", |_| false)?;
        let named = |v: &Value| v.as_str().and_then(Activation::named);
        config.refuse("hidden_act", |v| named(v).is_some())?;
        let roberta = config.model_type() == "roberta";
        let padding = match roberta {
            true => Some(config.size_or("pad_token_id", 1)?),
            false => None,
        };
        let read = Self {
            vocab_size: config.size("vocab_size")?,
            hidden_size: config.size("hidden_size")?,
            intermediate_size: config.size("intermediate_size")?,
            num_hidden_layers: config.size("num_hidden_layers")?,
            num_attention_heads: config.size("num_attention_heads")?,
            max_position_embeddings: config.size("max_position_embeddings")?,
            type_vocab_size: config.size("type_vocab_size")?,
            layer_norm_eps: config.number_or("layer_norm_eps", 1e-12)?,
            hidden_act: json
                .get("hidden_act")
                .and_then(named)
                .unwrap_or(Activation::Gelu),
            padding: padding.map(|id| id as u32),
        };
        let (d, heads) = (read.hidden_size, read.num_attention_heads);
        if !d.is_multiple_of(heads) {
            return Err(Error::ConfigKey {
                key: "num_attention_heads".into(),
                problem: format!("is {heads}, which does not divide hidden_size = {d}"),
            });
        }
        if read.positions() < 3 {
            return Err(Error::ConfigKey {
                key: "max_position_embeddings".into(),
                problem: format!(
                    "is {}, which leaves no room for a token between two special ones",
                    read.max_position_embeddings
                ),
            });
        }
        Ok(read)
    }

    /// Most tokens of a text, special ones included.
    pub fn positions(&self) -> usize {
        let skipped = self.padding.map_or(0, |id| id as usize + 1);
        self.max_position_embeddings.saturating_sub(skipped)
    }

    /// Each token's row of the position table (transformers' `create_position_ids_from_input_ids` for RoBERTa).
    pub fn positions_of(&self, ids: &[u32]) -> Vec<u32> {
        let Some(padding) = self.padding else {
            return (0..ids.len() as u32).collect();
        };
        let mut last = padding;
        let position = |id: &u32| {
            if *id == padding {
                return padding;
            }
            last += 1;
            last
        };
        ids.iter().map(position).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(changes: Value) -> Result<BertConfig> {
        let mut config = json!({
            "model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512,
            "type_vocab_size": 2
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        BertConfig::read(&config)
    }

    #[test]
    fn positions_of_roberta_begin_behind_the_padding() {
        let bert = config(json!({})).unwrap();
        assert_eq!(bert.positions(), 512);
        assert_eq!(bert.positions_of(&[5, 1, 7]), [0, 1, 2]);
        let shape =
            json!({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1});
        let roberta = config(shape).unwrap();
        assert_eq!(roberta.positions(), 512);
        // As transformers has it: a padding token keeps its own position, and none is counted for it.
        assert_eq!(roberta.positions_of(&[0, 7, 1, 9, 2]), [2, 3, 1, 4, 5]);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let refusal = |changes| {
            let error = config(changes).unwrap_err();
            format!("{error}\nhint: {}", error.hint().unwrap_or_default())
        };
        insta::assert_snapshot!(refusal(json!({"position_embedding_type": "relative_key"})), @r#"
        config.json of this bert model sets position_embedding_type = "relative_key", which is not supported
        hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
        "#);
        insta::assert_snapshot!(refusal(json!({"hidden_act": "mish"})), @r#"
        config.json of this bert model sets hidden_act = "mish", which is not supported
        hint: a model trained with this setting would be computed wrongly, so it is refused rather than approximated
        "#);
        insta::assert_snapshot!(refusal(json!({"num_attention_heads": 7})), @"
        config.json: num_attention_heads is 7, which does not divide hidden_size = 768
        hint: compare config.json with the one the model was published with
        ");
        insta::assert_snapshot!(refusal(json!({"max_position_embeddings": 2})), @"
        config.json: max_position_embeddings is 2, which leaves no room for a token between two special ones
        hint: compare config.json with the one the model was published with
        ");
    }
}
