//! What the user can do about each error.

use super::{Error, ItemProblem, OptionsProblem, TaskProblem};
use crate::endpoint::EndpointError;
use crate::judge::judged_metrics;
use crate::metrics::bert_score::BaselineProblem;

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
            Error::TaskShots { .. } => {
                Some("write `name@3` for three shots, `name` for as many as the recipe says".into())
            }
            Error::ShotsFromTest { .. } => Some(
                "take [few_shot.source] from a split of its own; the hosted copies of some sets have their test as train".into(),
            ),
            Error::TooFewShots { .. } => {
                Some("ask for fewer shots, or check the path and the split in [few_shot.source]".into())
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
            Error::NoEmbedder { metric, .. } => Some(format!(
                "name its folder in [eval.bert_score], as in `model = \"models/roberta-large\"`, or put another metric before `{metric}`"
            )),
            Error::Baseline {
                problem: BaselineProblem::NoLayer { .. },
                ..
            } => Some(
                "take the file of this encoder, or a layer that the file has with `layer`".into(),
            ),
            Error::Baseline { .. } => Some(
                "the files are in `rescale_baseline` of the bert_score package; they begin with `LAYER,P,R,F`".into(),
            ),
            Error::Dropped { .. } => {
                Some("it is the `dropped.jsonl` of a run's `data/`; build the data again".into())
            }
            Error::Endpoint(source) => source.hint(),
            Error::Stopped { .. } => Some("the same command goes on from there".into()),
            Error::Journal { source, .. } if ledger::files::is_full(source.kind()) => Some(
                "free some space on the disk; the same command goes on from the answers so far"
                    .into(),
            ),
            Error::Journal { .. } => Some("it must be a file that you may read and write".into()),
            Error::JournalDamaged { .. } | Error::JournalOfOther { .. } => {
                Some("remove it; its items are then asked again".into())
            }
            Error::Model { source, .. } => {
                let endpoint = source.source.downcast_ref::<EndpointError>();
                endpoint.and_then(EndpointError::hint)
            }
            Error::Embedder { .. } | Error::AnswerCount { .. } => None,
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
            TaskProblem::NeedsLikelihood { .. } => {
                "write `answering = [\"log-likelihood\"]`, or leave the metric out".into()
            }
            TaskProblem::Pattern { .. } => {
                "write it in single quotes, as in `pattern = 'answer: (\\w+)'`; look-around and back-references are not known".into()
            }
            TaskProblem::NeedsGeneration { .. } => "write `answering = [\"generate\"]`".into(),
            TaskProblem::OneOrSeveral { one, several: "mc2" } => {
                format!("write two task files: `{one}` doesn't know of several right options")
            }
            TaskProblem::OneOrSeveral { several, .. } => {
                format!(
                    "`accuracy` goes with `{several}`: it counts lists that are right as a whole"
                )
            }
            TaskProblem::Options(_) => return None,
            TaskProblem::NoSplits { .. } => {
                "only formats with official splits (pubmedqa) have them by name; name a task file whose [source] reads the other split's items, as `medqa-dev` does".into()
            }
            TaskProblem::NoFewShot { .. } => {
                "name a training split in a [few_shot.source], or ask this task with `NAME@0`"
                    .into()
            }
            TaskProblem::StratifiedFreeText => {
                "write `selection = \"random\"` or `\"bm25\"`".into()
            }
            TaskProblem::TurnsWithoutTemplate => "write `layout = \"inline\"`".into(),
            TaskProblem::NoJudge { .. } => {
                "write the question to the judge as `prompt` in a [judge] table, or leave the metric out".into()
            }
            TaskProblem::JudgeUnused => {
                format!("name them, as in `metrics = [.., {:?}]`", judged_metrics()[0])
            }
            TaskProblem::JudgedFirst { .. } => {
                "put a metric before it that needs no judge, such as `top_1`".into()
            }
            TaskProblem::JudgeWithoutCandidate => "write {{ candidate }} where it belongs".into(),
            TaskProblem::Verdicts { .. } => {
                "write the one for right first, as in `verdicts = [\"yes\", \"no\"]`".into()
            }
            TaskProblem::JudgeFilter { .. } => {
                "take one that looks for the verdicts: `label`, `labels` or `letter`".into()
            }
            TaskProblem::NoNewTokens { .. } => "leave it out for the default, or write how many".into(),
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
            ItemProblem::NoCase => "take the items that the task makes of its records",
            ItemProblem::EmptyGold => "perplexity needs a gold answer; leave the record out",
            ItemProblem::OptionField { .. } => {
                "`options.field` names a field that holds a list of strings"
            }
            ItemProblem::Options(_) => return None,
        };
        Some(hint.to_owned())
    }
}
