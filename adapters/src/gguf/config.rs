//! A Hugging Face `config.json` made from GGUF metadata, with every key that changes the mathematics and nothing else.

use super::names::ARCHITECTURES;
use super::read::GgufFile;
use crate::{Error, Result};
use kernels::{GgmlType, Matrix};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The configuration of `file`, or the first thing in it that is not supported, by name.
pub(crate) fn config(path: &Path, file: &GgufFile) -> Result<Value> {
    let keys = Keys::new(path, file)?;
    let (architecture, mut model_type, mut class) = keys.architecture;
    refuse_unsupported(&keys)?;
    // A Mistral is stored as a llama; what tells them apart is the window, where there is one.
    let window = keys
        .optional("attention.sliding_window")?
        .filter(|w| *w > 0);
    match (architecture, window) {
        ("llama", Some(_)) => (model_type, class) = ("mistral", "MistralForCausalLM"),
        (_, Some(w)) => {
            return Err(keys.wrong(
                "attention.sliding_window",
                format!("is {w}, which medtune does not support"),
            ));
        }
        (_, None) => {}
    }
    let heads = keys.required("attention.head_count")?;
    let kv_heads = keys.optional("attention.head_count_kv")?.unwrap_or(heads);
    let hidden = keys.required("embedding_length")?;
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        return Err(keys.wrong(
            "attention.head_count_kv",
            format!("is {kv_heads}, which does not divide {heads} heads"),
        ));
    }
    let head_dim = match keys.optional("attention.key_length")? {
        Some(length) => length,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(keys.wrong(
                "attention.head_count",
                format!("is {heads}, which does not divide {hidden}"),
            ));
        }
    };
    if let Some(value_length) = keys.optional("attention.value_length")?
        && value_length != head_dim
    {
        return Err(keys.wrong(
            "attention.value_length",
            format!("is {value_length}, and keys have {head_dim}"),
        ));
    }
    if let Some(rotated) = keys.optional("rope.dimension_count")?
        && rotated != head_dim
    {
        return Err(keys.wrong(
            "rope.dimension_count",
            format!(
                "is {rotated}, and a head has {head_dim}: partial rotary embedding is not supported"
            ),
        ));
    }
    let rows = file
        .tensors
        .get("token_embd.weight")
        .and_then(|t| t.shape.first())
        .copied();
    let vocabulary = match rows {
        Some(rows) => rows as u64,
        None => keys.required("vocab_size")?,
    };
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let context = keys.required("context_length")?;

    let mut c = Map::new();
    let mut set = |key: &str, value: Value| c.insert(key.into(), value);
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(hidden));
    set(
        "intermediate_size",
        json!(keys.required("feed_forward_length")?),
    );
    set("num_hidden_layers", json!(keys.required("block_count")?));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(kv_heads));
    set("head_dim", json!(head_dim));
    set("vocab_size", json!(vocabulary));
    set("max_position_embeddings", json!(context));
    set(
        "rms_norm_eps",
        json!(keys.required_number("attention.layer_norm_rms_epsilon")?),
    );
    set("rope_theta", json!(theta));
    set(
        "rope_scaling",
        rope_scaling(&keys, theta, head_dim as usize)?,
    );
    set(
        "tie_word_embeddings",
        json!(!file.tensors.contains_key("output.weight")),
    );
    match model_type {
        "llama" => {
            set(
                "attention_bias",
                json!(biased(
                    &keys,
                    &["attn_q", "attn_k", "attn_v", "attn_output"]
                )?),
            );
            set(
                "mlp_bias",
                json!(biased(&keys, &["ffn_gate", "ffn_up", "ffn_down"])?),
            );
        }
        "qwen3" => {
            set(
                "attention_bias",
                json!(biased(
                    &keys,
                    &["attn_q", "attn_k", "attn_v", "attn_output"]
                )?),
            );
        }
        _ => {}
    }
    if let Some(window) = window {
        set("sliding_window", json!(window));
    }
    for (key, name) in [
        ("bos", "bos_token_id"),
        ("eos", "eos_token_id"),
        ("padding", "pad_token_id"),
    ] {
        if let Some(id) = file
            .metadata
            .integer(&format!("tokenizer.ggml.{key}_token_id"))
        {
            set(name, json!(id));
        }
    }
    set("torch_dtype", json!("float32"));
    Ok(Value::Object(c))
}

/// Metadata of one file under its architecture's prefix.
struct Keys<'a> {
    path: &'a Path,
    file: &'a GgufFile,
    architecture: (&'static str, &'static str, &'static str),
}

impl<'a> Keys<'a> {
    fn new(path: &'a Path, file: &'a GgufFile) -> Result<Self> {
        let Some(name) = file.metadata.string("general.architecture") else {
            let problem = "is missing".into();
            return Err(Error::GgufKey {
                path: path.into(),
                key: "general.architecture".into(),
                problem,
            });
        };
        match ARCHITECTURES.iter().find(|(ggml, ..)| *ggml == name) {
            Some(&architecture) => Ok(Self {
                path,
                file,
                architecture,
            }),
            None => Err(Error::GgufArchitecture {
                path: path.into(),
                architecture: name.into(),
            }),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.0)
    }

    fn wrong(&self, key: &str, problem: String) -> Error {
        Error::GgufKey {
            path: self.path.into(),
            key: self.full(key),
            problem,
        }
    }

    fn optional(&self, key: &str) -> Result<Option<u64>> {
        let full = self.full(key);
        match (
            self.file.metadata.get(&full),
            self.file.metadata.integer(&full),
        ) {
            (None, _) => Ok(None),
            (Some(_), Some(n)) => Ok(Some(n)),
            (Some(_), None) => {
                Err(self.wrong(key, "is not one integer for the whole model".into()))
            }
        }
    }

