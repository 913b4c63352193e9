//! What can go wrong in an evaluation.

use std::path::PathBuf;

use crate::model::ModelError;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an evaluation. Messages carry ids and positions, never a record's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A task file could not be read, or has problems.
    #[error(transparent)]
    TaskFile(#[from] ledger::Error),
    /// A task's records could not be read or made into items.
    #[error("task `{task}`")]
    Data {
        /// The task.
        task: String,
        /// The reason.
        source: Box<datasets::Error>,
    },
    /// No task file has this name.
    #[error("there is no task `{name}`")]
    UnknownTask {
        /// As the recipe names it.
        name: String,
        /// The nearest known name.
        nearest: Option<String>,
        /// Names of all known tasks.
        known: Vec<String>,
    },
    /// A task file named by its path is not there.
    #[error("there is no task file `{}`", path.display())]
    NoTaskFile {
        /// The path.
        path: PathBuf,
    },
    /// What follows the colon in `pubmedqa:100` is not a number of items.
    #[error("task `{choice}`: `{limit}` is not a number of items")]
    TaskLimit {
        /// As the recipe writes it.
        choice: String,
        /// What follows the colon.
        limit: String,
    },
    /// Two of the tasks asked have one name.
    #[error("the task `{task}` is asked twice")]
    TaskTwice {
        /// The name.
        task: String,
    },
    /// A task file contradicts itself.
    #[error("task `{task}`: {problem}")]
    InvalidTask {
        /// The task.
        task: String,
        /// The contradiction.
        problem: TaskProblem,
    },
    /// A task's source gave no items.
    #[error("task `{task}` has no items")]
    NoItems {
        /// The task.
        task: String,
    },
    /// A record made no conversation that can be asked.
    #[error("task `{task}`, item `{item}`: {problem}")]
    InvalidItem {
        /// The task.
        task: String,
        /// The item's id.
        item: String,
        /// What is wrong with it.
        problem: ItemProblem,
    },
    /// The model failed.
    #[error("task `{task}`: `{model}` gave no answer")]
    Model {
        /// The task, or the name of the held-out split.
        task: String,
        /// The model's name.
        model: String,
        /// Its reason.
        source: ModelError,
    },
    /// The model broke its contract.
    #[error("task `{task}`: `{model}` gave {given} {what}, {asked} were asked for")]
    AnswerCount {
        /// The task.
        task: String,
        /// The model's name.
        model: String,
        /// What was counted.
        what: &'static str,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        given: usize,
    },
    /// A file is no report that this version can read.
    #[error("`{}` is not a report that this version can read: {problem}", path.display())]
    ReportFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Reports that are to be compared have no score in common.
    #[error("{} have no task and metric in common", list(runs))]
    NothingShared {
        /// The runs' names.
        runs: Vec<String>,
    },
    /// The model scored an option with something that can't be compared.
    #[error("task `{task}`, item `{item}`: `{model}` scored option {option} as not a number")]
    NotANumber {
        /// The task.
        task: String,
        /// The item's id.
        item: String,
        /// The model's name.
        model: String,
        /// The option, counted from 1.
        option: usize,
    },
}

/// How a task file contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskProblem {
    /// The task doesn't say what is asked.
    #[error("it has no [source.task]")]
    NoSourceTask,
    /// No way of answering is named.
    #[error("`answering` is empty")]
    NoAnswering,
    /// One way of answering is named twice.
    #[error("`answering` names `{answering}` twice")]
    AnsweringTwice {
        /// The way.
        answering: &'static str,
    },
    /// No metric is named.
    #[error("`metrics` is empty")]
    NoMetrics,
    /// A setting that only makes sense with options.
    #[error("{what} needs options, and the task has none")]
    NeedsOptions {
        /// The setting.
        what: String,
    },
    /// A metric of free or several answers, and scoring that picks one option.
    #[error(
        "the metric `{metric}` marks generated answers, and the task is answered by log-likelihood"
    )]
    NeedsGeneration {
        /// The metric.
        metric: &'static str,
    },
    /// One metric wants one option an item, another any number.
    #[error("the metric `{one}` is for one right option an item, `{several}` for several")]
    OneOrSeveral {
        /// The metric for one.
        one: &'static str,
        /// The metric for several.
        several: &'static str,
    },
    /// There is no choice.
    #[error(transparent)]
    Options(#[from] OptionsProblem),
    /// Nothing may be generated.
    #[error("`generate.max_new_tokens` is 0")]
    NoNewTokens,
}

