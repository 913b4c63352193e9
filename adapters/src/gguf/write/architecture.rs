//! A `config.json` as GGUF's keys: the inverse of what the reader makes of them.
//!
//! Source of the keys: `set_gguf_parameters` and `generate_extra_tensors` of llama.cpp's `convert_hf_to_gguf.py`.

use super::super::config::{Llama3, llama3_divisors};
use super::super::metadata::GgufValue;
use super::super::names::architecture_of;
use crate::{Error, Result};
use serde_json::Value;

/// What a GGUF file says of a decoder.
pub(super) struct Model {
    /// `general.architecture`.
    pub architecture: &'static str,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    /// Whether the output head is the embedding's table.
    pub tied: bool,
    /// Whether q and k are normalised by heads.
    pub qk_norm: bool,
    context: usize,
    epsilon: f64,
    theta: f64,
    scaling: Scaling,
    window: Option<usize>,
}

enum Scaling {
    None,
    Linear(f64),
    Llama3(Llama3),
}

impl Model {
    pub(super) fn read(config: &Value) -> Result<Self> {
        let model_type = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let Some(architecture) = architecture_of(model_type) else {
            return Err(Error::GgufModelType {
                model_type: model_type.into(),
            });
        };
        let json = Json(config);
        let heads = json.size("num_attention_heads", None)?;
        let hidden = json.size("hidden_size", None)?;
        let head_dim = match model_type {
            // transformers' Qwen3Config has 128 whatever the hidden size is.
            "qwen3" => 128,
            _ => hidden / heads,
        };
        let head_dim = json.size("head_dim", Some(head_dim))?;
        if !head_dim.is_multiple_of(2) {
            return Err(json.wrong("head_dim", "is not even"));
        }
        let (theta, scaling) = json.rope()?;
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let window = match model_type {
            "mistral" => json.optional("sliding_window")?.filter(|w| *w > 0),
            _ if flag("use_sliding_window") == Some(true) => {
                return Err(json.wrong("use_sliding_window", "is on, which is not written"));
            }
            _ => None,
        };
        Ok(Self {
            architecture,
            layers: json.size("num_hidden_layers", None)?,
            heads,
            kv_heads: json.size("num_key_value_heads", Some(heads))?,
            head_dim,
            hidden,
            intermediate: json.size("intermediate_size", None)?,
            vocabulary: json.size("vocab_size", None)?,
            tied: flag("tie_word_embeddings").unwrap_or(false),
            qk_norm: architecture == "qwen3",
            context: json.size("max_position_embeddings", Some(2048))?,
            epsilon: json.number(config.get("rms_norm_eps"), "rms_norm_eps", Some(1e-6))?,
            theta,
            scaling,
            window,
        })
    }

