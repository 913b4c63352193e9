//! What commands on a model's files are told: `convert`, `export`, `logits`.

use std::path::PathBuf;

use adapters::GgufType;
use adapters::recipe::StoredDtype;
use clap::{Args as ClapArgs, ValueEnum, ValueHint};

#[derive(Debug, ClapArgs)]
pub struct ConvertArgs {
    /// The GGUF file
    #[arg(value_hint = ValueHint::FilePath)]
    pub gguf: PathBuf,
    /// The folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,
    /// What the weights are stored as [default: as in the file; GGML's blocks as f32, which is exact]
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,
}

#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// The model's folder or GGUF file, which --adapter takes the place of; and the file to write
    #[arg(value_names = ["MODEL", "OUT.gguf"], required = true, num_args = 1..=2, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// What matrices are stored in [default: f16, for an adapter f32]
    #[arg(long = "type", value_enum)]
    pub kind: Option<GgufTypeName>,
    /// Exports this adapter instead of a model
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// The adapter's base model: a folder or a GGUF file
    #[arg(long, value_name = "MODEL", requires = "adapter", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// llama.cpp's name (tokenizer.ggml.pre) for how the vocabulary cuts text into words, where it is not known
    #[arg(long, value_name = "NAME", conflicts_with = "adapter")]
    pub pre: Option<String>,
}

/// The types of a GGUF file's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GgufTypeName {
    F32,
    F16,
    Bf16,
    /// 8.5 bits a weight
    #[value(name = "q8_0")]
    Q8_0,
    /// About 4.9 bits a weight: llama.cpp's mixture Q4_K_M
    #[value(name = "q4_k")]
    Q4K,
}

impl From<GgufTypeName> for GgufType {
    fn from(name: GgufTypeName) -> Self {
        match name {
            GgufTypeName::F32 => Self::F32,
            GgufTypeName::F16 => Self::F16,
            GgufTypeName::Bf16 => Self::BF16,
            GgufTypeName::Q8_0 => Self::Q8_0,
            GgufTypeName::Q4K => Self::Q4K,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct LogitsArgs {
    /// A model's folder, or a GGUF file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// An adapter to put on the model
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// Token ids with commas between
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    pub ids: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    F32,
    F16,
    Bf16,
}

impl From<WeightType> for StoredDtype {
    fn from(dtype: WeightType) -> Self {
        match dtype {
            WeightType::F32 => Self::F32,
            WeightType::F16 => Self::F16,
            WeightType::Bf16 => Self::Bf16,
        }
    }
}
