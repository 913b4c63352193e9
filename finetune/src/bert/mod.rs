//! BERT and RoBERTa, forward only: the encoder of BERTScore, from a local Hugging Face folder.
//!
//! Sequences are packed one after another without padding, so a text's vectors cost what its own tokens cost and
//! there is nothing to mask. Weights stay mapped and are computed with in the type that they are stored in, widened to f32;
//! activations are f32. Texts become tokens as the `bert_score` package does it (`sent_encode`): white space around
//! them is left out, RoBERTa's begin with a space, and what is too long is cut before the last special token.

mod activation;
mod config;
mod error;
mod layer;

use std::path::Path;

use adapters::Weights;
use candle_core::{DType, Tensor};
use datasets::Tokenizer;
use eval::{Embedder, ModelError, TokenEmbeddings};
use kernels::Matrix;
use serde_json::Value;

use crate::{Error, Result};
use config::{BertConfig, ENCODERS};
use layer::{Layer, LayerNorm, Named};

pub use error::EncoderError;

/// Tokens that are worked on together, which bounds the memory: their activations take about 16 F bytes each, F being
/// the width of the MLP. A longer text does not exist: the models read 512.
const PACK_TOKENS: usize = 2048;

/// The layer whose vectors agree best with people's judgement, of the encoders that this file can compute:
/// `model2layers` in `utils.py` of `bert_score` 0.3.13, by the last part of the name.
const USUAL_LAYERS: &[(&str, usize)] = &[
    ("bert-base-uncased", 9),
    ("bert-large-uncased", 18),
    ("bert-base-cased-finetuned-mrpc", 9),
    ("bert-base-multilingual-cased", 9),
    ("bert-base-chinese", 8),
    ("roberta-base", 10),
    ("roberta-large", 17),
    ("roberta-large-mnli", 19),
    ("distilroberta-base", 5),
    ("scibert_scivocab_uncased", 8),
    ("scibert_scivocab_cased", 9),
    ("scibert_basevocab_uncased", 9),
];

/// A BERT or RoBERTa up to the layer whose vectors are asked for.
pub struct BertEncoder {
    name: String,
    sha256: String,
    config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    tokenizer: Tokenizer,
    /// The tokens that the tokenizer puts before and behind a text.
    around: [u32; 2],
    /// Most tokens of a text, those two included.
    limit: usize,
}

