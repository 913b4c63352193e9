//! Which base an adapter was trained on, and in what another base differs from it.
//!
//! LoRA's matrices are a difference to weights. On other weights they give numbers all the same, so that the base is
//! recorded with the adapter and compared before it is used: what is computed (a few keys of `config.json`), the
//! vocabulary, and, where all weights are read anyway, their hash.

use crate::peft::EMBEDDING;
use crate::recipe::Quantization;
use crate::weights::Source;
use crate::{Error, Fingerprint, PeftAdapter, Result, Weights, fingerprint, folder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// [`Belonging`], beside the adapter.
pub(crate) const FILE: &str = "medtune.json";

/// The keys of a `config.json` that say what the model computes. Those that say how it is stored or run (`dtype`,
/// `use_cache`) are not compared; one that only one of two configurations has is not either, since defaults are not
/// written by every program, but for `rope_scaling`, whose absence says something.
const COMPUTES: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
];
const ROPE_THETA: &str = "rope_theta";
const ROPE_SCALING: &str = "rope_scaling";

/// Which base and tokenizer an adapter was trained on, by hash: `medtune.json` beside the adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Belonging {
    /// [`crate::Weights::fingerprint`] of the base, as it was computed with.
    pub base_fingerprint: String,
    /// The tokenizer's fingerprint: ids, special tokens and chat template.
    pub tokenizer_fingerprint: Option<String>,
    /// The parts of the base apart; older adapters lack them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseIdentity>,
}

/// A base in the parts by which an adapter is compared with it. All but the hash of the weights is cheap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BaseIdentity {
    /// As the recipe names it: `ORG/NAME`, or a path.
    pub name: Option<String>,
    /// SHA-256 of the whole configuration, its keys sorted.
    pub config_sha256: Option<String>,
    /// [`Fingerprint::weights`], where all weights were read.
    pub weights_sha256: Option<String>,
    /// What the linear layers were quantized to.
    pub quantization: Option<Quantization>,
    /// Tokens, and the rows of the embedding.
    pub vocabulary: Vocabulary,
    /// The part of the configuration that says what is computed.
    pub config: BTreeMap<String, Value>,
}

/// The tokens of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vocabulary {
    /// Rows of the embedding.
    pub rows: Option<usize>,
    /// One more than the tokenizer's largest id.
    pub tokens: Option<usize>,
    /// SHA-256 of the tokens in the order of their ids.
    pub sha256: Option<String>,
}

/// In what a base is not the one that an adapter was trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Difference {
    /// A key of `config.json`.
    Config {
        /// The key.
        key: String,
        /// Its value in the adapter's base.
        adapter: Value,
        /// Its value in this base.
        base: Value,
    },
    /// Embeddings of different height.
    Rows {
        /// Rows in the adapter's base.
        adapter: usize,
        /// Rows in this base.
        base: usize,
        /// Tokens of the tokenizer that the adapter was trained with.
        tokens: Option<usize>,
    },
    /// Tokens that have other ids.
    Tokens {
        /// Tokens that the adapter was trained with.
        adapter: Option<usize>,
        /// Tokens of this base.
        base: Option<usize>,
    },
    /// The same shapes with other numbers.
    Weights {
        /// SHA-256 in the adapter's base.
        adapter: String,
        /// SHA-256 in this base.
        base: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { key, adapter, base } => {
                let (adapter, base) = (short(adapter), short(base));
                write!(
                    f,
                    "{key} is {base} here and {adapter} in the adapter's base"
                )
            }
            Self::Rows {
                adapter,
                base,
                tokens,
            } => {
                write!(
                    f,
                    "the embedding has {base} rows here and {adapter} in the adapter's base"
                )?;
                match tokens {
                    Some(tokens) if tokens > base => write!(
                        f,
                        ", whose tokenizer has {tokens} tokens: tokens were added before the adapter was trained"
                    ),
                    _ if base > adapter => {
                        f.write_str(": tokens or padding rows were added to this one")
                    }
                    _ => f.write_str(": padding rows were added to that one"),
                }
            }
            Self::Tokens { adapter, base } => {
                let count =
                    |tokens: &Option<usize>| tokens.map_or("unknown".into(), |n| n.to_string());
                let (adapter, base) = (count(adapter), count(base));
                write!(
                    f,
                    "tokens have other ids ({base} tokens here, {adapter} in the adapter's base)"
                )
            }
            Self::Weights { adapter, base } => {
                let head = |hash: &String| hash.chars().take(12).collect::<String>();
                let (adapter, base) = (head(adapter), head(base));
                write!(
                    f,
                    "the weights are others (sha256 {base}… here and {adapter}… in the adapter's base)"
                )
            }
        }
    }
}

