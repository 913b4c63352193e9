//! What a model in training takes while it answers tasks: no activation is kept, keys and values are.
//!
//! The passes are walked as [`super::step`] walks a training's: `Layer::infer`, `Decoder::token_scores`,
//! `Decoder::extend`.

use serde::Serialize;

use super::layout::LayerLinears;
use super::step::StepShape;
use super::walk::{Part, StepMemory, Walk};
use crate::recipe::Recompute;

/// The largest passes of answering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AnsweringShape {
    /// Tokens of the largest pack of prompts with their options.
    pub scored_tokens: usize,
    /// The most tokens of options in a pack.
    pub scored_targets: usize,
    /// Tokens of the prompts that are read at once to be continued.
    pub read_tokens: usize,
    /// Tokens that the keys and values of the sequences in work have room for.
    pub cached_tokens: usize,
    /// Sequences in work.
    pub sequences: usize,
}

impl StepShape<'_> {
    /// The fullest moment of answering.
    pub(super) fn answering(&self, shape: &AnsweringShape) -> StepMemory {
        let mut fullest = StepMemory::default();
        for (tokens, rows, cached) in [
            (shape.scored_tokens, shape.scored_targets, 0),
            (shape.read_tokens, shape.sequences, shape.cached_tokens),
        ] {
            if tokens == 0 {
                continue;
            }
            let pass = StepShape {
                tokens: tokens as u64,
                targets: rows as u64,
                dropout: false,
                recompute: Recompute::None,
                ..*self
            };
            let memory = pass.answers(cached as u64);
            if memory.total() > fullest.total() {
                fullest = memory;
            }
        }
        fullest
    }

    /// One pass of T tokens, N rows of which go through the head, beside keys and values of so many tokens.
    fn answers(&self, cached: u64) -> StepMemory {
        let mut walk = Walk::default();
        let c = self.config;
        let (t, d, v) = (self.tokens, c.hidden_size as u64, c.vocab_size as u64);
        let (rows, n) = (self.targets.min(t), self.targets);
        let kv = c.kv_dim() as u64 * self.layers.len() as u64;
        walk.take_as(Part::Cache, 2 * cached * kv * self.stored);
        walk.take(t * (8 + 4) + t * c.head_dim as u64 * self.wide);
        let mut x = walk.take(t * d * self.stored);
        for (i, layer) in self.layers.iter().enumerate() {
            let rows = if i + 1 == self.layers.len() { rows } else { t };
            let y = self.infer(&mut walk, layer, rows);
            walk.give(x);
            x = y;
        }
        if cached == 0 {
            walk.take(n * d * self.stored);
        }
        walk.take(n * d * self.stored + n * self.wide);
        walk.take(self.widened(n, d));
        walk.touch(self.panel(self.tables_trained, v, d));
        if cached == 0 {
            let rows = (kernels::LOGITS_BYTES as u64 / (v * self.wide))
                .max(1)
                .min(n);
            walk.take_as(Part::Logits, rows * v * self.wide);
        } else {
            // As they are, and as rows to choose from.
            walk.take_as(Part::Logits, 2 * n * v * self.wide);
        }
        walk.peak
    }

    /// One layer over a live input; answers its output, taken.
    fn infer(&self, walk: &mut Walk, layer: &LayerLinears, rows: u64) -> u64 {
        let c = self.config;
        let t = self.tokens;
        let (d, f) = (c.hidden_size as u64, c.intermediate_size as u64);
        let q = c.q_dim() as u64;
        let mut held = walk.take(t * d * self.stored);
        let qkv = self.group_forward(walk, &layer.qkv, t, d);
        walk.give(qkv.low);
        held += qkv.outputs;
        if c.qk_norm {
            walk.touch(t * q * self.stored);
        }
        let a = walk.take(t * q * self.stored);
        walk.touch(t * c.num_attention_heads as u64 * self.wide + self.attention_tasks());
        if rows < t {
            held += walk.take(rows * q * self.stored);
            walk.give(a);
            held += walk.take(rows * d * self.stored);
        } else {
            held += a;
        }
        let o = self.group_forward(walk, &layer.o, rows, q);
        walk.give(o.low);
        walk.touch(self.widened(rows, d));
        held += o.outputs + walk.take(rows * d * self.stored);
        let gate_up = self.group_forward(walk, &layer.gate_up, rows, d);
        walk.give(gate_up.low);
        held += walk.take(rows * f * self.stored);
        walk.give(gate_up.outputs);
        let down = self.group_forward(walk, &layer.down, rows, f);
        walk.give(down.low);
        walk.touch(self.widened(rows, d));
        walk.give(held);
        down.outputs
    }
}