/// What is wrong with one item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemProblem {
    /// The gold answer is none of the options.
    #[error("the gold answer is none of the {options} options")]
    GoldNotAnOption {
        /// How many options there are.
        options: usize,
    },
    /// The field that should list the options doesn't.
    #[error("the field `{field}` is no list of texts")]
    OptionField {
        /// The field.
        field: String,
    },
    /// There is no choice.
    #[error(transparent)]
    Options(#[from] OptionsProblem),
}

/// Why a list of options leaves nothing to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsProblem {
    /// There are none, or one.
    #[error("a choice needs two options or more, found {count}")]
    TooFew {
        /// How many there are.
        count: usize,
    },
    /// An option has no text.
    #[error("option {option} is empty")]
    Empty {
        /// Its number, from 1.
        option: usize,
    },
    /// An option equals one before it.
    #[error("option {option} repeats an earlier one")]
    Repeated {
        /// Its number, from 1.
        option: usize,
    },
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::TaskFile(source) => source.hint(),
            Error::Data { source, .. } => source.hint(),
            Error::UnknownTask {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Error::UnknownTask { known, .. } if known.is_empty() => {
                Some("name a task file by its path, as in `tasks/my-task.toml`".into())
            }
            Error::UnknownTask { known, .. } => Some(format!(
                "the tasks are: {}; or name a task file by its path",
                known.join(", ")
            )),
            Error::NoTaskFile { .. } => {
                Some("a relative path starts from the recipe's folder".into())
            }
            Error::TaskLimit { .. } => {
                Some("write `name:100` to ask 100 items, or `name` to ask all".into())
            }
            Error::TaskTwice { .. } => {
                Some("name it once, or give the other file's task another `name`".into())
            }
            Error::InvalidTask { problem, .. } => problem.hint(),
            Error::InvalidItem { problem, .. } => problem.hint(),
            Error::NoItems { .. } => {
                Some("check the path and the split in the task's [source]".into())
            }
            Error::ReportFile { .. } => {
                Some("evaluate again: remove the run's `eval` folder, and run its recipe".into())
            }
            Error::NothingShared { .. } => {
                Some("compare runs whose recipes name a common task in `eval.tasks`".into())
            }
            Error::NotANumber { .. } => Some(
                "the weights hold values that are not numbers; check how the model was made".into(),
            ),
            Error::Model { .. } | Error::AnswerCount { .. } => None,
        }
    }
}

impl TaskProblem {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            TaskProblem::NoSourceTask => {
                "write the question's template as `prompt` and the right answer's as `answer` there"
                    .into()
            }
            TaskProblem::NoAnswering | TaskProblem::AnsweringTwice { .. } => {
                "write `answering = [\"log-likelihood\"]`, `[\"generate\"]`, or both".into()
            }
            TaskProblem::NoMetrics => "name at least one, as in `metrics = [\"accuracy\"]`".into(),
            TaskProblem::NeedsOptions { .. }
            | TaskProblem::Options(OptionsProblem::TooFew { .. }) => {
                "list them, as in `options.fixed = [\"yes\", \"no\"]`".into()
            }
            TaskProblem::NeedsGeneration { .. } => "write `answering = [\"generate\"]`".into(),
            TaskProblem::OneOrSeveral { several, .. } => {
                format!(
                    "`accuracy` goes with `{several}`: it counts lists that are right as a whole"
                )
            }
            TaskProblem::Options(_) => return None,
            TaskProblem::NoNewTokens => "leave it out for the default, or write how many".into(),
        };
        Some(hint)
    }
}

impl ItemProblem {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ItemProblem::GoldNotAnOption { .. } => {
                "`answer` in [source.task] must give an option's text, letter for letter"
            }
            ItemProblem::OptionField { .. } => {
                "`options.field` names a field that holds a list of strings"
            }
            ItemProblem::Options(_) => return None,
        };
        Some(hint.to_owned())
    }
}
