//! Evaluation: what is asked, who answers, and how it is marked.
//!
//! A [`Task`] is one TOML file: a source of records, templates that ask them and say what is right,
//! and a way to mark answers. Its [`Item`]s become requests to a [`LanguageModel`], by log-likelihood of
//! fixed options or by generation; a [`filters`](filters::FILTERS) entry takes the answer out of
//! generated text; [`metrics`](metrics::METRICS) mark it; a [`Report`] sets models side by side
//! with confidence intervals. No tensors here: strings go out and numbers come back.

mod error;
pub mod filters;
pub mod metrics;
mod model;
pub mod recipe;
mod registry;
pub mod report;
mod run;
mod statistics;
mod task;

pub use error::{Error, ItemProblem, OptionsProblem, Result, TaskProblem};
pub use model::{
    GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Prompt, ScoreRequest,
};
pub use registry::{Name, Named};
pub use report::{Report, ReportFile, TaskNotes};
pub use run::{
    ItemResult, PerplexityResult, Progress, Score, Settings, TaskResult, run_perplexity, run_task,
};
pub use statistics::{Bootstrap, CONFIDENCE, EXACT_BELOW, Interval, McNemar, PairedChange, holm};
pub use task::{
    Answering, AnsweringName, ChosenTask, Generate, Item, LogLikelihood, Normalisation, Options,
    Task, TaskChoice, TaskFile, choose_tasks, find_task,
};
