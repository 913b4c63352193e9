//! What `merge` and `verify` are told.

use std::path::PathBuf;

use adapters::recipe::{Onto, Quantization, Verify};
use clap::{Args as ClapArgs, ValueEnum, ValueHint};

use super::{RecipeFlags, WeightType};

#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// A recipe's file, or the name of one in ./recipes
    #[arg(required_unless_present = "base", conflicts_with = "base", value_hint = ValueHint::FilePath)]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RecipeFlags,
    /// Runs every stage again, even where nothing changed
    #[arg(long)]
    pub fresh: bool,
    /// The base model: a folder or a GGUF file
    #[arg(long, value_name = "MODEL", requires = "adapter", requires = "into", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// The adapter's folder, in PEFT's format
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// The folder to write
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::DirPath)]
    pub into: Option<PathBuf>,
    /// Asks base and result a few items of this task afterwards, such as pubmedqa:50; can be given several times
    #[arg(long, value_name = "TASK")]
    pub validate: Vec<String>,
    #[command(flatten)]
    pub how: MergeFlags,
}

/// How any adapter is merged into any base; a recipe has a table for it.
#[derive(Debug, ClapArgs)]
#[group(conflicts_with = "recipe", multiple = true)]
pub struct MergeFlags {
    /// What the weights are stored as [default: each tensor keeps its own]
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,
    /// Most bytes of tensors in one file, such as 5GB or 500MB; more become shards with an index
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub shard_size: u64,
    /// How the result is proven before the folder gets its name
    #[arg(long, value_enum, default_value_t = VerifyMode::Standard)]
    pub verify: VerifyMode,
    /// Takes the adapter out of a merged model, which --base names
    #[arg(long)]
    pub subtract: bool,
    /// What the adapter's training quantized the base to (QLoRA) [default: what the adapter says]
    #[arg(long, value_enum)]
    pub quantization: Option<QuantizationType>,
    /// Which numbers of a quantized base the adapter is added to
    #[arg(long, value_enum, default_value_t = OntoBase::Trained)]
    pub onto: OntoBase,
    /// Merges onto a base that is not the one of the adapter's training, and records it
    #[arg(long)]
    pub force: bool,
}

/// `5GB`, `500MB`, `1.5GiB`: powers of ten, or of two with an `i`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("give a size such as 5GB or 500MB".to_owned()),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number * factor >= 1.0 && number * factor < 1e18 => {
            Ok((number * factor) as u64)
        }
        _ => Err("give a size such as 5GB or 500MB".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyMode {
    /// Not at all
    None,
    /// Every tensor's bytes, on their way to the file
    Tensors,
    /// As tensors, and the model's answers to probes
    Standard,
    /// As standard, and everything read back from the files
    Full,
}

impl From<VerifyMode> for Verify {
    fn from(mode: VerifyMode) -> Self {
        match mode {
            VerifyMode::None => Self::None,
            VerifyMode::Tensors => Self::Tensors,
            VerifyMode::Standard => Self::Standard,
            VerifyMode::Full => Self::Full,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizationType {
    /// 4-bit NormalFloat, as bitsandbytes makes it
    Nf4,
}

impl From<QuantizationType> for Quantization {
    fn from(quantization: QuantizationType) -> Self {
        match quantization {
            QuantizationType::Nf4 => Self::Nf4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OntoBase {
    /// Those that training saw: quantized and widened again
    Trained,
    /// Those that are stored; the difference is measured and reported
    Stored,
}

impl From<OntoBase> for Onto {
    fn from(onto: OntoBase) -> Self {
        match onto {
            OntoBase::Trained => Self::Trained,
            OntoBase::Stored => Self::Stored,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// A recipe's file, or the name of one in ./recipes
    #[arg(required_unless_present = "base", conflicts_with = "base", value_hint = ValueHint::FilePath)]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RecipeFlags,
    /// The base model: a folder or a GGUF file
    #[arg(long, value_name = "MODEL", requires = "adapter", requires = "merged", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// The adapter's folder, in PEFT's format
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// The merged model's folder
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::DirPath)]
    pub merged: Option<PathBuf>,
}
