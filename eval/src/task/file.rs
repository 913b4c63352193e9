//! What a task file can say.

use datasets::recipe::SourceSection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Answering;
use crate::TaskProblem;
use crate::filters::{self, FilterName, Pattern};
use crate::judge::JudgeSection;
use crate::metrics::{self, Family, MetricName, Needs};
use crate::published::PublishedSet;
use crate::registry::Name;
use crate::shots::FewShot;

/// A task file as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// The task's name in reports.
    pub name: String,
    /// Raised whenever the prompt, the items or the marking change: scores of different versions
    /// don't compare.
    pub version: u32,
    /// One line for people: what is asked, of which items.
    #[serde(default)]
    pub about: String,
    /// Where the task was published.
    #[serde(default)]
    pub reference: String,
    /// How the model answers: `log-likelihood` picks the likeliest option, `generate` reads what
    /// the model writes. With both, the second makes a task of its own, `NAME-generate`.
    pub answering: Vec<AnsweringName>,
    /// What there is to choose from; left out where the answer is free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    /// Whether the model's chat template goes around the prompt.
    #[serde(default = "yes")]
    pub chat_template: bool,
    /// Settings of answering by log-likelihood.
    #[serde(default)]
    pub log_likelihood: LogLikelihood,
    /// Settings of answering by generation.
    #[serde(default)]
    pub generate: Generate,
    /// How answers are marked. The first says whether an item is right. With two ways of answering
    /// each is marked by the metrics that fit it; answers with mark-up also get `altered_text`.
    pub metrics: Vec<MetricName>,
    /// Where solved examples come from that may stand before the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    /// The published set that these items are: other papers' scores on it stand beside the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedSet>,
    /// How a model is asked whether a candidate is right, for the `judged_` metrics; which model, the
    /// recipe's [eval.judge] says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSection>,
    /// Where the records come from, and in [source.task] how they are asked: `answer` gives the
    /// right answer, an option's text where there are options.
    pub source: SourceSection,
}

fn yes() -> bool {
    true
}

/// A way of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnsweringName {
    /// The option that the model finds likeliest.
    LogLikelihood,
    /// What the filter finds in greedily generated text.
    Generate,
}

impl AnsweringName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            AnsweringName::LogLikelihood => "log-likelihood",
            AnsweringName::Generate => "generate",
        }
    }
}

/// What there is to choose from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Options {
    /// The same for every item: `options.fixed = ["yes", "no"]`.
    Fixed(Vec<String>),
    /// A template over the record's fields for each option: `options.templates = ["{{ opa }}", ..]`.
    Templates(Vec<String>),
    /// A field of the record that lists them: `options.field = "choices"`, or one inside of it:
    /// `options.field = "choices.text"`.
    Field(String),
}

/// Settings of answering by log-likelihood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogLikelihood {
    /// What an option's log-probability is divided by before options are compared.
    pub normalisation: Normalisation,
    /// What stands between the prompt and an option: by default nothing under a chat template,
    /// a space otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_option: Option<String>,
}

/// What an option's log-probability is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Nothing: the likeliest text wins, which favours short ones.
    #[default]
    None,
    /// Its number of tokens.
    Tokens,
    /// Its length in bytes, which doesn't depend on the tokenizer (lm-evaluation-harness'
    /// `acc_norm`).
    Bytes,
}

/// Settings of answering by generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Generate {
    /// Most tokens to generate. Me-LLaMA's published numbers come from 256, without stop texts.
    pub max_new_tokens: usize,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// A regular expression whose first group, or whole match, is what `filter` looks at. Only a
    /// corrected metric's answer is narrowed: paper-compatible ones read the raw text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// How the answer is taken out of the text: by default `label` where there are options,
    /// `strip` where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterName>,
}

impl Default for Generate {
    fn default() -> Self {
        Generate {
            max_new_tokens: 32,
            stop: Vec::new(),
            pattern: None,
            filter: None,
        }
    }
}

impl TaskFile {
    /// The settings of one way of answering, with what was left out filled in.
    pub(super) fn answering(&self, name: AnsweringName) -> Result<Answering, TaskProblem> {
        Ok(match name {
            AnsweringName::LogLikelihood => {
                let usual = if self.chat_template { "" } else { " " };
                let before_option = self
                    .log_likelihood
                    .before_option
                    .as_deref()
                    .unwrap_or(usual);
                Answering::LogLikelihood {
                    normalisation: self.log_likelihood.normalisation,
                    before_option: before_option.to_owned(),
                }
            }
            AnsweringName::Generate => {
                let usual = Name(match self.options {
                    Some(_) => filters::LABEL,
                    None => filters::STRIP,
                });
                let pattern = self.generate.pattern.as_deref().map(Pattern::new);
                Answering::Generate {
                    max_new_tokens: self.generate.max_new_tokens,
                    stop: self.generate.stop.clone(),
                    pattern: pattern.transpose().map_err(|reason| TaskProblem::Pattern {
                        key: "generate",
                        reason,
                    })?,
                    filter: self.generate.filter.unwrap_or(usual),
                }
            }
        })
    }

    /// The metrics that mark answers given this way.
    pub(super) fn metrics_of(&self, name: AnsweringName) -> Vec<MetricName> {
        let fits = |metric: &&MetricName| match name {
            AnsweringName::LogLikelihood => !metric.needs_generation(),
            AnsweringName::Generate => !metric.needs_option_scores(),
        };
        let mut metrics: Vec<MetricName> = self.metrics.iter().filter(fits).copied().collect();
        if self.answering.len() == 1 || metrics.is_empty() {
            // What doesn't fit is a mistake then, and is named as one.
            metrics = self.metrics.clone();
        }
        let altered = Name(metrics::ALTERED_TEXT);
        let spans = |metric: &MetricName| {
            metric.needs == Needs::Spans && metric.family == Family::Corrected
        };
        if metrics.iter().any(spans) && !metrics.contains(&altered) {
            metrics.push(altered);
        }
        metrics
    }
}
