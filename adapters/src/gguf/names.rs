//! llama.cpp's tensor names and the Hugging Face names of the same tensors.

/// Where a GGUF tensor belongs.
#[derive(Debug, PartialEq)]
pub(crate) enum Place {
    /// A tensor of the checkpoint; `heads` says whose rows llama.cpp permuted.
    Tensor { name: String, rows: Rows },
    /// The divisors of Llama 3's scaled rotary embedding: configuration in a tensor's dress.
    RopeFactors,
    /// The architecture has no such tensor.
    Unknown,
}

/// Whether llama.cpp stores the rows of this tensor in another order than Hugging Face.
///
/// For the llama architecture it rotates adjacent pairs of a head's elements, Hugging Face the two halves, so its
/// converter interleaves the halves of each q and k head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rows {
    AsStored,
    QueryHeads,
    KeyHeads,
}

/// Architectures that are read: `general.architecture`, Hugging Face's `model_type`, and its class.
pub(crate) const ARCHITECTURES: &[(&str, &str, &str)] = &[
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
];

const IN_LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The place of the GGUF tensor `name` in a model of `architecture`.
pub(crate) fn place(architecture: &str, name: &str) -> Place {
    let whole = |hf: &str| Place::Tensor {
        name: hf.into(),
        rows: Rows::AsStored,
    };
    match name {
        "token_embd.weight" => return whole("model.embed_tokens.weight"),
        "output_norm.weight" => return whole("model.norm.weight"),
        "output.weight" => return whole("lm_head.weight"),
        "rope_freqs.weight" => return Place::RopeFactors,
        _ => {}
    }
    in_layer(architecture, name).unwrap_or(Place::Unknown)
}

fn in_layer(architecture: &str, name: &str) -> Option<Place> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // `05` would be a second name of layer 5.
    let number: usize = layer
        .parse()
        .ok()
        .filter(|n: &usize| n.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (_, hf) = IN_LAYER.iter().find(|(ggml, _)| *ggml == module)?;
    let biased = hf.ends_with("_proj");
    if !(kind == "weight" || kind == "bias" && biased) {
        return None;
    }
    let rows = match (architecture, module) {
        ("llama", "attn_q") => Rows::QueryHeads,
        ("llama", "attn_k") => Rows::KeyHeads,
        _ => Rows::AsStored,
    };
    Some(Place::Tensor {
        name: format!("model.layers.{number}.{hf}.{kind}"),
        rows,
    })
}
