//! The `[train]` table of a recipe.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

mod problems;

/// What [`TrainSection::metric_for_best_model`] calls the held-out loss.
pub const EVAL_LOSS: &str = "eval_loss";

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
    /// Steps between evaluations: of the held-out loss, and of `eval_tasks`; 0 evaluates at the end only.
    pub eval_steps: u64,
    /// Tasks asked at every evaluation, of the weights as they are then, as `eval.tasks` has them and asked as `medtune eval` asks: `["pubmedqa[dev]:50"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eval_tasks: Vec<String>,
    /// Steps between checkpoints; 0 writes none before the end.
    pub save_steps: u64,
    /// Checkpoints kept; older ones are removed, but not the best.
    pub save_total_limit: usize,
    /// Ends with the best weights by `metric_for_best_model` rather than the last; every evaluation that is better than all before writes a checkpoint.
    pub load_best_model_at_end: bool,
    /// What the best checkpoint is chosen by: `"eval_loss"`, the held-out loss, or a score of `eval_tasks` such as `"pubmedqa[dev].accuracy"`; of equals the earlier.
    pub metric_for_best_model: String,
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
            eval_tasks: Vec::new(),
            save_steps: 0,
            save_total_limit: 2,
            load_best_model_at_end: false,
            metric_for_best_model: EVAL_LOSS.to_owned(),
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
}
