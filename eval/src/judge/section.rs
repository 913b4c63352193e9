//! What a task file says of its judge, and a recipe of who it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::question::Question;
use crate::error::{OptionsProblem, TaskProblem};
use crate::filters::{self, FilterName, Pattern};
use crate::metrics::{METRICS, MetricName};
use crate::registry::Name;
use crate::task::check_options;

/// How a model is asked whether a candidate of a ranked answer is right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSection {
    /// The question about one candidate: a template over the record's fields, `gold` (the right
    /// answer as [source.task] gives it, one name a line) and `candidate`.
    pub prompt: String,
    /// A template of what the judge is told before it, as the system's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What the judge can say: the first means that the candidate is right, any other that it is
    /// wrong.
    #[serde(default = "yes_or_no")]
    pub verdicts: Vec<String>,
    /// Most tokens of its answer.
    #[serde(default = "sixteen")]
    pub max_new_tokens: usize,
    /// A regular expression whose first group, or whole match, is what `filter` looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// How the verdict is taken out of its answer; with `labels`, an answer that names two of them
    /// has none.
    #[serde(default = "label")]
    pub filter: FilterName,
    /// Whether it is also asked about candidates that are one of the right answer's names but for
    /// case, punctuation and articles. Without it those are right.
    #[serde(default)]
    pub matches: bool,
}

fn yes_or_no() -> Vec<String> {
    vec!["yes".to_owned(), "no".to_owned()]
}

fn sixteen() -> usize {
    16
}

fn label() -> FilterName {
    Name(filters::LABEL)
}

impl JudgeSection {
    /// SHA-256 of the question's templates: scores by other questions don't compare.
    pub fn prompt_sha256(&self) -> String {
        let text = json!([self.system, self.prompt]).to_string();
        ledger::hash::sha256_bytes(text.as_bytes())
    }

    /// Refuses what contradicts itself or the metrics of the task.
    pub(crate) fn check(
        &self,
        metrics: &[MetricName],
        question: &Question<'_>,
    ) -> Result<(), TaskProblem> {
        if !metrics.iter().any(|metric| metric.is_judged()) {
            return Err(TaskProblem::JudgeUnused);
        }
        if !question.reads("candidate") {
            return Err(TaskProblem::JudgeWithoutCandidate);
        }
        let verdicts = |problem: OptionsProblem| TaskProblem::Verdicts { problem };
        check_options(&self.verdicts).map_err(verdicts)?;
        if !self.filter.needs_options {
            return Err(TaskProblem::JudgeFilter {
                filter: self.filter.name,
            });
        }
        match self.max_new_tokens {
            0 => Err(TaskProblem::NoNewTokens { key: "judge" }),
            _ => Ok(()),
        }
    }

    pub(super) fn compiled_pattern(&self) -> Result<Option<Pattern>, TaskProblem> {
        let pattern = self.pattern.as_deref().map(Pattern::new).transpose();
        pattern.map_err(|reason| TaskProblem::Pattern {
            key: "judge",
            reason,
        })
    }
}

/// The names of the metrics that read a judge's verdicts.
pub(crate) fn judged_metrics() -> Vec<&'static str> {
    let judged = METRICS.iter().filter(|metric| metric.is_judged());
    judged.map(|metric| metric.name).collect()
}

/// Who judges the answers to tasks that have a `[judge]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeChoice {
    /// The name of the `[[eval.endpoint]]` that judges; `tasks = []` there lets it do nothing else.
    pub endpoint: String,
}
