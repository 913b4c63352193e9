//! llama.cpp's tensor names and the Hugging Face names of the same tensors: one table, read in both directions.

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

/// Architectures that are read and written: `general.architecture`, Hugging Face's `model_type`, and its class.
pub(crate) const ARCHITECTURES: &[(&str, &str, &str)] = &[
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
];

/// The `general.architecture` of a `model_type`. A Mistral is stored as a llama.
pub(crate) fn architecture_of(model_type: &str) -> Option<&'static str> {
    let stored = match model_type {
        "mistral" => "llama",
        other => other,
    };
    let mut known = ARCHITECTURES.iter();
    known.find_map(|(ggml, hf, _)| (*hf == stored).then_some(*ggml))
}

const WHOLE: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];
/// The tensor that holds a scaled rotary embedding's divisors.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

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
    if name == ROPE_FACTORS {
        return Place::RopeFactors;
    }
    if let Some((_, hf)) = WHOLE.iter().find(|(ggml, _)| *ggml == name) {
        return Place::Tensor {
            name: (*hf).into(),
            rows: Rows::AsStored,
        };
    }
    in_layer(architecture, name).unwrap_or(Place::Unknown)
}

/// The GGUF tensor of a Hugging Face checkpoint's tensor: the inverse of [`place`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub name: String,
    pub rows: Rows,
    /// The layer that it belongs to.
    pub layer: Option<usize>,
    /// Position within the file's usual order, for tensors of one layer or of none.
    pub order: usize,
}

/// Where the tensor `hf` of a model of `architecture` is stored; nothing where the architecture has no such tensor.
pub(crate) fn stored(architecture: &str, hf: &str) -> Option<Stored> {
    if let Some(order) = WHOLE.iter().position(|(_, name)| *name == hf) {
        return Some(Stored {
            name: WHOLE[order].0.into(),
            rows: Rows::AsStored,
            layer: None,
            order,
        });
    }
    let (layer, rest) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let number = layer_number(layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let order = IN_LAYER.iter().position(|(_, name)| *name == module)?;
    let (ggml, _) = IN_LAYER[order];
    is_part(module, kind).then(|| Stored {
        name: format!("blk.{number}.{ggml}.{kind}"),
        rows: rows(architecture, ggml),
        layer: Some(number),
        order: 2 * order + usize::from(kind == "bias"),
    })
}

fn in_layer(architecture: &str, name: &str) -> Option<Place> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let number = layer_number(layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (_, hf) = IN_LAYER.iter().find(|(ggml, _)| *ggml == module)?;
    is_part(hf, kind).then(|| Place::Tensor {
        name: format!("model.layers.{number}.{hf}.{kind}"),
        rows: rows(architecture, module),
    })
}

/// `05` would be a second name of layer 5.
fn layer_number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Every module has a weight, and projections may have a bias.
fn is_part(hf: &str, kind: &str) -> bool {
    kind == "weight" || kind == "bias" && hf.ends_with("_proj")
}

fn rows(architecture: &str, module: &str) -> Rows {
    match (architecture, module) {
        ("llama", "attn_q") => Rows::QueryHeads,
        ("llama", "attn_k") => Rows::KeyHeads,
        _ => Rows::AsStored,
    }
}
