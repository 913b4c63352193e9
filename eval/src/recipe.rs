//! The `[eval]` section of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Bootstrap;

/// What the model is asked, before and after tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Tasks by name or by the path of their file; `:N` asks N items only, as in `pubmedqa:100`.
    pub tasks: Vec<String>,
    /// Whether the base model is marked too, so that the change can be shown.
    pub baseline: bool,
    /// Whether perplexity is measured on the data's held-out split.
    pub perplexity: bool,
    /// How many items are given to the model at a time.
    pub batch_items: usize,
    /// How many bootstrap resamples the confidence intervals rest on.
    pub resamples: usize,
    /// Chooses the items of a limited task and the bootstrap's draws.
    pub seed: u64,
}

impl Default for EvalSection {
    fn default() -> Self {
        EvalSection {
            tasks: Vec::new(),
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
