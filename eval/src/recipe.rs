//! The `[eval]` section of a recipe.

use datasets::recipe::TemplateKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bootstrap, EndpointSection, JudgeChoice};

/// What the model is asked, before and after tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Tasks by name or by the path of their file, or a suite such as `mibe`; `@N` asks with N
    /// solved examples, `:N` asks N items only, as in `pubmedqa@3:100`.
    pub tasks: Vec<String>,
    /// How many solved examples (shots) stand before each question where `tasks` doesn't say; as
    /// each task's file says if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Whether the base model is marked too, so that the change can be shown.
    pub baseline: bool,
    /// Whether perplexity is measured on the data's held-out split.
    pub perplexity: bool,
    /// How questions are written for the models that are asked: `chat`, each model's own template, or
    /// `me-llama`, for a base without one; as [data] says if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateKind>,
    /// How many items are given to the model at a time.
    pub batch_items: usize,
    /// How many bootstrap resamples the confidence intervals rest on.
    pub resamples: usize,
    /// Chooses the items of a limited task, the shots, and the bootstrap's draws.
    pub seed: u64,
    /// Further models on this machine, shown beside the recipe's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<OtherModel>,
    /// Models behind HTTP APIs, shown beside the recipe's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoint: Vec<EndpointSection>,
    /// Which of them judges free-text answers, for tasks that have a [judge].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeChoice>,
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
            baseline: true,
            perplexity: true,
            template: None,
            batch_items: 32,
            resamples: 1000,
            seed: 0,
            model: Vec::new(),
            endpoint: Vec::new(),
            judge: None,
        }
    }
}

/// The report's names for what it has without being told, and for the difference between two.
const TAKEN: &[&str] = &["base", "tuned", "change"];

impl EvalSection {
    /// Problems that types cannot rule out, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let models: Vec<&str> = self.model.iter().map(|m| m.name.as_str()).collect();
        let endpoints: Vec<&str> = self.endpoint.iter().map(|e| e.name.as_str()).collect();
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
