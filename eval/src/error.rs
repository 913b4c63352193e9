//! What can go wrong in an evaluation.

mod hint;

use std::path::PathBuf;

use crate::endpoint::EndpointError;
use crate::metrics::bert_score::BaselineProblem;
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
    /// What follows the `@` in `pubmedqa@3` is not a number of shots.
    #[error("task `{choice}`: `{shots}` is not a number of shots")]
    TaskShots {
        /// As the recipe writes it.
        choice: String,
        /// What follows the `@`.
        shots: String,
    },
    /// The split that shots come from holds the test's items.
    #[error(
        "task `{task}`: the training split `{source_name}` is not apart from the test: {shared} of the {items} items asked are among its {records} records, word for word"
    )]
    ShotsFromTest {
        /// The task.
        task: String,
        /// The training split.
        source_name: String,
        /// How many items are in both.
        shared: usize,
        /// How many items are asked.
        items: usize,
        /// How many records the training split has.
        records: usize,
    },
    /// The training split has not enough records for an item's shots.
    #[error(
        "task `{task}`, item `{item}`: {shots} shots are asked for, and the training split `{source_name}` has {found} that it may be shown"
    )]
    TooFewShots {
        /// The task.
        task: String,
        /// The item's id.
        item: String,
        /// The training split.
        source_name: String,
        /// How many are asked for.
        shots: usize,
        /// How many there are, without the item's near copies.
        found: usize,
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
    /// A build's list of what it left out cannot be read.
    #[error("`{}`, line {line}: {problem}", path.display())]
    Dropped {
        /// The list.
        path: PathBuf,
        /// The line, from 1; 0 for the file.
        line: usize,
        /// What is wrong, without its text.
        problem: String,
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
    /// Whether an item is right is said by a metric that compares embeddings, and nothing to make them
    /// with was given.
    #[error("task `{task}`: its first metric `{metric}` needs an encoder, and none is given")]
    NoEmbedder {
        /// The task.
        task: String,
        /// The metric.
        metric: &'static str,
    },
    /// A file cannot be what BERTScore is rescaled by.
    #[error("`{}` is no baseline for BERTScore: {problem}", path.display())]
    Baseline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: BaselineProblem,
    },
    /// The encoder failed.
    #[error("task `{task}`: `{embedder}` embedded no texts")]
    Embedder {
        /// The task.
        task: String,
        /// The encoder's name.
        embedder: String,
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
    /// An endpoint cannot be asked, or must not be.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The evaluation was stopped; what was answered so far is in its journal.
    #[error("task `{task}`: stopped before its end")]
    Stopped {
        /// The task, or the name of the held-out split.
        task: String,
    },
    /// A journal could not be read or written.
    #[error("the journal `{}` of an evaluation", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of a journal is not what was written there.
    #[error("the journal `{}` is damaged in line {line}", path.display())]
    JournalDamaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A journal begins with other items, settings or another model than its name says.
    #[error("the journal `{}` is of another evaluation than its name says", path.display())]
    JournalOfOther {
        /// The file.
        path: PathBuf,
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
    /// A metric of log-probabilities, and answers that are generated.
    #[error(
        "the metric `{metric}` marks log-probabilities, and the task is answered by generation"
    )]
    NeedsLikelihood {
        /// The metric.
        metric: &'static str,
    },
    /// The regular expression that finds the answer is none.
    #[error("`{key}.pattern` is no regular expression: {reason}")]
    Pattern {
        /// The table that has it.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
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
    #[error("`{key}.max_new_tokens` is 0")]
    NoNewTokens {
        /// The table that says so.
        key: &'static str,
    },
    /// A split is asked of a task whose source has none by name.
    #[error("`[{split}]` is asked for, and its [source] names no `split`")]
    NoSplits {
        /// The split.
        split: String,
    },
    /// Shots are asked of a task that has no source for them.
    #[error("{shots} shots are asked for, and it has no [few_shot]")]
    NoFewShot {
        /// How many are asked for.
        shots: usize,
    },
    /// Shots are to be spread over right answers that are free text.
    #[error(
        "`few_shot.selection` is \"stratified\", and the task has no options to spread shots over"
    )]
    StratifiedFreeText,
    /// A metric of a judge's verdicts, and no judge.
    #[error("the metric `{metric}` is a judge's, and the task has no [judge]")]
    NoJudge {
        /// The metric.
        metric: &'static str,
    },
    /// A judge, and no metric of its verdicts.
    #[error("it has a [judge], and `metrics` names none of its verdicts")]
    JudgeUnused,
    /// What says whether an item is right would be missing where nobody judges.
    #[error("the first metric is `{metric}`, which there is only where somebody judges")]
    JudgedFirst {
        /// The metric.
        metric: &'static str,
    },
    /// The judge would not see what it judges.
    #[error("`judge.prompt` does not use `candidate`: the judge would not see what it judges")]
    JudgeWithoutCandidate,
    /// The judge has nothing to choose from.
    #[error("`judge.verdicts`: {problem}")]
    Verdicts {
        /// What is wrong with them.
        problem: OptionsProblem,
    },
    /// A filter that looks for no option finds no verdict.
    #[error("`judge.filter` is `{filter}`, which finds no verdict")]
    JudgeFilter {
        /// The filter.
        filter: &'static str,
    },
    /// Shots are to be turns of a conversation that isn't one.
    #[error("`few_shot.layout` is \"multi-turn\", and `chat_template` is false")]
    TurnsWithoutTemplate,
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
    /// An item that was made without what its judge is to see.
    #[error("it has no case to judge")]
    NoCase,
    /// The gold answer, which is to be scored, has no text.
    #[error("the gold answer is empty")]
    EmptyGold,
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
