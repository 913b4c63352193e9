//! The `[eval]` section of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Bootstrap;

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
    /// How many items are given to the model at a time.
    pub batch_items: usize,
    /// How many bootstrap resamples the confidence intervals rest on.
    pub resamples: usize,
    /// Chooses the items of a limited task, the shots, and the bootstrap's draws.
    pub seed: u64,
}

impl Default for EvalSection {
    fn default() -> Self {
        EvalSection {
            tasks: Vec::new(),
            shots: None,
            baseline: true,
            perplexity: true,
            batch_items: 32,
            resamples: 1000,
            seed: 0,
        }
    }
}

impl EvalSection {
    /// How the intervals are computed.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.resamples,
            seed: self.seed,
        }
    }
}
