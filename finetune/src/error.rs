//! What can go wrong while loading, training or asking a model.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ledger::files::is_full;

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, with the data a person needs to understand it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `config.json` names an architecture this decoder does not implement.
    #[error("architecture {model_type:?} is not supported")]
    UnknownArchitecture {
        /// `model_type` as written.
        model_type: String,
        /// What is supported.
        known: Vec<&'static str>,
    },
    /// A setting of `config.json` would change the arithmetic in a way that is not implemented.
    #[error("config.json of this {model_type} model sets {key} = {value}, which is not supported")]
    UnsupportedSetting {
        /// The architecture.
        model_type: String,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
    },
    /// A key of `config.json` is missing or holds the wrong kind of value.
    #[error("config.json: {key} {problem}")]
    ConfigKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer can produce ids for which the embedding has no row.
    #[error("the tokenizer has {tokens} tokens, but the model's embedding has {rows} rows")]
    Vocabulary {
        /// Size of the tokenizer's vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A batch without a single target token.
    #[error("a batch holds no target token, so there is nothing to learn from it")]
    NoTargets,
    /// The training set is empty.
    #[error("the training set holds no sample")]
    NoSamples,
    /// Nothing is trained.
    #[error("no parameter is trained")]
    NothingTrained,
    /// After the backward pass a trained parameter had no gradient.
    #[error("parameter {name} is trained but received no gradient")]
    MissingGradient {
        /// The parameter.
        name: String,
    },
    /// A loss or norm became NaN or infinite.
    #[error("{what} of step {step} is {value}")]
    NotFinite {
        /// What is not finite.
        what: &'static str,
        /// The optimizer step, from 1.
        step: u64,
        /// Its value.
        value: f64,
    },
    /// A gradient became NaN or infinite while gradients were applied as they came.
    #[error(
        "the gradient of {name} in step {step} has norm {value}; {changed} of {of} parameters had already taken the step"
    )]
    NotFiniteInPass {
        /// The parameter.
        name: String,
        /// The optimizer step, from 1.
        step: u64,
        /// The gradient's norm.
        value: f64,
        /// Parameters that this step has changed: the weights in memory are of no step if it is not 0.
        changed: usize,
        /// Parameters in all.
        of: usize,
    },
    /// A loss was NaN or infinite while gradients, which were finite, were applied as they came.
    #[error(
        "the loss of step {step} is {value}; {changed} of {of} parameters had already taken the step"
    )]
    LossNotFiniteInPass {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss.
        value: f64,
        /// Parameters that this step has changed: the weights in memory are of no step.
        changed: usize,
        /// Parameters in all.
        of: usize,
    },
    /// A parameter was handed a gradient after its step.
    #[error("parameter {name} received a gradient after it had taken its step")]
    GradientAfterStep {
        /// The parameter.
        name: String,
    },
    /// The loss or the gradient of a step became NaN or infinite; the samples that were in it.
    #[error(
        "the {what} of step {step} is {value}; samples in it: {}",
        list(samples)
    )]
    StepNotFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The optimizer step, from 1.
        step: u64,
        /// Its value.
        value: f64,
        /// Ids of the samples in the step.
        samples: Vec<String>,
    },
    /// Step after step was left out because its loss or gradient was NaN or infinite.
    #[error(
        "{in_a_row} steps in a row were left out, the last because the {what} of step {step} is {value}; samples in it: {}",
        list(samples)
    )]
    TooManySkipped {
        /// How many.
        in_a_row: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The last of them, from 1.
        step: u64,
        /// Its value.
        value: f64,
        /// Ids of the samples in it.
        samples: Vec<String>,
    },
    /// The best checkpoint is to be used, and nothing says which is best.
    #[error("train.load_best_model_at_end needs held-out samples to choose by, and there are none")]
    NothingHeldOut,
    /// The disk has no room for what a training will write.
    #[error(
        "the disk of {} has {free_bytes} bytes free, and the training's checkpoints and result need {need_bytes}",
        path.display()
    )]
    DiskSpace {
        /// Where the training writes.
        path: PathBuf,
        /// What it needs beyond what is already there.
        need_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// A checkpoint was written by a run with other settings or data.
    #[error("checkpoint {} is of another run: {}", path.display(), differences(differing))]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Key, what the checkpoint says, what this run says.
        differing: BTreeMap<String, (String, String)>,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {} cannot be used: {problem}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The step of the newest one before it that is whole and of this run.
        older: Option<u64>,
    },
    /// A checkpoint could not be written.
    #[error("cannot write checkpoint {}", path.display())]
    CheckpointWrite {
        /// The checkpoint.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// The step of the newest checkpoint on the disk.
        newest: Option<u64>,
    },
    /// A machine's file cannot be used.
    #[error("machine {}: {problem}", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The training's plan needs more memory than there is.
    #[error("this training needs {} of memory, of which {} is {largest_part}; {} is free", gigabytes(*needed), gigabytes(*largest_bytes), gigabytes(*free))]
    WontFit {
        /// Bytes of the plan.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The largest part of the plan.
        largest_part: &'static str,
        /// Its bytes.
        largest_bytes: u64,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "item {id}: its prompt and answer are {tokens} tokens, more than the {limit} the model can read"
    )]
    TooLong {
        /// The item.
        id: String,
        /// Its length.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A training sample longer than a pack.
    #[error("sample {id} is {tokens} tokens, more than data.max_seq_len = {max_seq_len}")]
    SampleTooLong {
        /// The sample.
        id: String,
        /// Its length.
        tokens: usize,
        /// Length of a pack.
        max_seq_len: usize,
    },
    /// From an encoder's folder.
    #[error(transparent)]
    Encoder(#[from] crate::bert::EncoderError),
    /// From the numeric layer.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),
    /// From weights, adapters and their files.
    #[error(transparent)]
    Adapters(#[from] adapters::Error),
    /// From tokenizing and packing.
    #[error(transparent)]
    Datasets(#[from] datasets::Error),
    /// From tasks that a model in training was asked.
    #[error(transparent)]
    Tasks(Box<eval::Error>),
    /// From manifests and files.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownArchitecture { known, .. } => format!("supported: {}", known.join(", ")),
            Self::UnsupportedSetting { .. } => {
                "a model trained with this setting would be computed wrongly, so it is refused rather than approximated".into()
            }
            Self::ConfigKey { .. } => "compare config.json with the one the model was published with".into(),
            Self::Vocabulary { .. } => {
                "use the tokenizer the model came with, or a checkpoint whose embedding was resized for the added tokens".into()
            }
            Self::NoTargets | Self::NoSamples => "look at the samples with `medtune show RECIPE --sample 3`".into(),
            Self::NothingTrained => "give an [adapter.lora] table, or set train.method = \"full\"".into(),
            Self::MissingGradient { .. } | Self::GradientAfterStep { .. } => "this is a defect of medtune: please report it with the recipe".into(),
            Self::NotFinite { .. } | Self::TooManySkipped { .. } => {
                "a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps; the last checkpoint is intact".into()
            }
            Self::StepNotFinite { .. } => {
                "look at these samples; train.on_nonfinite = \"skip\" goes on from the last checkpoint and leaves such steps out. Where it comes back, a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps".into()
            }
            Self::NotFiniteInPass { .. } | Self::LossNotFiniteInPass { .. } => {
                "run the command again: it goes on from the last checkpoint, which is intact; train.gradients = \"accumulate\" (or train.clipping = \"global\") finds this before any weight has changed, and a lower train.learning_rate or f32 compute usually avoids it".into()
            }
            Self::NothingHeldOut => "set data.validation_fraction, choose by a task with train.eval_tasks and train.metric_for_best_model, or leave train.load_best_model_at_end out".into(),
            Self::DiskSpace { .. } => {
                "free some space on the disk, choose another folder with --out, or lower train.save_total_limit".into()
            }
            Self::Checkpoint { path, older, .. } => hint_of_damage(path, *older),
            Self::CheckpointWrite { source, newest, .. } => hint_of_write(source.kind(), *newest),
            Self::Machine { .. } => "recipes/machines holds files to start from".into(),
            Self::WontFit { .. } => {
                "train.recompute = \"auto\", a smaller data.max_seq_len or micro_batch_size, or an adapter instead of every weight needs less; `medtune plan` shows the parts".into()
            }
            Self::OtherRun { .. } => {
                "to start anew, give another --out or remove the folder train/checkpoints; to go on, restore the settings".into()
            }
            Self::Io { source, .. } if is_full(source.kind()) => {
                "free some space on the disk; the last checkpoint is intact, and the same command goes on from it".into()
            }
            Self::Io { source, .. } if is_read_only(source.kind()) => {
                "choose a folder that you may write to with --out".into()
            }
            Self::Io { .. } | Self::Candle(_) => return None,
            Self::TooLong { .. } => "shorten the task's prompt or use a model with a longer context".into(),
            Self::SampleTooLong { .. } => {
                "raise data.max_seq_len, or let data.on_too_long drop or cut such samples".into()
            }
            Self::Encoder(e) => e.hint(),
            Self::Kernels(e) => return e.hint(),
            Self::Adapters(e) => return e.hint(),
            Self::Datasets(e) => return e.hint(),
            Self::Tasks(e) => return e.hint(),
            Self::Ledger(e) => return e.hint(),
        })
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn hint_of_damage(path: &Path, older: Option<u64>) -> String {
    let name = path.file_name().unwrap_or_default().display();
    let then = match older {
        Some(step) => format!("goes on from step {step}, whose checkpoint is whole"),
        None => "starts anew: no other checkpoint is whole".into(),
    };
    format!("move the folder {name} out of checkpoints/; the same command then {then}")
}

fn hint_of_write(kind: ErrorKind, newest: Option<u64>) -> String {
    let first = if is_full(kind) {
        "free some space on the disk (or raise the limit on file sizes)"
    } else if is_read_only(kind) {
        "make the folder writable"
    } else {
        "set right what the system says"
    };
    match newest {
        Some(step) => format!(
            "{first}; the same command then goes on from step {step}, whose checkpoint is intact"
        ),
        None => format!("{first}; no checkpoint was written yet, so the same command starts anew"),
    }
}

fn is_read_only(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory
    )
}

fn list(ids: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = ids
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if ids.len() > SHOWN {
        text.push_str(&format!(" and {} more", ids.len() - SHOWN));
    }
    text
}

fn differences(differing: &BTreeMap<String, (String, String)>) -> String {
    differing
        .iter()
        .map(|(key, (theirs, ours))| format!("{key} was {theirs} and is now {ours}"))
        .collect::<Vec<_>>()
        .join("; ")
}