/// A value of a configuration on a part of a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl BaseIdentity {
    /// What the headers and the configuration tell. Reads no weights.
    pub fn of(weights: &Weights) -> Self {
        let rows = weights.view(EMBEDDING).ok().map(|view| view.shape[0]);
        let quantized = weights
            .views()
            .any(|view| matches!(view.source, Source::Nf4 { .. } | Source::ToNf4(_)));
        Self {
            name: None,
            config_sha256: Some(fingerprint::of_config(weights.config())),
            weights_sha256: None,
            quantization: quantized.then_some(Quantization::Nf4),
            vocabulary: Vocabulary {
                rows,
                ..Vocabulary::default()
            },
            config: computed(weights.config()),
        }
    }
}

impl Belonging {
    /// What the folder of an adapter says of its base, if anything.
    ///
    /// # Errors
    /// [`Error::Json`] with the file.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let json = folder::read_json(&path)?;
        let read = serde_json::from_value(json);
        read.map(Some)
            .map_err(|source| Error::Json { path, source })
    }

    /// In what `base` is not the adapter's; what only one of them tells is not compared. Hashes of weights are
    /// compared where both are known, which for a base that is only opened they are not: see
    /// [`Belonging::check_weights`].
    pub fn check(&self, base: &BaseIdentity) -> Vec<Difference> {
        let Some(mine) = &self.base else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let unset = Value::Null;
        for (key, adapter) in &mine.config {
            let base = match base.config.get(key) {
                Some(base) => base,
                None if key == ROPE_SCALING && !base.config.is_empty() => &unset,
                None => continue,
            };
            if !same(adapter, base) {
                found.push(Difference::Config {
                    key: key.clone(),
                    adapter: adapter.clone(),
                    base: base.clone(),
                });
            }
        }
        let (mine_vocabulary, theirs) = (&mine.vocabulary, &base.vocabulary);
        match (mine_vocabulary.rows, theirs.rows) {
            (Some(adapter), Some(base)) if adapter != base => found.push(Difference::Rows {
                adapter,
                base,
                tokens: mine_vocabulary.tokens,
            }),
            _ => {}
        }
        if differ(&mine_vocabulary.sha256, &theirs.sha256) {
            found.push(Difference::Tokens {
                adapter: mine_vocabulary.tokens,
                base: theirs.tokens,
            });
        }
        if let (Some(adapter), Some(base)) = (&mine.weights_sha256, &base.weights_sha256)
            && adapter != base
        {
            found.push(Difference::Weights {
                adapter: adapter.clone(),
                base: base.clone(),
            });
        }
        found
    }

    /// Whether the weights are the adapter's base's, once all have been read. Older adapters recorded
    /// one hash over configuration and weights, which is then compared.
    pub fn check_weights(&self, found: &Fingerprint) -> Option<Difference> {
        let recorded = self
            .base
            .as_ref()
            .and_then(|base| base.weights_sha256.as_ref());
        let (adapter, base) = match recorded {
            Some(weights) => (weights, &found.weights),
            None => (&self.base_fingerprint, &found.whole),
        };
        (adapter != base).then(|| Difference::Weights {
            adapter: adapter.clone(),
            base: base.clone(),
        })
    }

    /// What is no reason to refuse a base, and worth a line: quantized as it was not in training, or the same tokens
    /// with another template.
    pub fn notes(&self, base: &BaseIdentity, tokenizer_fingerprint: Option<&str>) -> Vec<String> {
        let mut notes = Vec::new();
        let name = |quantization: Option<Quantization>| match quantization {
            Some(Quantization::Nf4) => "quantized to NF4",
            None => "not quantized",
        };
        if let Some(mine) = &self.base
            && mine.quantization != base.quantization
        {
            let (mine, here) = (name(mine.quantization), name(base.quantization));
            notes.push(format!(
                "the adapter was trained on a base that was {mine}, and this one is {here}"
            ));
        }
        if let (Some(mine), Some(here)) = (&self.tokenizer_fingerprint, tokenizer_fingerprint)
            && mine != here
        {
            notes.push("the tokenizer's settings or its chat template are not those of the adapter's training".into());
        }
        notes
    }

    /// How the base is called that the adapter was trained on.
    pub fn base_name(&self) -> Option<&str> {
        self.base.as_ref()?.name.as_deref()
    }

    /// What the base's linear layers were quantized to when the adapter was trained.
    pub fn quantization(&self) -> Option<Quantization> {
        self.base.as_ref()?.quantization
    }
}

