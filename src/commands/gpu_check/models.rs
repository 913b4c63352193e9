//! The models that are timed, and how they are trained: the lines of `speed-train`.

use serde_json::{Value, json};

use super::packs::Filling;

/// A model's shape, as its `config.json` has it.
pub(super) struct Shape {
    vocab: usize,
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    rope_theta: f64,
}

const LLAMA_2_7B: Shape = Shape {
    vocab: 32_000,
    hidden: 4096,
    ffn: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: 32,
    rope_theta: 1e4,
};
const LLAMA_3_8B: Shape = Shape {
    vocab: 128_256,
    hidden: 4096,
    ffn: 14_336,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    rope_theta: 5e5,
};
const LLAMA_2_13B: Shape = Shape {
    vocab: 32_000,
    hidden: 5120,
    ffn: 13_824,
    layers: 40,
    heads: 40,
    kv_heads: 40,
    rope_theta: 1e4,
};
const LLAMA_2_70B: Shape = Shape {
    vocab: 32_000,
    hidden: 8192,
    ffn: 28_672,
    layers: 80,
    heads: 64,
    kv_heads: 8,
    rope_theta: 1e4,
};
/// In place of any of them, for a rehearsal.
pub(super) const TINY: Shape = Shape {
    vocab: 123,
    hidden: 64,
    ffn: 96,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    rope_theta: 1e4,
};

/// What is trained.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Adapters on a base in bf16.
    Lora,
    /// Adapters on a base in NF4.
    QLora,
    /// Every weight: bf16 rounded at random, moments of 8 bits, gradients applied as they come.
    Full,
}

/// One line of the table.
pub(super) struct Row {
    /// As it is asked for.
    pub name: &'static str,
    /// As it is told.
    pub what: &'static str,
    pub shape: Shape,
    pub kind: Kind,
    pub filling: Filling,
}

pub(super) const ROWS: [Row; 8] = [
    Row {
        name: "7b-lora",
        what: "Llama-2-7B LoRA",
        shape: LLAMA_2_7B,
        kind: Kind::Lora,
        filling: Filling::OneSequence,
    },
    Row {
        name: "8b-lora",
        what: "Llama-3-8B LoRA",
        shape: LLAMA_3_8B,
        kind: Kind::Lora,
        filling: Filling::OneSequence,
    },
    Row {
        name: "13b-lora",
        what: "Llama-2-13B LoRA",
        shape: LLAMA_2_13B,
        kind: Kind::Lora,
        filling: Filling::OneSequence,
    },
    Row {
        name: "13b-lora-mix",
        what: "Llama-2-13B LoRA, an instruction mix",
        shape: LLAMA_2_13B,
        kind: Kind::Lora,
        filling: Filling::Instructions,
    },
    Row {
        name: "13b-qlora",
        what: "Llama-2-13B QLoRA",
        shape: LLAMA_2_13B,
        kind: Kind::QLora,
        filling: Filling::OneSequence,
    },
    Row {
        name: "13b-full",
        what: "Llama-2-13B, every weight",
        shape: LLAMA_2_13B,
        kind: Kind::Full,
        filling: Filling::OneSequence,
    },
    Row {
        name: "70b-qlora",
        what: "Llama-2-70B QLoRA",
        shape: LLAMA_2_70B,
        kind: Kind::QLora,
        filling: Filling::OneSequence,
    },
    Row {
        name: "70b-lora",
        what: "Llama-2-70B LoRA on bf16",
        shape: LLAMA_2_70B,
        kind: Kind::Lora,
        filling: Filling::OneSequence,
    },
];

impl Shape {
    pub(super) fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
            "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "rope_theta": self.rope_theta, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096, "hidden_act": "silu", "tie_word_embeddings": false,
        })
    }
}