    /// The keys under the architecture's prefix.
    pub(super) fn metadata(&self) -> Vec<(String, GgufValue)> {
        let int = |n: usize| GgufValue::Int(n as i128);
        let float = |x: f64| GgufValue::F32(x as f32);
        let mut keys = vec![
            ("block_count", int(self.layers)),
            ("context_length", int(self.context)),
            ("embedding_length", int(self.hidden)),
            ("feed_forward_length", int(self.intermediate)),
            ("attention.head_count", int(self.heads)),
            ("attention.head_count_kv", int(self.kv_heads)),
            ("attention.key_length", int(self.head_dim)),
            ("attention.value_length", int(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", float(self.epsilon)),
            ("rope.dimension_count", int(self.head_dim)),
            ("rope.freq_base", float(self.theta)),
            ("vocab_size", int(self.vocabulary)),
        ];
        match &self.scaling {
            Scaling::None => {}
            Scaling::Linear(factor) => keys.extend([
                ("rope.scaling.type", GgufValue::String("linear".into())),
                ("rope.scaling.factor", float(*factor)),
            ]),
            // The divisors say the rest; this one cannot be told from them.
            Scaling::Llama3(scaling) => keys.push((
                "rope.scaling.original_context_length",
                int(scaling.original_max_position_embeddings as usize),
            )),
        }
        if let Some(window) = self.window {
            keys.push(("attention.sliding_window", int(window)));
        }
        let full = |(key, value)| (format!("{}.{key}", self.architecture), value);
        keys.into_iter().map(full).collect()
    }

    /// The divisors of a scaled rotary embedding, which llama.cpp keeps as a tensor.
    pub(super) fn rope_factors(&self) -> Option<Vec<f32>> {
        let Scaling::Llama3(scaling) = &self.scaling else {
            return None;
        };
        let divisors = llama3_divisors(self.theta, self.head_dim, scaling);
        Some(divisors.into_iter().map(|d| d as f32).collect())
    }

    /// The shape of the tensor with this checkpoint name, for tensors that the architecture has.
    pub(super) fn shape(&self, name: &str) -> Vec<usize> {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let leaf = module.rsplit('.').next().unwrap_or(module);
        let matrix = match leaf {
            "embed_tokens" | "lm_head" => [self.vocabulary, self.hidden],
            "q_proj" => [queries, self.hidden],
            "k_proj" | "v_proj" => [keys, self.hidden],
            "o_proj" => [self.hidden, queries],
            "gate_proj" | "up_proj" => [self.intermediate, self.hidden],
            "down_proj" => [self.hidden, self.intermediate],
            "q_norm" | "k_norm" => return vec![self.head_dim],
            _ => return vec![self.hidden],
        };
        match kind {
            "bias" => vec![matrix[0]],
            _ => matrix.into(),
        }
    }

    /// Checkpoint names of the tensors that the model cannot be without.
    pub(super) fn required(&self) -> impl Iterator<Item = String> {
        let head = (!self.tied).then_some("lm_head.weight");
        let whole = ["model.embed_tokens.weight", "model.norm.weight"];
        let norms: &[&str] = match self.qk_norm {
            true => &["self_attn.q_norm", "self_attn.k_norm"],
            false => &[],
        };
        let modules = REQUIRED.iter().chain(norms);
        let layers = (0..self.layers).flat_map(move |layer| {
            let modules = modules.clone();
            modules.map(move |module| format!("model.layers.{layer}.{module}.weight"))
        });
        whole
            .into_iter()
            .chain(head)
            .map(String::from)
            .chain(layers)
    }
}

const REQUIRED: &[&str] = &[
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A `config.json` whose answers name their key when they fail.
struct Json<'a>(&'a Value);

impl Json<'_> {
    fn wrong(&self, key: &str, problem: &str) -> Error {
        Error::ConfigKey {
            key: key.into(),
            problem: problem.into(),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<usize>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(n) => Ok(Some(n as usize)),
                None => Err(self.wrong(key, &format!("is {value}, not a whole number below 2^32"))),
            },
        }
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match self.optional(key)?.or(default) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(self.wrong(key, "is missing or zero")),
        }
    }

    fn number(&self, value: Option<&Value>, key: &str, default: Option<f64>) -> Result<f64> {
        let found = match value {
            None | Some(Value::Null) => default,
            Some(value) => value.as_f64(),
        };
        found
            .filter(|x| *x > 0.0 && x.is_finite())
            .ok_or_else(|| self.wrong(key, "is missing or not a positive number"))
    }

    /// Base and scaling of the rotary embedding, as transformers 4 or 5 states them.
    fn rope(&self) -> Result<(f64, Scaling)> {
        let given = |key: &str| self.0.get(key).filter(|v| !v.is_null());
        let parameters = given("rope_parameters");
        let own = parameters.and_then(|p| p.get("rope_theta"));
        let theta = self.number(own.or(given("rope_theta")), "rope_theta", Some(10_000.0))?;
        let Some(stated) = parameters.or_else(|| given("rope_scaling")) else {
            return Ok((theta, Scaling::None));
        };
        let kind = stated.get("rope_type").or_else(|| stated.get("type"));
        let field = |key: &str| self.number(stated.get(key), key, None);
        let scaling = match kind.and_then(Value::as_str) {
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear(field("factor")?),
            Some("llama3") => Scaling::Llama3(Llama3 {
                factor: field("factor")?,
                low_freq_factor: field("low_freq_factor")?,
                high_freq_factor: field("high_freq_factor")?,
                original_max_position_embeddings: field("original_max_position_embeddings")?,
            }),
            Some(other) => {
                return Err(self.wrong("rope_type", &format!("is `{other}`, which is not written")));
            }
        };
        Ok((theta, scaling))
    }
}