impl BertEncoder {
    /// Opens a Hugging Face folder. `name` is what the model is called, a name of the hub or a folder's;
    /// `layer` counts from 1, 0 being the embeddings. Without one it is the layer that `bert_score` has for a
    /// model of this name, else the last. Weights are checked and mapped, not read.
    ///
    /// # Errors
    /// A folder that is no encoder, a layer that it doesn't have, tensors that are missing or of another shape, a
    /// vocabulary larger than the table.
    pub fn open(path: &Path, name: &str, layer: Option<usize>) -> Result<Self> {
        let weights = Weights::open(path)?;
        let model_type = weights.config().get("model_type").and_then(Value::as_str);
        if let Some(model_type) = model_type.filter(|kind| !ENCODERS.contains(kind)) {
            return Err(EncoderError::NotAnEncoder {
                path: path.to_owned(),
                model_type: model_type.to_owned(),
            }
            .into());
        }
        let config = BertConfig::read(weights.config())?;
        let name = name
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(name);
        let layer = match layer {
            Some(asked) if asked > config.num_hidden_layers => {
                return Err(EncoderError::Layer {
                    path: path.to_owned(),
                    asked,
                    layers: config.num_hidden_layers,
                }
                .into());
            }
            Some(asked) => asked,
            None => usual_layer(name, config.num_hidden_layers),
        };
        let named = Named {
            weights: &weights,
            prefix: prefix(&weights),
        };
        let embeddings = Embeddings::of(&named, &config)?;
        let layers = (0..layer).map(|index| Layer::of(&named, index, &config));
        let layers = layers.collect::<Result<_>>()?;
        let tokenizer = Tokenizer::from_folder(path)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Vocabulary {
                tokens: tokenizer.vocab_size(),
                rows: config.vocab_size,
            });
        }
        Ok(Self {
            name: format!("{name}_L{layer}"),
            sha256: weights.fingerprint()?,
            embeddings,
            layers,
            around: around(path, &tokenizer)?,
            limit: limit(path, config.positions())?,
            tokenizer,
            config,
        })
    }

    /// The layer whose vectors it gives; 0 is the embeddings.
    pub fn layer(&self) -> usize {
        self.layers.len()
    }

    /// A text's ids, and how many tokens at its end did not fit.
    fn ids(&self, text: &str) -> Result<(Vec<u32>, usize)> {
        // Python's strip, for which the four separators of ASCII are white space too.
        let space = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        let text = text.trim_matches(space);
        if text.is_empty() {
            return Ok((self.around.to_vec(), 0));
        }
        let mut ids = match self.config.padding {
            Some(_) => self.tokenizer.encode(&format!(" {text}"), true)?,
            None => self.tokenizer.encode(text, true)?,
        };
        let cut = ids.len().saturating_sub(self.limit);
        if cut > 0 {
            ids.truncate(self.limit - 1);
            ids.push(self.around[1]);
        }
        Ok((ids, cut))
    }

    /// Vectors (T, D) of texts as ids, one after another.
    fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let mut x = self.embeddings.forward(texts, &self.config)?;
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        for layer in &self.layers {
            x = layer.forward(&x, &lengths)?;
        }
        Ok(x.flatten_all()?.to_vec1()?)
    }

    fn embedded(&self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>> {
        let encoded = texts.iter().map(|text| self.ids(text));
        let encoded = encoded.collect::<Result<Vec<(Vec<u32>, usize)>>>()?;
        let mut embedded = Vec::with_capacity(encoded.len());
        let d = self.config.hidden_size;
        for pack in packs(encoded) {
            let ids: Vec<&[u32]> = pack.iter().map(|(ids, _)| ids.as_slice()).collect();
            let vectors = self.forward(&ids)?;
            let mut start = 0;
            for (ids, cut_tokens) in pack {
                let end = start + ids.len() * d;
                embedded.push(TokenEmbeddings {
                    // By the id, as the package weighs them: written in a text, too.
                    special: ids.iter().map(|id| self.around.contains(id)).collect(),
                    vectors: vectors[start..end].to_vec(),
                    ids,
                    cut_tokens,
                });
                start = end;
            }
        }
        Ok(embedded)
    }
}

/// Texts in their order, so many together as [`PACK_TOKENS`] allows.
fn packs(texts: Vec<(Vec<u32>, usize)>) -> Vec<Vec<(Vec<u32>, usize)>> {
    let mut packs: Vec<Vec<(Vec<u32>, usize)>> = Vec::new();
    let mut tokens = 0;
    for text in texts {
        let length = text.0.len();
        match packs.last_mut() {
            Some(pack) if tokens + length <= PACK_TOKENS => {
                tokens += length;
                pack.push(text);
            }
            _ => {
                tokens = length;
                packs.push(vec![text]);
            }
        }
    }
    packs
}

fn usual_layer(name: &str, layers: usize) -> usize {
    let name = name.split('@').next().unwrap_or(name);
    let usual = USUAL_LAYERS.iter().find(|(known, _)| *known == name);
    usual.map_or(layers, |(_, layer)| (*layer).min(layers))
}

/// What stands before every name: the encoder's own, where it was saved with a head of its pre-training.
fn prefix(weights: &Weights) -> &'static str {
    let holds = |prefix: &&str| weights.has(&format!("{prefix}embeddings.word_embeddings.weight"));
    ["bert.", "roberta."].into_iter().find(holds).unwrap_or("")
}