impl PeftAdapter {
    /// Refuses a base that is not the one that the adapter was trained on, by what of it is cheap to compare. An adapter
    /// that says nothing of its base is not refused here: shapes are compared when it is put on.
    ///
    /// # Errors
    /// [`Error::WrongBase`] with every difference.
    pub fn check_base(&self, base: &BaseIdentity) -> Result<()> {
        let belonging = self.belonging.as_ref();
        self.refuse(belonging.map(|mine| mine.check(base)).unwrap_or_default())
    }

    /// As [`PeftAdapter::check_base`], by the hash of all weights.
    ///
    /// # Errors
    /// [`Error::WrongBase`].
    pub fn check_weights(&self, found: &Fingerprint) -> Result<()> {
        let belonging = self.belonging.as_ref();
        let difference = belonging.and_then(|mine| mine.check_weights(found));
        self.refuse(difference.into_iter().collect())
    }

    fn refuse(&self, differences: Vec<Difference>) -> Result<()> {
        if differences.is_empty() {
            return Ok(());
        }
        let recorded = self.belonging.as_ref().and_then(Belonging::base_name);
        let made_for = recorded.or(self.config.base_model.as_deref());
        Err(Error::WrongBase {
            made_for: made_for.map(str::to_owned),
            differences,
        })
    }

    /// What a user should know who puts an adapter on a base that nothing can be compared with: another program wrote
    /// it, and it names its base at most.
    pub fn unchecked_base(&self) -> Option<String> {
        if self.belonging.is_some() {
            return None;
        }
        Some(match &self.config.base_model {
            Some(name) => format!(
                "the adapter names `{name}` as its base and carries no hash of it: only shapes can be checked"
            ),
            None => "the adapter does not say which base it belongs to: only shapes can be checked"
                .into(),
        })
    }

    /// The same adapter without what it says of its base, for a base that it is to be put on all the same.
    pub fn without_belonging(mut self) -> Self {
        self.belonging = None;
        self
    }
}

fn differ(a: &Option<String>, b: &Option<String>) -> bool {
    a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a != b)
}

/// Whether two values of a key mean the same. GGUF files hold f32, so that 1e-5 comes back as 9.9999997e-6.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => match a.as_f64().zip(b.as_f64()) {
            Some((a, b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
            None => a == b,
        },
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

/// The part of a configuration that says what is computed, with the rotary embedding as transformers wrote it before
/// version 5, which moved it into `rope_parameters`.
fn computed(config: &Value) -> BTreeMap<String, Value> {
    let mut kept: BTreeMap<String, Value> = COMPUTES
        .iter()
        .filter_map(|key| Some((key.to_string(), config.get(key)?)))
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key, value.clone()))
        .collect();
    let parameters = config.get("rope_parameters").and_then(Value::as_object);
    let theta = config
        .get(ROPE_THETA)
        .or_else(|| parameters?.get(ROPE_THETA));
    if let Some(theta) = theta {
        kept.insert(ROPE_THETA.into(), theta.clone());
    }
    let scaling = config.get(ROPE_SCALING).and_then(Value::as_object);
    kept.insert(ROPE_SCALING.into(), rope_scaling(scaling.or(parameters)));
    kept
}

fn rope_scaling(settings: Option<&Map<String, Value>>) -> Value {
    let mut kept: BTreeMap<&str, &Value> = settings
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, value)| *key != ROPE_THETA && !value.is_null())
        .collect();
    if let Some(kind) = kept.remove("type") {
        kept.entry("rope_type").or_insert(kind);
    }
    match kept.get("rope_type").and_then(|kind| kind.as_str()) {
        None | Some("default") => Value::Null,
        Some(_) => json!(kept),
    }
}
