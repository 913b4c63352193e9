//! The `[train]` table of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the model is trained. Every key has the name and meaning it has in transformers and PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// What is trained: `"adapter"` (the `[adapter]` table) or `"full"` (every weight).
    pub method: TrainMethod,
    /// Passes over the training set. Ignored where `max_steps` is set.
    pub epochs: f64,
    /// Optimizer steps, whatever the number of samples.
    pub max_steps: Option<u64>,
    /// Draws the order of the samples anew for every pass; `false` reads them in the order of the data.
    pub shuffle: bool,
    /// Highest learning rate, reached after warm-up.
    pub learning_rate: f64,
    /// Shape of the learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of all steps over which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Where a cosine or linear schedule ends, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    /// Packs (or samples, without packing) that go through the model at once.
    pub micro_batch_size: usize,
    /// Micro-batches an optimizer step adds up.
    pub gradient_accumulation_steps: usize,
    /// Decoupled weight decay; norm weights and biases are never decayed.
    pub weight_decay: f64,
    /// AdamW's decay rate of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay rate of the second moment.
    pub adam_beta2: f64,
    /// AdamW's term against division by zero.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this global norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// What the backward pass keeps: `"none"` keeps everything, `"full"` keeps each layer's input and computes the rest again.
    pub recompute: Recompute,
    /// Steps between evaluations of the held-out loss; 0 evaluates at the end only.
    pub eval_steps: u64,
    /// Steps between checkpoints; 0 writes none before the end.
    pub save_steps: u64,
    /// Checkpoints kept; older ones are removed.
    pub save_total_limit: usize,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            method: TrainMethod::Adapter,
            epochs: 3.0,
            max_steps: None,
            shuffle: true,
            learning_rate: 1e-4,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.03,
            min_lr_ratio: 0.0,
            micro_batch_size: 1,
            gradient_accumulation_steps: 1,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            recompute: Recompute::None,
            eval_steps: 0,
            save_steps: 0,
            save_total_limit: 2,
        }
    }
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrainMethod {
    /// The adapter that `[adapter]` describes; the base stays as it is.
    Adapter,
    /// Every weight of the model.
    Full,
}

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine, down to `min_lr_ratio`.
    Cosine,
    /// A straight line, down to `min_lr_ratio`.
    Linear,
    /// Flat.
    Constant,
}

/// What the backward pass keeps of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Everything: fastest, most memory.
    None,
    /// Each layer's input: a third more arithmetic, least memory.
    Full,
}

impl TrainSection {
    /// Problems that types cannot rule out, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut hold = |ok: bool, key, wrong: String| {
            if !ok {
                problems.push((key, wrong));
            }
        };
        let at_least_one = "must be at least 1".to_owned();
        hold(
            self.micro_batch_size > 0,
            "micro_batch_size",
            at_least_one.clone(),
        );
        hold(
            self.gradient_accumulation_steps > 0,
            "gradient_accumulation_steps",
            at_least_one.clone(),
        );
        hold(self.max_steps != Some(0), "max_steps", at_least_one.clone());
        hold(self.save_total_limit > 0, "save_total_limit", at_least_one);
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let share = |x: f64| (0.0..=1.0).contains(&x);
        hold(
            positive(self.epochs),
            "epochs",
            format!("is {}, not a number above 0", self.epochs),
        );
        hold(
            positive(self.learning_rate),
            "learning_rate",
            format!("is {}, not a number above 0", self.learning_rate),
        );
        hold(
            share(self.warmup_ratio),
            "warmup_ratio",
            format!("is {}, not within 0 to 1", self.warmup_ratio),
        );
        hold(
            share(self.min_lr_ratio),
            "min_lr_ratio",
            format!("is {}, not within 0 to 1", self.min_lr_ratio),
        );
        for (key, beta) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
        ] {
            hold(
                (0.0..1.0).contains(&beta),
                key,
                format!("is {beta}, not within 0 to 1 (1 excluded)"),
            );
        }
        hold(
            positive(self.adam_epsilon),
            "adam_epsilon",
            format!("is {}, not above 0", self.adam_epsilon),
        );
        hold(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "weight_decay",
            format!("is {}, below 0", self.weight_decay),
        );
        hold(
            self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
            "max_grad_norm",
            format!("is {}, below 0", self.max_grad_norm),
        );
        problems
    }
}