/// The tokens around a text, which are those of an empty one.
fn around(path: &Path, tokenizer: &Tokenizer) -> Result<[u32; 2]> {
    let ids = tokenizer.encode("", true)?;
    <[u32; 2]>::try_from(ids).map_err(|ids| {
        let (path, found) = (path.to_owned(), ids.len());
        EncoderError::Frame { path, found }.into()
    })
}

/// The tokenizer's limit where it has one, and never more than the model has positions.
fn limit(path: &Path, positions: usize) -> Result<usize> {
    let config = path.join("tokenizer_config.json");
    let json: Value = match std::fs::read(&config) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => Value::Null,
    };
    // Where there is none, transformers writes 1e30.
    let Some(limit) = json.get("model_max_length").and_then(Value::as_f64) else {
        return Ok(positions);
    };
    if limit < 3.0 {
        let path = path.to_owned();
        return Err(EncoderError::Limit { path, limit }.into());
    }
    Ok(positions.min(limit as usize))
}

/// Word, position and segment, added and normed.
struct Embeddings {
    words: Matrix,
    positions: Matrix,
    /// That of a first text, which each is.
    segment: Tensor,
    norm: LayerNorm,
}

impl Embeddings {
    fn of(named: &Named, config: &BertConfig) -> Result<Self> {
        let d = config.hidden_size;
        let table = |name: &str, rows| named.matrix(&format!("embeddings.{name}"), rows, d);
        let segments = table("token_type_embeddings", config.type_vocab_size)?;
        let first = kernels::embedding(&segments, &[0u32], DType::F32)?;
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            segment: first.flatten_all()?,
            norm: LayerNorm::of(named, "embeddings.LayerNorm", config)?,
        })
    }

    fn forward(&self, texts: &[&[u32]], config: &BertConfig) -> Result<Tensor> {
        let positions: Vec<u32> = texts
            .iter()
            .flat_map(|ids| config.positions_of(ids))
            .collect();
        let mut x = kernels::embedding(&self.words, &texts.concat(), DType::F32)?;
        kernels::add_bias(&mut x, &self.segment)?;
        let positions = kernels::embedding(&self.positions, &positions, DType::F32)?;
        kernels::add_assign(&mut x, &positions)?;
        self.norm.forward(&x)
    }
}

impl Embedder for BertEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn sha256(&self) -> &str {
        &self.sha256
    }

    fn max_tokens(&self) -> usize {
        self.limit
    }

    fn embed(&mut self, texts: &[&str]) -> std::result::Result<Vec<TokenEmbeddings>, ModelError> {
        self.embedded(texts).map_err(ModelError::new)
    }

    fn token_ids(&mut self, texts: &[&str]) -> std::result::Result<Vec<Vec<u32>>, ModelError> {
        let ids = texts.iter().map(|text| Ok(self.ids(text)?.0));
        ids.collect::<Result<_>>().map_err(ModelError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_layer_is_the_packages() {
        assert_eq!(usual_layer("roberta-large", 24), 17);
        assert_eq!(usual_layer("scibert_scivocab_uncased@main", 12), 8);
        assert_eq!(usual_layer("bert-of-mine", 12), 12);
        // A folder that only bears the name.
        assert_eq!(usual_layer("bert-base-uncased", 2), 2);
    }

    #[test]
    fn packs_hold_what_fits_and_lose_nothing() {
        let lengths = [512, 512, 512, 500, 13, 512, 1600, 448];
        let texts = lengths.map(|length| (vec![7; length], 0)).to_vec();
        let packs = packs(texts);
        let shown: Vec<Vec<usize>> = packs
            .iter()
            .map(|pack| pack.iter().map(|(ids, _)| ids.len()).collect())
            .collect();
        assert_eq!(
            shown,
            [vec![512, 512, 512, 500], vec![13, 512], vec![1600, 448]]
        );
    }
}
