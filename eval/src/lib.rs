//! Evaluation: what is asked, who answers, and how it is marked.
//!
//! A [`Task`] is one TOML file: a source of records, templates that ask them and say what is right,
//! a training split that [shots](FewShot) may come from, and a way to mark answers. Its [`Item`]s become requests to a [`LanguageModel`], by log-likelihood of
//! fixed options or by generation; a [`filters`](filters::FILTERS) entry takes the answer out of
//! generated text; [`metrics`](metrics::METRICS) mark it; a [`Report`] sets models side by side
//! with confidence intervals. A model on this machine is in another crate; an [`Endpoint`] is one behind
//! an HTTP API, and may judge what others wrote ([`Judge`]). Answers are kept in [`Journals`] until there is a result. No tensors here: strings go out and numbers come back.

mod ask;
mod contamination;
mod endpoint;
mod error;
pub mod filters;
mod journal;
mod judge;
pub mod metrics;
mod model;
mod published;
pub mod recipe;
mod registry;
pub mod report;
mod run;
mod shots;
mod statistics;
mod task;

pub use ask::Session;
pub use contamination::FlaggedItems;
pub use endpoint::{
    Endpoint, EndpointError, EndpointSection, Fault, KeyProblem, UrlProblem, Usage,
};
pub use error::{Error, ItemProblem, OptionsProblem, Result, TaskProblem};
pub use filters::Pattern;
pub use journal::Journals;
pub use judge::{Judge, JudgeChoice, JudgeSection, Judged, JudgedBy, Judgement, Verdict};
pub use metrics::bert_score::{
    Baseline, BaselineProblem, BertScore, BertScoreNote, BertScorer, BertScores, Embedder,
    TokenEmbeddings,
};
pub use model::{
    GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Prompt, Reply,
    ScoreRequest, Unanswered,
};
pub use published::{Published, PublishedSet, published};
pub use registry::{Name, Named};
pub use report::{Report, ReportFile, TaskNotes};
pub use run::{
    ItemResult, PerplexityResult, Progress, Score, Settings, TaskResult, resume_perplexity,
    resume_task, resume_task_with, run_perplexity, run_task, run_task_with,
};
pub use shots::{Asked, FewShot, Layout, Selection, ShotReport};
pub use statistics::{Bootstrap, CONFIDENCE, EXACT_BELOW, Interval, McNemar, PairedChange, holm};
pub use task::{
    Answering, AnsweringName, ChosenTask, FoundTasks, Generate, Item, LogLikelihood, Normalisation,
    Options, Task, TaskChoice, TaskFile, asked_items, choose_tasks, find_task, load_tasks,
    suite_files,
};
