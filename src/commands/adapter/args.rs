//! The command line of `medtune adapter`.

use std::path::PathBuf;

use adapters::CombineMethod;
use clap::{Args as ClapArgs, Subcommand, ValueEnum, ValueHint};

pub const EXAMPLES: &str = "\
Examples:
  medtune adapter inspect runs/x/adapter
  medtune adapter combine both runs/notes/adapter runs/qa/adapter --weights 0.6,0.4
  medtune adapter extract models/base models/base-tuned extracted --rank 32
  medtune adapter resize runs/x/adapter smaller --rank 8";

#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// Says what an adapter is, how large its updates are, and whether any does nothing
    #[command(after_help = "Example:\n  medtune adapter inspect runs/x/adapter --all")]
    Inspect(InspectArgs),
    /// Makes one adapter of several: their exact weighted sum, or TIES or DARE
    #[command(after_help = "\
Examples:
  medtune adapter combine both A B --weights 0.6,0.4
  medtune adapter combine without A B --weights 1,-1
  medtune adapter combine both A B --weights 1,1 --method ties --density 0.2
  medtune adapter combine both A B --weights 1,1 --method dare-linear-svd --density 0.5 --seed 7")]
    Combine(CombineArgs),
    /// Makes a LoRA of the difference between a model and one tuned from it
    #[command(after_help = "\
Examples:
  medtune adapter extract models/base models/tuned extracted --rank 32
  medtune adapter extract models/base models/tuned extracted --rank 64 --save-rest")]
    Extract(ExtractArgs),
    /// Changes an adapter's rank: the best approximation, or the same update with room to grow
    #[command(after_help = "Example:\n  medtune adapter resize runs/x/adapter smaller --rank 8")]
    Resize(ResizeArgs),
}

#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// The adapter's folder, in PEFT's format
    #[arg(value_hint = ValueHint::DirPath)]
    pub adapter: PathBuf,
    /// Lists every module, and not only the largest and the smallest
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, ClapArgs)]
pub struct CombineArgs {
    /// The folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// The adapters' folders, in PEFT's format
    #[arg(required = true, num_args = 2.., value_hint = ValueHint::DirPath)]
    pub adapters: Vec<PathBuf>,
    /// One weight for each adapter, with commas between; negative ones take an update away
    #[arg(
        long,
        value_name = "W1,W2",
        value_delimiter = ',',
        required = true,
        allow_hyphen_values = true
    )]
    pub weights: Vec<f64>,
    /// How
    #[arg(long, value_enum, default_value_t = Method::Linear)]
    pub method: Method,
    /// The share of the numbers that TIES and DARE keep
    #[arg(long, value_name = "SHARE")]
    pub density: Option<f64>,
    /// The rank of a `-svd` method's result [default: the adapters' largest]
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// What DARE drops is drawn from this
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Combines adapters of different bases or tokenizers, and records it
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The weighted sum of the updates, exactly; ranks add up (PEFT's `cat`; PEFT's `linear` is another thing)
    #[value(alias = "cat")]
    Linear,
    /// TIES on A and on B each (PEFT's `ties`)
    Ties,
    /// DARE on A and on B each (PEFT's `dare_linear`)
    DareLinear,
    /// DARE on A and on B each, signs elected (PEFT's `dare_ties`)
    DareTies,
    /// TIES on the updates, cut down to a rank (PEFT's `ties_svd`)
    TiesSvd,
    /// DARE on the updates, cut down to a rank (PEFT's `dare_linear_svd`)
    DareLinearSvd,
    /// DARE on the updates, signs elected, cut down to a rank (PEFT's `dare_ties_svd`)
    DareTiesSvd,
}

impl From<Method> for CombineMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Linear => Self::Linear,
            Method::Ties => Self::Ties,
            Method::DareLinear => Self::DareLinear,
            Method::DareTies => Self::DareTies,
            Method::TiesSvd => Self::TiesSvd,
            Method::DareLinearSvd => Self::DareLinearSvd,
            Method::DareTiesSvd => Self::DareTiesSvd,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct ExtractArgs {
    /// The model that tuning started from: a folder or a GGUF file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub base: PathBuf,
    /// The tuned model
    #[arg(value_hint = ValueHint::AnyPath)]
    pub tuned: PathBuf,
    /// The folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// The rank of every update
    #[arg(long, value_name = "R")]
    pub rank: usize,
    /// The linear layers to extract, with commas between [default: all but the output head]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub target_modules: Vec<String>,
    /// Saves what has no low-rank update (norms, embeddings, biases, the head) whole, where it differs
    #[arg(long)]
    pub save_rest: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ResizeArgs {
    /// The adapter's folder, in PEFT's format
    #[arg(value_hint = ValueHint::DirPath)]
    pub adapter: PathBuf,
    /// The folder to write
    #[arg(value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// The new rank
    #[arg(long, value_name = "R")]
    pub rank: usize,
}
