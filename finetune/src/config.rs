//! What a decoder is made of, read from Hugging Face's `config.json`.

use serde_json::Value;

use crate::{Error, Result};

/// The shape of a Llama-family decoder. Field names are `config.json`'s where it has them.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type` of the checkpoint (`llama`, `mistral`, ...).
    pub model_type: &'static str,
    /// Rows of the embedding and of the head (V).
    pub vocab_size: usize,
    /// Width of the residual stream (D).
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads (H).
    pub num_attention_heads: usize,
    /// Key/value heads (K); fewer than H is grouped-query attention.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Longest position the checkpoint claims to know.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention's output.
    pub o_bias: bool,
    /// Bias on the three MLP projections.
    pub mlp_bias: bool,
    /// RMS norm over each head of q and k (Qwen3).
    pub qk_norm: bool,
    /// Mistral's window: a token sees this many positions, itself included.
    pub sliding_window: Option<usize>,
}

/// Rotary frequency scaling, as `rope_scaling` (transformers 4) or `rope_parameters` (5) states it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as trained.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3's smooth mix of scaled and unscaled frequencies.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are scaled whole.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are left alone.
        high_freq_factor: f64,
        /// Context length before scaling.
        original_max_position_embeddings: f64,
    },
}

impl DecoderConfig {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Rotary inverse frequencies, `head_dim / 2` of them, scaling applied.
    ///
    /// `llama3` follows transformers' `_compute_llama3_parameters`.
    pub fn inv_freq(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        let plain = (0..half).map(|i| {
            self.rope_theta
                .powf(-((2 * i) as f64) / self.head_dim as f64)
        });
        match self.rope_scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => plain
                .map(|f| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength > original / low {
                        f / factor
                    } else if wavelength < original / high {
                        f
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }

    /// Number of weights, by part; the sum is what the checkpoint holds.
    pub fn parameter_count(&self) -> u64 {
        let (d, q, kv, f) = (
            self.hidden_size,
            self.q_dim(),
            self.kv_dim(),
            self.intermediate_size,
        );
        let mut layer = d * q + 2 * d * kv + q * d + 3 * d * f + 2 * d;
        if self.qkv_bias {
            layer += q + 2 * kv;
        }
        if self.o_bias {
            layer += d;
        }
        if self.mlp_bias {
            layer += 2 * f + d;
        }
        if self.qk_norm {
            layer += 2 * self.head_dim;
        }
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        (self.num_hidden_layers * layer + heads * self.vocab_size * d + d) as u64
    }
}

/// `config.json` with the questions a model file asks of it; every answer names its key when it fails.
pub struct ConfigJson<'a> {
    value: &'a Value,
    model_type: String,
}

impl<'a> ConfigJson<'a> {
    /// Wraps a parsed `config.json`.
    pub fn new(value: &'a Value) -> Result<Self> {
        let model_type = value
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if model_type.is_empty() {
            return Err(Error::ConfigKey {
                key: "model_type".into(),
                problem: "is missing".into(),
            });
        }
        Ok(Self { value, model_type })
    }

    /// `model_type`, never empty.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// A whole number that must be there and above zero.
    pub fn size(&self, key: &str) -> Result<usize> {
        match self.size_or(key, 0)? {
            0 => Err(Error::ConfigKey {
                key: key.into(),
                problem: "is missing or zero".into(),
            }),
            n => Ok(n),
        }
    }

