//! What a training will need, before anything is loaded: a pure function of shapes, settings and a [`DeviceSpec`].

mod answering;
mod device;
mod layout;
mod step;
mod walk;

use adapters::LoraConfig;
use candle_core::DType;
use serde::Serialize;

use crate::checkpoint::snapshot_bytes;
use crate::config::DecoderConfig;
use crate::optimizer::{TrainedBytes, trained_bytes};
use crate::recipe::{GradientMode, Recompute, TrainSection, TrainedWeights};
pub use answering::AnsweringShape;
pub use device::{DeviceKind, DeviceSpec, available_bytes, measured_gflops};
pub use layout::weight_bytes;
use layout::{linears, saves_tables, trained_tensors};
use step::{GradientsKept, StepShape};
use walk::Part;

/// What the plan is made from.
#[derive(Debug, Clone)]
pub struct PlanInput<'a> {
    /// The model.
    pub config: &'a DecoderConfig,
    /// The `[train]` table.
    pub settings: &'a TrainSection,
    /// The adapter that is trained; `None` where every weight is.
    pub adapter: Option<&'a LoraConfig>,
    /// The numbers that activations are kept in.
    pub compute: DType,
    /// The base weights as they are stored.
    pub weights: StoredWeights,
    /// The largest micro-batch.
    pub batch: BatchShape,
    /// What is asked between steps; nothing by default.
    pub answering: AnsweringShape,
}

/// The base weights where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredWeights {
    /// Their size.
    pub bytes: u64,
    /// Whether they are stored in the type that is computed in, and need no widening.
    pub computed_in_place: bool,
}

/// The size of a micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BatchShape {
    /// Tokens.
    pub tokens: usize,
    /// Tokens that teach.
    pub targets: usize,
    /// Tokens of the longest sequence in it: attention's arithmetic grows with it.
    pub longest: usize,
}

/// Sizes of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainPlan {
    /// Parameters that are trained.
    pub trained_parameters: u64,
    /// Parameters that stay as they are.
    pub frozen_parameters: u64,
    /// What the backward pass computes again: as the recipe says, or what was chosen.
    pub recompute: Recompute,
    /// The largest micro-batch.
    pub batch: BatchShape,
    /// Bytes by part, at the fullest moment.
    pub memory: Vec<MemoryPart>,
    /// Sum of the parts.
    pub peak_bytes: u64,
    /// The part of it that a step takes and gives back, and what the optimizer keeps: the arena's size.
    pub arena_bytes: u64,
    /// What asking tasks between steps takes at its fullest moment, when no step is under way.
    pub answering_bytes: u64,
    /// The keys and values of answers, of which the arena holds nothing.
    pub answers_cache_bytes: u64,
    /// Size of a checkpoint: trained parameters and what the optimizer keeps.
    pub state_bytes: u64,
    /// Forward and backward passes of a step.
    pub backward_passes: u64,
    /// Training FLOPs a token at full length, forward and backward.
    pub flops_per_token: u64,
}

/// One part of the memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryPart {
    /// What it holds.
    pub part: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// Plans a training. What is `"auto"` is planned as if it said `"none"` or 1: see [`crate::fit()`].
