//! The `[train]` table of a recipe.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

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
    /// LoRA+: B matrices (and, as in PEFT, vectors) learn at this many times `learning_rate`; 1 turns it off.
    pub loraplus_lr_ratio: f64,
    /// Shape of the learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of all steps over which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Where a cosine or linear schedule ends, as a share of `learning_rate`.
    pub min_lr_ratio: f64,
    /// Packs (or samples, without packing) that go through the model at once; `"auto"`: as many of a step's `gradient_accumulation_steps` as memory allows.
    pub micro_batch_size: MicroBatchSize,
    /// Micro-batches an optimizer step adds up.
    pub gradient_accumulation_steps: usize,
    /// Samples of a pack that begin with the same prompt have it computed once: exact, so only without dropout.
    pub share_prefixes: bool,
    /// Decoupled weight decay; norm weights and biases are never decayed.
    pub weight_decay: f64,
    /// `"adamw"`, or `"adamw-8bit"`: its moments in 8 bits, a quarter of their memory.
    pub optimizer: OptimizerKind,
    /// How trained weights are held where `method = "full"`: `"f32"`, `"bf16-master"` (bf16 rounded from an f32 copy) or `"bf16-stochastic"` (bf16 alone, updates rounded at random).
    pub weights: TrainedWeights,
    /// `"accumulate"`, or `"per-layer"` where `method = "full"`: each gradient is applied and freed during the backward pass, so they never all exist. With `clipping = "global"` that takes a second backward pass.
    pub gradients: GradientMode,
    /// AdamW's decay rate of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay rate of the second moment.
    pub adam_beta2: f64,
    /// AdamW's term against division by zero.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Whose norm `max_grad_norm` limits: `"global"`, that of all gradients together, or `"per-parameter"`, that of each on its own.
    pub clipping: Clipping,
    /// What the backward pass computes again: `"none"`, `"selective"` (norms and MLP products), `"full"` (all but each layer's input), `"auto"` (the first that fits).
    pub recompute: Recompute,
    /// Steps between evaluations of the held-out loss; 0 evaluates at the end only.
    pub eval_steps: u64,
    /// Steps between checkpoints; 0 writes none before the end.
    pub save_steps: u64,
    /// Checkpoints kept; older ones are removed, but not the best by held-out loss.
    pub save_total_limit: usize,
    /// Ends with the weights of the lowest held-out loss rather than the last; every evaluation that lowers it writes a checkpoint.
    pub load_best_model_at_end: bool,
    /// What a NaN or infinite loss or gradient does: `"stop"` ends with the samples named, `"skip"` leaves the step out and counts it.
    pub on_nonfinite: OnNonfinite,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            method: TrainMethod::Adapter,
            epochs: 3.0,
            max_steps: None,
            shuffle: true,
            learning_rate: 1e-4,
            loraplus_lr_ratio: 1.0,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.03,
            min_lr_ratio: 0.0,
            micro_batch_size: MicroBatchSize::Packs(1),
            gradient_accumulation_steps: 1,
            share_prefixes: false,
            weight_decay: 0.0,
            optimizer: OptimizerKind::Adamw,
            weights: TrainedWeights::F32,
            gradients: GradientMode::Accumulate,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            clipping: Clipping::Global,
            recompute: Recompute::None,
            eval_steps: 0,
            save_steps: 0,
            save_total_limit: 2,
            load_best_model_at_end: false,
            on_nonfinite: OnNonfinite::Stop,
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

/// How the optimizer stores its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// 32 bits an element.
    Adamw,
    /// 8 bits an element and a scale every 256, as bitsandbytes' AdamW8bit; parameters of fewer than 4,096 elements keep 32.
    #[serde(rename = "adamw-8bit")]
    Adamw8bit,
}

/// How trained weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrainedWeights {
    /// In f32.
    F32,
    /// Matrices in bf16, each rounded from an f32 copy that takes the updates: 6 bytes a weight.
    #[serde(rename = "bf16-master")]
    Bf16Master,
    /// Matrices in bf16 alone, updates rounded up or down at random so that they are right on average: 2 bytes a weight.
    #[serde(rename = "bf16-stochastic")]
    Bf16Stochastic,
}