    /// A whole number, or `default` where the key is absent or null.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                // Sizes are multiplied with one another: what does not fit 32 bits is a damaged file.
                .filter(|n| *n <= u32::MAX as u64)
                .map(|n| n as usize)
                .ok_or_else(|| self.bad(key, v, "a whole number below 2^32")),
        }
    }

    /// A number, or `default`.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        number(self.get(key), default).map_err(|v| self.bad(key, v, "a number"))
    }

    /// A truth value, or `default`.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, v, "true or false")),
        }
    }

    fn bad(&self, key: &str, found: &Value, wanted: &str) -> Error {
        Error::ConfigKey {
            key: key.into(),
            problem: format!("is {found}, not {wanted}"),
        }
    }

    /// Refuses a setting whose meaning this decoder does not implement.
    pub fn refuse(&self, key: &str, is_neutral: impl Fn(&Value) -> bool) -> Result<()> {
        match self.get(key) {
            Some(v) if !is_neutral(v) => Err(Error::UnsupportedSetting {
                model_type: self.model_type.clone(),
                key: key.into(),
                value: v.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Base and scaling of the rotary embedding, in either of transformers' dialects.
    pub fn rope(&self, default_theta: f64) -> Result<(f64, RopeScaling)> {
        let parameters = self.get("rope_parameters");
        let scaling = parameters.or_else(|| self.get("rope_scaling"));
        let key = if parameters.is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let theta = match parameters.and_then(|p| p.get("rope_theta")) {
            Some(v) => v
                .as_f64()
                .ok_or_else(|| self.bad("rope_parameters.rope_theta", v, "a number"))?,
            None => self.number_or("rope_theta", default_theta)?,
        };
        let Some(scaling) = scaling else {
            return Ok((theta, RopeScaling::None));
        };
        let field = |name: &str| {
            scaling
                .get(name)
                .and_then(Value::as_f64)
                .filter(|x| *x > 0.0)
                .ok_or_else(|| Error::ConfigKey {
                    key: format!("{key}.{name}"),
                    problem: "is missing or not a positive number".into(),
                })
        };
        let kind = scaling
            .get("rope_type")
            .or_else(|| scaling.get("type"))
            .and_then(Value::as_str);
        let scaling = match kind {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: field("factor")?,
            },
            Some("llama3") => RopeScaling::Llama3 {
                factor: field("factor")?,
                low_freq_factor: field("low_freq_factor")?,
                high_freq_factor: field("high_freq_factor")?,
                original_max_position_embeddings: field("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(Error::UnsupportedSetting {
                    model_type: self.model_type.clone(),
                    key: format!("{key}.rope_type"),
                    value: format!("{other:?}"),
                });
            }
        };
        Ok((theta, scaling))
    }

    /// What every Llama-family `config.json` says in the same words; model files change the rest.
    ///
    /// Settings that would change the arithmetic and are not implemented are refused here, by name.
    pub fn base(&self, model_type: &'static str, default_theta: f64) -> Result<DecoderConfig> {
        self.refuse("hidden_act", |v| v == "silu" || v == "swish")?;
        self.refuse("hidden_activation", |v| v == "silu")?;
        self.refuse("quantization_config", |_| false)?;
        self.refuse("partial_rotary_factor", |v| v.as_f64() == Some(1.0))?;
        for key in [
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "no_rope_layers",
        ] {
            self.refuse(key, |_| false)?;
        }
        for key in [
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
            "logit_scale",
        ] {
            self.refuse(key, |v| v.as_f64() == Some(1.0))?;
        }
        let heads = self.size("num_attention_heads")?;
        let hidden = self.size("hidden_size")?;
        let (rope_theta, rope_scaling) = self.rope(default_theta)?;
        let config = DecoderConfig {
            model_type,
            vocab_size: self.size("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: self.size_or("num_key_value_heads", heads)?,
            head_dim: self.size_or("head_dim", hidden / heads)?,
            rms_norm_eps: self.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            max_position_embeddings: self.size_or("max_position_embeddings", 2048)?,
            tie_word_embeddings: self.flag_or("tie_word_embeddings", false)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: None,
        };
        let positive = |ok: bool, key: &str, problem: String| {
            if ok {
                Ok(())
            } else {
                Err(Error::ConfigKey {
                    key: key.into(),
                    problem,
                })
            }
        };
        let kv = config.num_key_value_heads;
        positive(
            kv > 0 && heads.is_multiple_of(kv),
            "num_key_value_heads",
            format!("is {kv}, which does not divide num_attention_heads = {heads}"),
        )?;
        let head_dim = config.head_dim;
        positive(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "head_dim",
            format!("is {head_dim}; rotary embedding needs an even width above zero"),
        )?;
        positive(
            config.rope_theta > 1.0,
            "rope_theta",
            format!("is {rope_theta}, not above 1"),
        )?;
        Ok(config)
    }
}

fn number(value: Option<&Value>, default: f64) -> std::result::Result<f64, &Value> {
    match value {
        None => Ok(default),
        Some(v) => v.as_f64().ok_or(v),
    }
}
