//! From a path to a model: weights, configuration, tokenizer and template, checked against one another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapters::hub::HubName;
use adapters::peft::PeftAdapter;
use adapters::recipe::Quantization;
use adapters::{
    BaseIdentity, Builder, GgufMetadata, Init, Method, Parameters, TensorSpec, Weights,
};
use candle_core::DType;
use datasets::{Template, Tokenizer};
use serde_json::Value;

use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::gguf_vocab::{gguf_metadata, gguf_vocab};
use crate::models::decoder_config;
use crate::plan::StoredWeights;
use crate::{Error, Result};

/// Where a model's base weights come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// A Hugging Face folder or a GGUF file.
    Path(PathBuf),
    /// Random weights of the shape that a `config.json` states.
    Random {
        /// The `config.json`.
        config: PathBuf,
        /// Folder whose tokenizer is used; `None`: the folder of `config`.
        tokenizer: Option<PathBuf>,
        /// Seed of the weights.
        seed: u64,
    },
    /// A name of the Hugging Face Hub that is neither a folder nor in the hub's cache. Opening it says so, so that a
    /// recipe can be planned where its model is not.
    Absent {
        /// `ORG/NAME`, with a revision where one is given.
        name: HubName,
        /// The cache that was looked in.
        cache: PathBuf,
        /// Whether the cache holds some of its files.
        partly: bool,
    },
    /// Another base whose frozen linear layers are quantized as they are loaded.
    Quantized {
        /// The base as it is stored.
        base: Box<Base>,
        /// What its linear layers become.
        quantization: Quantization,
    },
}

impl Base {
    /// The model that a recipe or a command names: a path below `folder`, or `ORG/NAME` in the hub's cache.
    pub fn find(given: &Path, folder: &Path) -> Self {
        match adapters::hub::locate(given, folder) {
            Ok(path) => Self::Path(path),
            Err(adapters::Error::NotCached {
                name,
                cache,
                partly,
            }) => Self::Absent {
                name,
                cache,
                partly,
            },
            Err(_) => Self::Path(folder.join(given)),
        }
    }

    /// The base as it is stored.
    pub fn stored(&self) -> &Base {
        match self {
            Base::Quantized { base, .. } => base.stored(),
            base => base,
        }
    }
}

/// A model that has been found and checked, its weights still where they are.
pub struct Checkpoint {
    /// The weights.
    pub weights: Weights,
    /// What they make up.
    pub config: DecoderConfig,
    /// The tokenizer they came with.
    pub tokenizer: Tokenizer,
}

impl Checkpoint {
    /// Opens a base model. Nothing is read but headers, `config.json` and the tokenizer.
    pub fn open(base: &Base) -> Result<Self> {
        let (weights, tokenizer) = match base {
            Base::Quantized { base, quantization } => {
                let stored = Self::open(base)?;
                let weights = stored.weights.quantized(*quantization)?;
                return Ok(Self { weights, ..stored });
            }
            Base::Path(path) => {
                let weights = Weights::open(path)?;
                let tokenizer = match weights.gguf() {
                    Some(metadata) => Tokenizer::from_gguf(&gguf_vocab(metadata))?,
                    None => Tokenizer::from_folder(path)?,
                };
                (weights, tokenizer)
            }
            Base::Absent {
                name,
                cache,
                partly,
            } => {
                let (name, cache, partly) = (name.clone(), cache.clone(), *partly);
                return Err(adapters::Error::NotCached {
                    name,
                    cache,
                    partly,
                }
                .into());
            }
            Base::Random {
                config,
                tokenizer,
                seed,
            } => {
                let json = config_json(config)?;
                let std = json
                    .get("initializer_range")
                    .and_then(Value::as_f64)
                    .unwrap_or(0.02);
                let specs = tensor_specs(&decoder_config(&json)?, std);
                let folder = tokenizer
                    .as_deref()
                    .or(config.parent())
                    .unwrap_or(Path::new("."));
                (
                    Weights::random(json, specs, *seed),
                    Tokenizer::from_folder(folder)?,
                )
            }
        };
        let config = decoder_config(weights.config())?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Vocabulary {
                tokens: tokenizer.vocab_size(),
                rows: config.vocab_size,
            });
        }
        Ok(Self {
            weights,
            config,
            tokenizer,
        })
    }

    /// The tokenizer as metadata for a GGUF file, with what such a file cannot say of it. Nothing for a base that is a
    /// GGUF file, whose own metadata is carried over. `pre` is `tokenizer.ggml.pre` where it cannot be told.
    pub fn gguf_vocabulary(&self, pre: Option<&str>) -> Result<(GgufMetadata, Vec<String>)> {
        if self.weights.gguf().is_some() {
            return Ok(Default::default());
        }
        let out = self.tokenizer.to_gguf(self.config.vocab_size, pre)?;
        Ok((gguf_metadata(out.vocab), out.warnings))
    }

    /// What an adapter's base is compared by, without the hash of the weights.
    pub fn identity(&self) -> BaseIdentity {
        let mut identity = BaseIdentity::of(&self.weights);
        identity.vocabulary.tokens = Some(self.tokenizer.vocab_size());
        identity.vocabulary.sha256 = Some(self.tokenizer.vocabulary_sha256());
        identity
    }

    /// Builds the decoder for training or inference; the parameters are those that `method` trains. An adapter that says
    /// it was trained on another base is refused, by what is cheap to compare.
    pub fn decoder(
        &self,
        compute: DType,
        method: Method,
        adapter: Option<PeftAdapter>,
        seed: u64,
    ) -> Result<(Decoder, Parameters)> {
        let mut builder = Builder::new(&self.weights, compute, method, seed);
        if let Some(adapter) = adapter {
            if adapter.belonging.is_some() {
                adapter.check_base(&self.identity())?;
            }
            builder = builder.with_adapter(adapter)?;
        }
        let decoder = Decoder::build(&mut builder, self.config.clone(), compute)?;
        Ok((decoder, builder.finish()?))
    }

    /// The size of the base weights where they lie, and whether `compute` reads them as they are. Vectors (norms, biases)
    /// are counted as f32, as they are held.
    pub fn stored_weights(&self, compute: DType) -> Result<StoredWeights> {
        let (mut bytes, mut computed_in_place) = (0, true);
        for view in self.weights.views() {
            if view.shape.len() == 2 {
                bytes += view.size_bytes();
                computed_in_place &= view.float_dtype() == Some(compute);
            } else {
                bytes += 4 * view.elements() as u64;
            }
        }
        Ok(StoredWeights {
            bytes,
            computed_in_place,
        })
    }

    /// The model as something that answers, with an adapter's weights beside its own where one is given.
    pub fn into_model(
        self,
        compute: DType,
        adapter: Option<PeftAdapter>,
        template: Template,
        name: String,
    ) -> Result<Model> {
        let (decoder, _) = self.decoder(compute, Method::Frozen, adapter, 0)?;
        Ok(Model {
            decoder: Arc::new(decoder),
            tokenizer: self.tokenizer,
            template,
            name,
        })
    }
}