/// When gradients are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GradientMode {
    /// After all have been added up.
    Accumulate,
    /// Each as soon as the backward pass has made it.
    PerLayer,
}

/// Whose norm `max_grad_norm` limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clipping {
    /// That of all gradients together.
    Global,
    /// That of each parameter's gradient.
    PerParameter,
}

/// What the backward pass keeps of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Everything: fastest, most memory.
    None,
    /// Everything but what cheap operations make again: the norms' outputs and the MLP's product.
    Selective,
    /// Each layer's input: a third more arithmetic, least memory.
    Full,
    /// The first of these whose plan fits the device.
    Auto,
}

/// How many packs go through the model at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MicroBatchSize {
    /// As many as fit, of those that an optimizer step reads.
    Auto,
    /// This many.
    Packs(usize),
}

impl MicroBatchSize {
    /// The number; 1 for what is not resolved.
    pub fn packs(self) -> usize {
        match self {
            Self::Auto => 1,
            Self::Packs(n) => n,
        }
    }
}

impl Serialize for MicroBatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Packs(n) => n.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "auto" => Ok(Self::Auto),
            Value::Number(n) if n.is_u64() => Ok(Self::Packs(n.as_u64().unwrap_or(0) as usize)),
            _ => Err(D::Error::custom("expected a whole number or \"auto\"")),
        }
    }
}

impl JsonSchema for MicroBatchSize {
    fn schema_name() -> Cow<'static, str> {
        "MicroBatchSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a number of packs, or \"auto\"",
            "anyOf": [{"type": "integer"}, {"type": "string", "enum": ["auto"]}],
        })
    }
}

/// What a NaN or infinite loss or gradient does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnNonfinite {
    /// Ends the training, with the step and its samples named.
    Stop,
    /// Changes no parameter in that step, counts it, and goes on; ten in a row end the training.
    Skip,
}

impl TrainSection {
    /// Packs an optimizer step reads.
    pub fn packs_a_step(&self) -> usize {
        self.micro_batch_size.packs() * self.gradient_accumulation_steps
    }

    /// Forward and backward passes an optimizer step takes: 2 where gradients are applied as they come but must be
    /// scaled by a norm that is only known when all have come; the first pass measures it.
    pub fn backward_passes(&self) -> u64 {
        let norm_first = self.clipping == Clipping::Global && self.max_grad_norm > 0.0;
        match self.gradients {
            GradientMode::PerLayer if norm_first => 2,
            _ => 1,
        }
    }

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
            self.micro_batch_size != MicroBatchSize::Packs(0),
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
        hold(
            !self.load_best_model_at_end || self.eval_steps > 0,
            "load_best_model_at_end",
            "needs eval_steps above 0: it chooses among the steps that are evaluated".to_owned(),
        );
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
            positive(self.loraplus_lr_ratio),
            "loraplus_lr_ratio",
            format!("is {}, not a number above 0", self.loraplus_lr_ratio),
        );
        hold(
            self.loraplus_lr_ratio == 1.0 || self.method == TrainMethod::Adapter,
            "loraplus_lr_ratio",
            "is for adapters, and `method` is \"full\"".into(),
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
        let full = self.method == TrainMethod::Full;
        let adapter =
            "is not \"f32\", which needs method = \"full\": an adapter's own weights are few";
        hold(
            full || self.weights == TrainedWeights::F32,
            "weights",
            adapter.to_owned(),
        );
        let per_layer = self.gradients == GradientMode::PerLayer;
        hold(
            full || !per_layer,
            "gradients",
            "is \"per-layer\", which needs method = \"full\": an adapter's gradients are few"
                .into(),
        );
        hold(
            !per_layer || self.gradient_accumulation_steps <= 1,
            "gradients",
            format!(
                "is \"per-layer\", which applies gradients at once, but gradient_accumulation_steps = {} adds them up first; raise micro_batch_size instead",
                self.gradient_accumulation_steps
            ),
        );
        problems
    }
}
