//! What a training will need, before anything is loaded: a pure function of shapes, settings and a [`DeviceSpec`].

mod device;
mod step;

use adapters::recipe::Quantization;
use adapters::{LoraConfig, TensorSpec};
use candle_core::DType;
use serde::Serialize;

use crate::config::DecoderConfig;
use crate::load::tensor_specs;
use crate::recipe::{Recompute, TrainSection};
pub use device::{DeviceKind, DeviceSpec, available_bytes, measured_gflops};
use step::{GradientsKept, LayerLinears, Linear, Part, StepShape};

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
    let total = input.config.parameter_count();
    let trained = match input.adapter {
        None => total,
        Some(_) => adapter_parameters(input.config, &linears),
    };
    let recompute = match input.settings.recompute {
        Recompute::Auto => Recompute::None,
        chosen => chosen,
    };
    let step = StepShape {
        config: input.config,
        layers: &linears,
        tokens: input.batch.tokens as u64,
        targets: input.batch.targets as u64,
        stored: input.compute.size_in_bytes() as u64,
        wide,
        weights_are_wide: input.weights.computed_in_place,
        dropout: input.adapter.is_some_and(|lora| lora.dropout > 0.0),
        recompute,
        norms_trained: full,
        tables_trained: full,
        trained,
        gradients: match input.settings.gradient_accumulation_steps {
            1 => GradientsKept::FromFirst,
            _ => GradientsKept::FromBefore,
        },
    }
    .memory();
    let part = |part, bytes| MemoryPart { part, bytes };
    let memory = vec![
        part("base weights", input.weights.bytes),
        part("trained parameters", wide * trained),
        part("AdamW moments", 2 * wide * trained),
        part("gradients", step.of(Part::Gradients)),
        part("saved activations", step.of(Part::Saved)),
        part("logits chunk", step.of(Part::Logits)),
        part("workspace", step.of(Part::Workspace)),
    ];
    TrainPlan {
        trained_parameters: trained,
        frozen_parameters: if full { 0 } else { total },
        recompute,
        batch: input.batch,
        peak_bytes: memory.iter().map(|p| p.bytes).sum(),
        arena_bytes: 2 * wide * trained + step.total(),
        memory,
        flops_per_token: flops_per_token(input.config, input.batch.tokens as u64, full),
    }
}

/// The linear layers of each layer, and what of them is trained.
fn linears(c: &DecoderConfig, adapter: Option<&LoraConfig>) -> Vec<LayerLinears> {
    let (d, q, kv, f) = (c.hidden_size, c.q_dim(), c.kv_dim(), c.intermediate_size);
    let layers = 0..c.num_hidden_layers;
    layers
        .map(|layer| {
            let linear = |name: &str, outputs: usize| {
                let module = format!("model.layers.{layer}.{name}");
                let adapted = adapter.filter(|a| a.target_modules.position(&module).is_some());
                Linear {
                    outputs: outputs as u64,
                    rank: adapted.map_or(0, |lora| lora.rank as u64),
                    trained: adapter.is_none(),
                }
            };
            LayerLinears {
                qkv: [
                    linear("self_attn.q_proj", q),
                    linear("self_attn.k_proj", kv),
                    linear("self_attn.v_proj", kv),
                ],
                o: [linear("self_attn.o_proj", d)],
                gate_up: [linear("mlp.gate_proj", f), linear("mlp.up_proj", f)],
                down: [linear("mlp.down_proj", d)],
            }
        })
        .collect()
}

/// Numbers of all A (r, in) and B (out, r).
fn adapter_parameters(c: &DecoderConfig, layers: &[LayerLinears]) -> u64 {
    let of = |members: &[Linear], inputs: usize| -> u64 {
        let sizes = members.iter().map(|m| m.rank * (m.outputs + inputs as u64));
        sizes.sum()
    };
    let layers = layers.iter().map(|layer| {
        of(&layer.qkv, c.hidden_size)
            + of(&layer.o, c.q_dim())
            + of(&layer.gate_up, c.hidden_size)
            + of(&layer.down, c.intermediate_size)
    });
    layers.sum()
}

/// Bytes of a model's weights in a dtype, before any file of it is there.
pub fn weight_bytes(
    config: &DecoderConfig,
    dtype: DType,
    quantization: Option<Quantization>,
) -> u64 {
    let of = |spec: &TensorSpec| {
        let elements = spec.shape.iter().product::<usize>() as u64;
        // The linear layers of the blocks; the embedding and the head stay as they are.
        match quantization {
            Some(Quantization::Nf4) if spec.name.ends_with("_proj.weight") => {
                kernels::Nf4::size_of(elements as usize, true) as u64
            }
            _ => elements * dtype.size_in_bytes() as u64,
        }
    };
    tensor_specs(config, 0.0).iter().map(of).sum()
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
