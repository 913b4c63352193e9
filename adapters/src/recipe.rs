//! The sections of a recipe that say which model is tuned, how it is adapted, and how it is merged.

use crate::{LoraConfig, TargetModules};
use candle_core::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The base model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// The base model: a Hugging Face folder, a .gguf file, or ORG/NAME as `medtune fetch` downloads it
    pub path: Option<String>,
    /// Start from fresh weights instead of stored ones
    pub init: Option<ModelInit>,
    /// The config.json of a model that starts from fresh weights; with `path`, what that model's must say, to plan with where the model is elsewhere
    pub config: Option<String>,
    /// A folder with tokenizer files, if they do not lie beside the weights
    pub tokenizer: Option<String>,
    /// The numbers to compute in
    pub dtype: ComputeDtype,
    /// Keep the frozen linear layers in 4 bits (QLoRA); embeddings, norms and the output head stay as they are stored
    pub quantization: Option<Quantization>,
    /// An adapter folder to start from
    pub adapter: Option<String>,
}

/// How fresh weights are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelInit {
    /// Random numbers from the run's seed
    Random,
}

/// The numbers that activations are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// 32-bit
    #[default]
    F32,
    /// 16-bit brain floats, with sums in 32 bits
    Bf16,
    /// 64-bit, to check gradients with
    F64,
}

/// What frozen linear layers are quantized to as they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4-bit NormalFloat with double quantization, bit for bit as bitsandbytes makes it
    Nf4,
}

impl From<ComputeDtype> for DType {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
            ComputeDtype::F64 => DType::F64,
        }
    }
}

/// What is trained beside or inside the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterSection {
    /// Low-rank updates of linear layers
    Lora(LoraSection),
}

/// Settings of LoRA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank of the update
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// The update is scaled by alpha / rank
    pub alpha: f64,
    /// Probability that an element of the adapter's input is dropped in training
    #[schemars(range(min = 0, max = 1))]
    pub dropout: f64,
    /// Which linear layers carry an adapter
    pub target_modules: TargetModules,
    /// Scale by alpha / √rank instead
    pub use_rslora: bool,
    /// Train the length of each row of an adapted weight apart from its direction (DoRA)
    pub use_dora: bool,
    /// Modules trained whole beside the adapter, by the end of their names: `["embed_tokens", "lm_head"]`
    pub modules_to_save: Vec<String>,
}

impl Default for LoraSection {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            use_rslora: false,
            use_dora: false,
            modules_to_save: Vec::new(),
        }
    }
}

impl From<&LoraSection> for LoraConfig {
    fn from(section: &LoraSection) -> Self {
        Self {
            rank: section.rank,
            alpha: section.alpha,
            dropout: section.dropout,
            target_modules: section.target_modules.clone(),
            use_rslora: section.use_rslora,
            use_dora: section.use_dora,
            modules_to_save: section.modules_to_save.clone(),
        }
    }
}

/// How the adapter is merged into the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MergeSection {
    /// The numbers to store; each tensor keeps its own if this is not given
    pub dtype: Option<StoredDtype>,
    /// Prove the merged weights against base and adapter before the folder gets its name
    pub verify: Verify,
    /// Which base of a QLoRA the adapter is added to
    pub onto: Onto,
    /// Most bytes of tensors in one file; more become shards with an index
    #[schemars(range(min = 1))]
    pub max_shard_bytes: u64,
    /// Tasks that base and merged model are asked after the merge, as `eval.tasks` has them: `["pubmedqa:50"]`; perplexity on held-out data and two sample answers come with them
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validate: Vec<String>,
}

/// Most bytes of tensors in one file where nothing is said: 5 GB, as `save_pretrained` long had it.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// How merged weights are proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Not at all
    None,
    /// Every tensor's bytes, on their way to the file
    Tensors,
    /// As `tensors`, and the model's answers to probes
    #[default]
    Standard,
    /// As `standard`, and everything read back from the files
    Full,
}

/// The numbers of a quantized base that an adapter is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Onto {
    /// Those that training saw: quantized and widened again
    #[default]
    Trained,
    /// Those that are stored, in full precision; the difference is measured and reported
    Stored,
}

impl Default for MergeSection {
    fn default() -> Self {
        Self {
            dtype: None,
            verify: Verify::default(),
            onto: Onto::default(),
            max_shard_bytes: MAX_SHARD_BYTES,
            validate: Vec::new(),
        }
    }
}

/// The numbers that a model folder stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoredDtype {
    /// 32-bit
    F32,
    /// 16-bit brain floats
    Bf16,
    /// 16-bit IEEE floats
    F16,
}

impl From<StoredDtype> for DType {
    fn from(dtype: StoredDtype) -> Self {
        match dtype {
            StoredDtype::F32 => DType::F32,
            StoredDtype::Bf16 => DType::BF16,
            StoredDtype::F16 => DType::F16,
        }
    }
}