    fn required(&self, key: &str) -> Result<u64> {
        self.optional(key)?
            .ok_or_else(|| self.wrong(key, "is missing".into()))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let full = self.full(key);
        match (
            self.file.metadata.get(&full),
            self.file.metadata.number(&full),
        ) {
            (None, _) => Ok(None),
            (Some(_), Some(x)) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.wrong(key, "is not a number".into())),
        }
    }

    fn required_number(&self, key: &str) -> Result<f64> {
        self.number(key)?
            .ok_or_else(|| self.wrong(key, "is missing".into()))
    }

    fn string(&self, key: &str) -> Option<&str> {
        self.file.metadata.string(&self.full(key))
    }
}

/// Settings that change the mathematics and have no place in the configurations made here.
fn refuse_unsupported(keys: &Keys) -> Result<()> {
    for key in [
        "expert_count",
        "attention.layer_norm_epsilon",
        "logit_scale",
    ] {
        if let Some(value) = keys.number(key)?
            && value != 0.0
        {
            return Err(keys.wrong(key, format!("is {value}, which medtune does not support")));
        }
    }
    if let Some(parts) = keys.file.metadata.integer("split.count")
        && parts > 1
    {
        let problem =
            format!("is {parts}: join the parts with llama.cpp's gguf-split --merge first");
        return Err(Error::GgufKey {
            path: keys.path.into(),
            key: "split.count".into(),
            problem,
        });
    }
    Ok(())
}

/// Whether every layer's `modules` carry biases; some but not all cannot be said in a `config.json`.
fn biased(keys: &Keys, modules: &[&str]) -> Result<bool> {
    let layers = keys.required("block_count")?;
    let has = |name: &String| keys.file.tensors.contains_key(name);
    let names =
        || (0..layers).flat_map(|l| modules.iter().map(move |m| format!("blk.{l}.{m}.bias")));
    // Layers beyond the stored ones show as missing tensors later; a hostile count must not be walked here.
    if layers as usize > keys.file.tensors.len() {
        return Err(keys.wrong(
            "block_count",
            format!(
                "is {layers}, and the file holds {} tensors",
                keys.file.tensors.len()
            ),
        ));
    }
    match (names().find(|n| has(n)), names().find(|n| !has(n))) {
        (None, _) => Ok(false),
        (Some(_), None) => Ok(true),
        (Some(tensor), Some(_)) => {
            let architecture = keys.architecture.0.into();
            Err(Error::GgufTensor {
                path: keys.path.into(),
                tensor,
                architecture,
            })
        }
    }
}

/// `rope_scaling` of the configuration: from the keys, or from Llama 3's tensor of divisors.
fn rope_scaling(keys: &Keys, theta: f64, head_dim: usize) -> Result<Value> {
    let factor = keys
        .number("rope.scaling.factor")?
        .or(keys.number("rope.scale_linear")?);
    let kind = keys.string("rope.scaling.type").unwrap_or(match factor {
        Some(f) if f != 1.0 => "linear",
        _ => "none",
    });
    let original = keys.optional("rope.scaling.original_context_length")?;
    if let Some(divisors) = keys.file.tensors.get("rope_freqs.weight") {
        return llama3_scaling(
            keys,
            divisors.kind,
            divisors.bytes.clone(),
            theta,
            head_dim,
            original.unwrap_or(8192),
        );
    }
    match (kind, factor) {
        ("none", _) => Ok(Value::Null),
        // llama.cpp writes 0 or 1 for "as trained".
        ("linear", None) => Ok(Value::Null),
        ("linear", Some(f)) if f == 0.0 || f == 1.0 => Ok(Value::Null),
        ("linear", Some(f)) => Ok(json!({"rope_type": "linear", "factor": f})),
        (other, _) => Err(keys.wrong(
            "rope.scaling.type",
            format!("is `{other}`, which medtune does not support"),
        )),
    }
}

/// llama.cpp stores Llama 3's rotary scaling only as its result, one divisor a frequency. The largest divisor is
/// the factor; the other settings have only ever been 1 and 4, and the divisors that those give must be the stored ones.
fn llama3_scaling(
    keys: &Keys,
    kind: GgmlType,
    bytes: kernels::Bytes,
    theta: f64,
    head_dim: usize,
    original: u64,
) -> Result<Value> {
    let unknown = || Error::RopeDivisors {
        path: keys.path.into(),
    };
    let mut stored = vec![0f32; head_dim / 2];
    let matrix = Matrix::ggml(bytes, kind, 1, head_dim / 2, None).map_err(|_| unknown())?;
    matrix.read_rows_f32(0..1, &mut stored)?;
    if stored.iter().all(|d| *d == 1.0) {
        return Ok(Value::Null);
    }
    let factor = f64::from(stored.iter().copied().fold(1.0, f32::max));
    let scaling = Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original as f64,
    };
    let expected = llama3_divisors(theta, head_dim, &scaling);
    let agrees = |(s, e): (&f32, &f64)| (f64::from(*s) - e).abs() <= 1e-4 * e;
    if !stored.iter().zip(&expected).all(agrees) {
        return Err(unknown());
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }))
}

/// Settings of Llama 3's rotary scaling, by `config.json`'s names.
pub(super) struct Llama3 {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: f64,
}

/// By what Llama 3's scaling divides each rotary frequency: 1 for wavelengths below original/high, `factor` above
/// original/low, and smoothly between. Source: `_compute_llama3_parameters` in transformers.
pub(super) fn llama3_divisors(theta: f64, head_dim: usize, scaling: &Llama3) -> Vec<f64> {
    let &Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original,
    } = scaling;
    (0..head_dim / 2)
        .map(|i| {
            let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}
