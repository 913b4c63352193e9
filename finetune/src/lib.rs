//! The decoder, its training loop, and the model as something that answers.
//!
//! Training computes its own backward pass: each layer is a pair `forward(..) -> (y, Saved)`,
//! `backward(Saved, dy, sink) -> dx`, made of the pairs in `kernels` and `adapters`. candle's tape is not used because it
//! computes gradients of frozen weights (half as much arithmetic again), drops gradients silently in its fast
//! operations, and cannot recompute. In tests the tape is the referee.
//!
//! - [`models`]: an architecture a file, `config.json` to [`DecoderConfig`];
//! - [`Decoder`]: embedding, layers, head, forward and backward;
//! - [`train`]: the loop, with [`recipe`] as its settings, checkpoints and logs;
//! - [`Model`]: implements [`eval::LanguageModel`];
//! - [`bert`]: an encoder, forward only: implements [`eval::Embedder`].

pub mod bert;
mod checkpoint;
mod checkpoint_folder;
mod config;
mod decoder;
mod disk;
mod error;
mod fit;
mod generate;
mod gguf_vocab;
mod language_model;
mod layer;
mod load;
mod memory;
pub mod models;
mod optimizer;
mod optimizer_step;
mod plan;
mod proof;
pub mod recipe;
mod schedule;
mod step_log;
mod steps;
mod task_scores;
mod tensorboard;
mod train;

pub use checkpoint::{Best, snapshot_bytes};
pub use config::{ConfigJson, DecoderConfig, RopeScaling};
pub use decoder::{BatchLoss, Decoder, DropoutState, PendingLoss, SequenceCache};
pub use disk::{DiskInput, disk_need_bytes, free_disk_bytes};
pub use error::{Error, Result};
pub use fit::{FitSamples, Fitted, fit, fit_packs};
pub use generate::{Answer, Ending, argmax, sample};
pub use load::{Base, Checkpoint, Model, read_config, tensor_specs};
pub use memory::{MemoryUse, ResidentMemory, keep_freed_memory, peak_memory_bytes};
pub use optimizer::{Gradients, MIN_8BIT_SIZE, Optimizer, TrainedBytes, trained_bytes};
pub use plan::{
    AnsweringShape, BatchShape, DeviceKind, DeviceSpec, MemoryPart, PlanInput, StoredWeights,
    TrainPlan, WeightsRead, available_bytes, flops_per_token, measured_gflops, plan, weight_bytes,
};
pub use proof::{LogitProof, Probed, compare_logits};
pub use schedule::{learning_rate, warmup_steps};
pub use step_log::StepReport;
pub use steps::{Step, Steps};
pub use task_scores::{Scores, TaskScorer, ValidationTask, answering_shape, score_names};
pub use train::{TrainJob, TrainOutcome, evaluate, train};
