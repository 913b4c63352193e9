//! Weights and adapters: named tensors from Hugging Face folders, GGUF files or a seed; linear layers with LoRA and
//! their explicit backward pass; PEFT's adapter files; merging with proof.
//!
//! LoRA is our own. candle-lora is not published as a crate, and its forward pass multiplies the frozen path by
//! alpha / rank as well, which is wrong whenever alpha ≠ rank: merged and unmerged outputs then differ.
//!
//! A model is built by asking a [`Builder`] for its layers by name. Only the builder knows what is frozen,
//! quantized, adapted or trained; a decoder sees [`LinearGroup`], [`Norm`] and [`Embedding`].

mod algebra;
mod belonging;
mod bitsandbytes;
mod builder;
mod change;
mod direct;
mod dora;
mod encode;
mod error;
mod export;
mod fetch;
mod fingerprint;
mod folder;
mod gguf;
mod group;
mod hint;
pub mod hub;
mod lora;
mod low_rank;
mod mapped;
mod merge;
mod output;
mod parameters;
pub mod peft;
mod proof;
mod quantize;
mod random;
pub mod recipe;
mod rounded;
mod safetensors_file;
mod shards;
mod stored;
mod stream;
mod weights;

pub use algebra::{
    AlgebraError, CombineMethod, CombineOptions, Combined, ExtractOptions, Extracted, Inspection,
    LayerNorm, ModuleEnergy, ModuleUpdate, NoOp, Resized, Rest, SavedModule, combine, extract,
    inspect, resize,
};
pub use belonging::{BaseIdentity, Belonging, Difference, Vocabulary};
pub use builder::{Builder, Embedding, LinearSpec, Method, Norm};
pub use error::{Error, Result};
pub use export::{ExportOptions, convert, refuse_base_as_output, save_full};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use gguf::{
    GgufFallback, GgufMetadata, GgufReport, GgufType, GgufValue, export_gguf, export_gguf_lora,
};
pub use group::{GroupSaved, LinearGroup, Pass};
pub use lora::{LoraConfig, TargetModules};
pub use merge::{MergeOptions, MergeReport, merge, merge_into, verify_tensors};
pub use parameters::{GradSink, ParamId, Parameter, ParameterKind, Parameters};
pub use peft::{PeftAdapter, PeftConfig};
pub use proof::TensorProof;
pub use quantize::{QuantizationDifference, quantization_difference};
pub use stream::Progress;
pub use weights::{Init, TensorSpec, WeightView, Weights};