fn config_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|e| Error::ConfigKey {
        key: path.display().to_string(),
        problem: format!("is not JSON: {e}"),
    })
}

/// A decoder's shape from a config.json alone, and the dtype that it says its weights have (f32 where it says none).
pub fn read_config(path: &Path) -> Result<(DecoderConfig, DType)> {
    let json = config_json(path)?;
    let stored = json.get("dtype").or(json.get("torch_dtype"));
    let stored = match stored.and_then(Value::as_str) {
        Some("bfloat16") => DType::BF16,
        Some("float16") => DType::F16,
        _ => DType::F32,
    };
    Ok((decoder_config(&json)?, stored))
}

/// A model that scores and generates; see [`eval::LanguageModel`].
pub struct Model {
    /// The decoder, which a training may share.
    pub decoder: Arc<Decoder>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What is put around a conversation.
    pub template: Template,
    /// Shown in reports.
    pub name: String,
}

/// Name, shape and random initialisation of every tensor of a decoder, in its own order.
pub fn tensor_specs(config: &DecoderConfig, std: f64) -> Vec<TensorSpec> {
    let (v, d, q, kv) = (
        config.vocab_size,
        config.hidden_size,
        config.q_dim(),
        config.kv_dim(),
    );
    let f = config.intermediate_size;
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Init| {
        specs.push(TensorSpec {
            name,
            shape: shape.to_vec(),
            init,
        });
    };
    let normal = Init::Normal { std };
    add("model.embed_tokens.weight".into(), &[v, d], normal);
    for i in 0..config.num_hidden_layers {
        let mut linear = |name: &str, out: usize, inputs: usize, bias: bool| {
            add(
                format!("model.layers.{i}.{name}.weight"),
                &[out, inputs],
                normal,
            );
            if bias {
                add(format!("model.layers.{i}.{name}.bias"), &[out], Init::Zeros);
            }
        };
        linear("self_attn.q_proj", q, d, config.qkv_bias);
        linear("self_attn.k_proj", kv, d, config.qkv_bias);
        linear("self_attn.v_proj", kv, d, config.qkv_bias);
        linear("self_attn.o_proj", d, q, config.o_bias);
        linear("mlp.gate_proj", f, d, config.mlp_bias);
        linear("mlp.up_proj", f, d, config.mlp_bias);
        linear("mlp.down_proj", d, f, config.mlp_bias);
        let mut norm = |name: &str, width: usize| {
            add(
                format!("model.layers.{i}.{name}.weight"),
                &[width],
                Init::Ones,
            );
        };
        norm("input_layernorm", d);
        norm("post_attention_layernorm", d);
        if config.qk_norm {
            norm("self_attn.q_norm", config.head_dim);
            norm("self_attn.k_norm", config.head_dim);
        }
    }
    add("model.norm.weight".into(), &[d], Init::Ones);
    if !config.tie_word_embeddings {
        add("lm_head.weight".into(), &[v, d], normal);
    }
    specs
}
