//! What a task file can say.

use datasets::recipe::SourceSection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Answering;
use crate::filters::{self, FilterName};
use crate::metrics::MetricName;
use crate::published::PublishedSet;
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
    /// How answers are marked. The first says whether an item is right.
    pub metrics: Vec<MetricName>,
    /// Where solved examples come from that may stand before the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    /// The published set that these items are: other papers' scores on it stand beside the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedSet>,
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
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Texts that end the answer.
    pub stop: Vec<String>,
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
            filter: None,
        }
    }
}

impl TaskFile {
    /// The settings of one way of answering, with what was left out filled in.
    pub(super) fn answering(&self, name: AnsweringName) -> Answering {
        match name {
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
                let usual = crate::registry::Name(match self.options {
                    Some(_) => filters::LABEL,
                    None => filters::STRIP,
                });
                Answering::Generate {
                    max_new_tokens: self.generate.max_new_tokens,
                    stop: self.generate.stop.clone(),
                    filter: self.generate.filter.unwrap_or(usual),
                }
            }
        }
    }
}
