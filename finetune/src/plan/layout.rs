//! The linear layers of a decoder and what of it is trained, from its configuration alone.

use adapters::recipe::Quantization;
use adapters::{LoraConfig, TensorSpec};
use candle_core::DType;

use crate::config::DecoderConfig;
use crate::load::tensor_specs;

/// How one linear layer is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Linear {
    /// N.
    pub outputs: u64,
    /// Rank of its adapter; 0 without one.
    pub rank: u64,
    /// Whether the adapter is DoRA.
    pub dora: bool,
    /// Whether the weight itself is trained.
    pub trained: bool,
}

/// The groups of a layer, whose members read the same input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LayerLinears {
    pub qkv: [Linear; 3],
    pub o: [Linear; 1],
    pub gate_up: [Linear; 2],
    pub down: [Linear; 1],
}

/// A tensor that is trained.
pub(super) struct TrainedTensor {
    pub elements: u64,
    /// Of two dimensions.
    pub matrix: bool,
}

pub(super) fn trained_tensors(
    c: &DecoderConfig,
    adapter: Option<&LoraConfig>,
) -> Vec<TrainedTensor> {
    let tensor = |elements: usize, matrix| TrainedTensor {
        elements: elements as u64,
        matrix,
    };
    let mut tensors = Vec::new();
    for spec in tensor_specs(c, 0.0) {
        let elements = spec.shape.iter().product();
        let matrix = spec.shape.len() == 2;
        let module = spec.name.rsplit_once('.').map_or("", |(module, _)| module);
        let Some(lora) = adapter else {
            tensors.push(tensor(elements, matrix));
            continue;
        };
        if lora.saves(module) {
            tensors.push(tensor(elements, matrix));
        } else if let (true, [outputs, inputs]) = (is_adapted(lora, module), &spec.shape[..]) {
            tensors.push(tensor(lora.rank * inputs, true));
            tensors.push(tensor(outputs * lora.rank, true));
            if lora.use_dora {
                tensors.push(tensor(*outputs, false));
            }
        }
    }
    tensors
}

/// Whether a module is a linear layer of a block that carries an adapter.
fn is_adapted(lora: &LoraConfig, module: &str) -> bool {
    module.ends_with("_proj")
        && lora.target_modules.position(module).is_some()
        && !lora.saves(module)
}

/// Whether the embedding or the head is trained as a whole.
pub(super) fn saves_tables(adapter: Option<&LoraConfig>) -> bool {
    let tables = ["model.embed_tokens", "lm_head"];
    adapter.is_some_and(|lora| tables.iter().any(|table| lora.saves(table)))
}

/// The linear layers of each layer, and what of them is trained.
pub(super) fn linears(c: &DecoderConfig, adapter: Option<&LoraConfig>) -> Vec<LayerLinears> {
    let (d, q, kv, f) = (c.hidden_size, c.q_dim(), c.kv_dim(), c.intermediate_size);
    let layers = 0..c.num_hidden_layers;
    layers
        .map(|layer| {
            let linear = |name: &str, outputs: usize| {
                let module = format!("model.layers.{layer}.{name}");
                let adapted = adapter.filter(|lora| is_adapted(lora, &module));
                Linear {
                    outputs: outputs as u64,
                    rank: adapted.map_or(0, |lora| lora.rank as u64),
                    dora: adapted.is_some_and(|lora| lora.use_dora),
                    trained: adapter.is_none_or(|lora| lora.saves(&module)),
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
