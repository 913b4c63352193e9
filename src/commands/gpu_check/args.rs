//! What `medtune gpu-check` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// A part of the check, which can be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// What the device, its driver and this build are
    Report,
    /// Every operation beside the processor's
    Ops,
    /// Loss and gradients of small models beside the processor's
    Gradients,
    /// Trains a small model there and on the processor; kills the training and goes on with it
    Train,
    /// The rates of a copy and of matrix products
    Ceilings,
    /// The rates of the operations at the sizes of a 13B model
    SpeedOps,
    /// Trains models of 7B to 70B with random weights for some steps
    SpeedTrain,
}

impl Stage {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 7] = [
        Self::Report,
        Self::Ops,
        Self::Gradients,
        Self::Train,
        Self::Ceilings,
        Self::SpeedOps,
        Self::SpeedTrain,
    ];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ops => "ops",
            Self::Gradients => "gradients",
            Self::Train => "train",
            Self::Ceilings => "ceilings",
            Self::SpeedOps => "speed-ops",
            Self::SpeedTrain => "speed-train",
        }
    }
}

/// A check of a GPU.
#[derive(Debug, Clone, Args)]
pub struct GpuCheckArgs {
    /// What to do; all of it without a name, unless --show, --add or --append-to asks for something else
    pub stages: Vec<Stage>,
    /// The GPU: cuda or cuda:N; cpu holds the processor to itself, as a rehearsal
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    pub device: String,
    /// Rehearses on sizes that a processor is through with quickly; what comes out is no measurement
    #[arg(long)]
    pub tiny: bool,
    /// What the random numbers follow from [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Of speed-train, only these rows, such as 13b-lora; can be given several times
    #[arg(long, value_name = "NAME")]
    pub row: Vec<String>,
    /// The folder of medtune's own files, which holds recipes/quickstart.toml and tests/golden
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub tree: PathBuf,
    /// Where small models are trained [default: a folder for temporary files]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub work: Option<PathBuf>,
    /// The record to write, and to go on with where it is of this device and build
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// A stage's record that another program has made, to be put into the record
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub add: Vec<PathBuf>,
    /// Shows what the record holds
    #[arg(long, requires = "out", conflicts_with = "stages")]
    pub show: bool,
    /// Prints the tables as Markdown
    #[arg(long)]
    pub markdown: bool,
    /// Adds the record's figures to a table of results; refused for a rehearsal, and where a proof has failed
    #[arg(long, value_name = "CSV", requires = "out", value_hint = ValueHint::FilePath)]
    pub append_to: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_called_what_is_typed() {
        for stage in Stage::ALL {
            let typed = stage.to_possible_value().map(|v| v.get_name().to_owned());
            assert_eq!(typed.as_deref(), Some(stage.name()));
        }
        assert_eq!(Stage::value_variants(), &Stage::ALL);
    }
}