pub fn plan(input: &PlanInput) -> TrainPlan {
    let full = input.adapter.is_none();
    let wide = match input.compute {
        DType::F64 => 8,
        _ => 4,
    };
    let linears = linears(input.config, input.adapter);
    let tensors = trained_tensors(input.config, input.adapter);
    let trained: u64 = tensors.iter().map(|tensor| tensor.elements).sum();
    let bytes = tensors
        .iter()
        .map(|t| trained_bytes(t.elements, t.matrix, input.settings, wide))
        .fold(TrainedBytes::default(), std::ops::Add::add);
    let recompute = match input.settings.recompute {
        Recompute::Auto => Recompute::None,
        chosen => chosen,
    };
    let shape = StepShape {
        config: input.config,
        layers: &linears,
        tokens: input.batch.tokens as u64,
        targets: input.batch.targets as u64,
        stored: input.compute.size_in_bytes() as u64,
        wide,
        frozen_are_wide: input.weights.computed_in_place,
        trained_are_wide: input.settings.weights == TrainedWeights::F32,
        dropout: input.adapter.is_some_and(|lora| lora.dropout > 0.0),
        recompute,
        norms_trained: full,
        tables_trained: full || saves_tables(input.adapter),
        trained,
        gradients: match (
            input.settings.gradients,
            input.settings.gradient_accumulation_steps,
        ) {
            (GradientMode::PerLayer, _) => GradientsKept::PerLayer,
            (GradientMode::Accumulate, 1) => GradientsKept::FromFirst,
            (GradientMode::Accumulate, _) => GradientsKept::FromBefore,
        },
    };
    // One is over before the other begins; but the arena keeps its pages, so keys and values come on top.
    let (step, answering) = (shape.memory(), shape.answering(&input.answering));
    let fullest = match answering.in_arena.total() > step.total() {
        true => answering.in_arena,
        false => step,
    };
    let settings = input.settings;
    let state_bytes = bytes.weights + bytes.master + bytes.moments;
    let copies = settings.save_steps > 0 || settings.load_best_model_at_end;
    let snapshot = if copies {
        snapshot_bytes(state_bytes)
    } else {
        0
    };
    let part = |part, bytes| MemoryPart { part, bytes };
    let mut memory = vec![
        // Weights that are trained are copied, and their file is let go.
        part("base weights", if full { 0 } else { input.weights.bytes }),
        part("trained parameters", bytes.weights + bytes.master),
        part("AdamW moments", bytes.moments),
        part("gradients", fullest.of(Part::Gradients)),
        part("saved activations", fullest.of(Part::Saved)),
        part("keys and values of answers", answering.cache),
        part("logits chunk", fullest.of(Part::Logits)),
        part("workspace", fullest.of(Part::Workspace)),
        part("copy for a checkpoint", snapshot),
    ];
    memory.retain(|part| part.bytes > 0);
    TrainPlan {
        trained_parameters: trained,
        frozen_parameters: if full {
            0
        } else {
            input.config.parameter_count()
        },
        recompute,
        batch: input.batch,
        peak_bytes: memory.iter().map(|p| p.bytes).sum(),
        arena_bytes: bytes.moments + fullest.total() + snapshot,
        answering_bytes: answering.fullest,
        answers_cache_bytes: answering.cache,
        state_bytes,
        backward_passes: settings.backward_passes(),
        memory,
        flops_per_token: flops_per_token(input.config, input.batch.longest as u64, full),
    }
}

/// Model FLOPs a token of a full-length causal segment: `L h² (12 + 12 kv/heads + 18 f/h + 6 s/h) + 6 h V` forward
/// and backward; two thirds of it where the weights are frozen, since their dW is not computed.
///
/// Written for any head width: the projections' own sizes stand for h² (4, 2 and 6 FLOPs a weight and pass).
pub fn flops_per_token(c: &DecoderConfig, sequence: u64, full: bool) -> u64 {
    let (d, q, kv, f) = (
        c.hidden_size as u64,
        c.q_dim() as u64,
        c.kv_dim() as u64,
        c.intermediate_size as u64,
    );
    let linear = 6 * (2 * d * q + 2 * d * kv + 3 * d * f);
    let attention = 6 * sequence * q;
    let all = c.num_hidden_layers as u64 * (linear + attention) + 6 * d * c.vocab_size as u64;
    if full { all } else { all * 2 / 3 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::decoder_config;
    use serde_json::json;

    #[test]
    fn flops_of_llama_2_13b_are_the_published_ones() {
        let config = decoder_config(&json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
            "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40, "rms_norm_eps": 1e-5
        }))
        .unwrap();
        assert_eq!(config.parameter_count(), 13_015_864_320);
        // 54.8 GFLOP a token at 4096, LoRA.
        assert!((flops_per_token(&config, 4096, false) as f64 / 1e9 - 54.8).abs() < 0.05);
        assert_eq!(weight_bytes(&config, DType::BF16, None), 2 * 13_015_864_320);
    }
}
