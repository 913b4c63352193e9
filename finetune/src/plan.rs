//! What a training will need, before anything is loaded: a pure function of shapes and settings.

use serde::Serialize;

use crate::config::DecoderConfig;
use crate::recipe::{Recompute, TrainSection};

/// What the plan is made from.
#[derive(Debug, Clone)]
pub struct PlanInput<'a> {
    /// The model.
    pub config: &'a DecoderConfig,
    /// The `[train]` table.
    pub settings: &'a TrainSection,
    /// Bytes of the base weights as they are stored.
    pub weight_bytes: u64,
    /// Parameters that are trained.
    pub trained: u64,
    /// Longest pack, in tokens.
    pub max_seq_len: usize,
    /// Bytes of one activation: 4 for f32, 2 for bf16, 8 for f64.
    pub activation_bytes: u64,
}

/// Sizes of a training. Memory is an estimate: the parts that grow with the model and the pack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainPlan {
    /// Parameters that are trained.
    pub trained_parameters: u64,
    /// Parameters that stay as they are.
    pub frozen_parameters: u64,
    /// Bytes by part.
    pub memory: Vec<MemoryPart>,
    /// Sum of the parts.
    pub peak_bytes: u64,
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

/// Plans a training.
pub fn plan(input: &PlanInput) -> TrainPlan {
    let c = input.config;
    let (d, q, kv, f) = (
        c.hidden_size as u64,
        c.q_dim() as u64,
        c.kv_dim() as u64,
        c.intermediate_size as u64,
    );
    let tokens = (input.max_seq_len * input.settings.micro_batch_size) as u64;
    let layers = c.num_hidden_layers as u64;
    // What LayerSaved holds a token: two norm inputs and their outputs, q, k, v, the attention's output,
    // gate, up and their product.
    let saved_a_layer = 4 * d + q + 2 * kv + q + 3 * f;
    let saved = match input.settings.recompute {
        Recompute::None => layers * saved_a_layer,
        Recompute::Full => layers * d + saved_a_layer,
    } * tokens
        * input.activation_bytes;
    // The widest moment of a layer's backward pass holds the MLP's three gradients in the accumulate type.
    let workspace = 4 * tokens * (3 * f + 2 * d);
    let memory = vec![
        MemoryPart {
            part: "base weights",
            bytes: input.weight_bytes,
        },
        MemoryPart {
            part: "trained parameters",
            bytes: 4 * input.trained,
        },
        MemoryPart {
            part: "gradients",
            bytes: 4 * input.trained,
        },
        MemoryPart {
            part: "AdamW moments",
            bytes: 8 * input.trained,
        },
        MemoryPart {
            part: "saved activations",
            bytes: saved,
        },
        MemoryPart {
            part: "workspace",
            bytes: workspace,
        },
        MemoryPart {
            part: "logits chunk",
            bytes: kernels::LOGITS_BYTES as u64,
        },
    ];
    let total = c.parameter_count();
    let full = input.trained >= total;
    TrainPlan {
        trained_parameters: input.trained,
        frozen_parameters: if full { 0 } else { total },
        peak_bytes: memory.iter().map(|p| p.bytes).sum(),
        memory,
        flops_per_token: flops_per_token(c, input.max_seq_len as u64, full),
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
    }
}
