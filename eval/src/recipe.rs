//! The `[eval]` section of a recipe.

use datasets::recipe::TemplateKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bootstrap, EndpointSection, JudgeChoice};

/// What the model is asked, before and after tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Tasks by name or by the path of their file, or a suite such as `mibe`; `[dev]` asks another
    /// official split, `@N` asks with N solved examples, `:N` asks N items only, as in
    /// `pubmedqa[dev]@3:100`.
    pub tasks: Vec<String>,
    /// How many solved examples (shots) stand before each question where `tasks` doesn't say; as
    /// each task's file says if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Whether the tuned model is shown shots too; `false` asks it tasks without shots only, as in
    /// Me-LLaMA's supervised setting.
    #[serde(skip_serializing_if = "is_true")]
    pub tuned_shots: bool,
    /// Whether the base model is marked too, so that the change can be shown.
    pub baseline: bool,
    /// Whether perplexity is measured on the data's held-out split.
    pub perplexity: bool,
    /// How questions are written for the models that are asked: `chat`, each model's own template, or
    /// `me-llama`, for a base without one; as `[data]` says if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateKind>,
    /// How many items are given to the model at a time.
    pub batch_items: usize,
    /// How many bootstrap resamples the confidence intervals rest on.
    pub resamples: usize,
    /// Chooses the items of a limited task, the shots, and the bootstrap's draws.
    pub seed: u64,
    /// What the metrics `bert_score`, `bert_score_precision` and `bert_score_recall` are computed by;
    /// without it tasks are marked by their other metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bert_score: Option<BertScoreSection>,
    /// Further models on this machine, shown beside the recipe's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<OtherModel>,
    /// Models behind HTTP APIs, shown beside the recipe's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoint: Vec<EndpointSection>,
    /// Which of them judges free-text answers, for tasks that have a `[judge]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeChoice>,
}

/// How BERTScore is computed, for all tasks that name it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BertScoreSection {
    /// The encoder: a Hugging Face folder of a BERT or RoBERTa, or a hub's name of one in the cache.
    pub model: String,
    /// The layer whose vectors are compared, 0 being the embeddings: if not given, the one that the
    /// bert_score package has for a model of this name, else the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Whether tokens weigh by how few of a task's gold texts have them.
    #[serde(default)]
    pub idf: bool,
    /// A file of the bert_score package's `rescale_baseline`, by which values are rescaled so that
    /// unrelated texts score about 0; as they are if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
}

/// A model that is asked what the recipe's own is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtherModel {
    /// What it is called in the report.
    pub name: String,
    /// A Hugging Face folder or a GGUF file.
    pub path: String,
    /// A folder with an adapter to put on it, in PEFT's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

impl Default for EvalSection {
    fn default() -> Self {
        EvalSection {
            tasks: Vec::new(),
            shots: None,
            tuned_shots: true,
            baseline: true,
            perplexity: true,
            template: None,
            batch_items: 32,
            resamples: 1000,
            seed: 0,
            bert_score: None,
            model: Vec::new(),
            endpoint: Vec::new(),
            judge: None,
        }
    }
}

fn is_true(value: &bool) -> bool {
    *value
}

/// The report's names for what it has without being told, and for the difference between two.
const TAKEN: &[&str] = &["base", "tuned", "change"];

impl EvalSection {
    /// Problems that types cannot rule out, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let models: Vec<&str> = self.model.iter().map(|m| m.name.as_str()).collect();
        let endpoints: Vec<&str> = self.endpoint.iter().map(|e| e.name.as_str()).collect();
        let named = self.bert_score.as_ref().map(|section| section.model.trim());
        if named == Some("") {
            let message = "is empty: name the folder of a BERT or RoBERTa".to_owned();
            problems.push(("bert_score.model".to_owned(), message));
        }
        let mut seen: Vec<&str> = TAKEN.to_vec();
        for (list, names) in [("model", models), ("endpoint", endpoints)] {
            for (i, name) in names.into_iter().enumerate() {
                let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
                let key = format!("{list}[{i}].name");
                if name.is_empty() || !name.chars().all(plain) {
                    let message = format!("is {name:?}: use letters, digits, `-`, `_` and `.`");
                    problems.push((key, message));
                } else if seen.contains(&name) {
                    problems.push((key, format!("is {name:?}, which another model is called")));
                }
                seen.push(name);
            }
        }
        for (i, endpoint) in self.endpoint.iter().enumerate() {
            let own = endpoint.problems().into_iter();
            problems.extend(own.map(|(key, wrong)| (format!("endpoint[{i}].{key}"), wrong)));
        }
        problems
    }

    /// Whether the tuned model is asked a task with this many shots.
    pub fn asks_tuned(&self, shots: usize) -> bool {
        shots == 0 || self.tuned_shots
    }

    /// The endpoint that judges.
    pub fn judge(&self) -> Option<(usize, &EndpointSection)> {
        let judge = self.judge.as_ref()?;
        let mut endpoints = self.endpoint.iter().enumerate();
        endpoints.find(|(_, endpoint)| endpoint.name == judge.endpoint)
    }

    /// How the intervals are computed.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.resamples,
            seed: self.seed,
        }
    }
}
