//! Weights and adapters: named tensors from Hugging Face folders, GGUF files or a seed; linear layers with LoRA and
//! their explicit backward pass; PEFT's adapter files; merging with proof.
//!
//! LoRA is our own. candle-lora is not published as a crate, and its forward pass multiplies the frozen path by
//! alpha / rank as well, which is wrong whenever alpha ≠ rank: merged and unmerged outputs then differ.
//!
//! A model is built by asking a [`Builder`] for its layers by name. Only the builder knows what is frozen,
//! quantized, adapted or trained; a decoder sees [`LinearGroup`], [`Norm`] and [`Embedding`].

mod belonging;
mod bitsandbytes;
mod builder;
mod dora;
mod encode;
mod error;
mod export;
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
mod parameters;
pub mod peft;
mod proof;
mod quantize;
mod random;
pub mod recipe;
mod safetensors_file;
mod weights;

pub use belonging::{BaseIdentity, Belonging, Difference, Vocabulary};
pub use builder::{Builder, Embedding, LinearSpec, Method, Norm};
pub use error::{Error, Result};
pub use export::{ExportOptions, convert, refuse_base_as_output, save_full};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use gguf::{GgufMetadata, GgufValue};
pub use group::{GroupSaved, LinearGroup, Pass};
pub use lora::{LoraConfig, TargetModules};
pub use merge::{MergeOptions, MergeReport, merge, merge_into};
pub use parameters::{GradSink, ParamId, Parameter, ParameterKind, Parameters};
pub use peft::{PeftAdapter, PeftConfig};
pub use proof::{TensorProof, verify_tensors};
pub use weights::{Init, TensorSpec, WeightView, Weights};
