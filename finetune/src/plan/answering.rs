//! What a model in training takes while it answers tasks: no activation is kept, keys and values are.
//!
//! The passes are walked as [`super::step`] walks a training's: `Layer::infer`, `Decoder::token_scores`,
//! `Decoder::extend`.

use serde::Serialize;

use super::layout::{LayerLinears, Linear};
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
    /// Tokens that the sequences' keys and values have room for once the prompts are read.
    pub read_room_tokens: usize,
    /// Tokens that they have room for at the end.
    pub written_room_tokens: usize,
    /// Sequences that are written side by side.
    pub sequences: usize,
}

/// What answering takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AnsweringMemory {
    /// Bytes at the fullest moment.
    pub fullest: u64,
    /// The fullest moment without keys and values, whose lists grow outside the arena.
    pub in_arena: StepMemory,
    /// The most that keys and values take.
    pub cache: u64,
}

/// A pass without a backward pass.
#[derive(Clone, Copy)]
struct Pass {
    /// T.
    tokens: usize,
    /// Rows that go through the head.
    rows: usize,
    /// Room of the keys and values that are there before the pass, and of those that it makes.
    held: usize,
    made: usize,
    /// Whether the rows' targets are scored, or their logits handed out.
    scores: bool,
}

impl StepShape<'_> {
    /// What answering takes, where a step's activations are gone.
    pub(super) fn answering(&self, shape: &AnsweringShape) -> AnsweringMemory {
        let read = Pass {
            tokens: shape.read_tokens,
            rows: shape.sequences,
            held: 0,
            made: shape.read_room_tokens,
            scores: false,
        };
        let passes = [
            Pass {
                tokens: shape.scored_tokens,
                rows: shape.scored_targets,
                scores: true,
                made: 0,
                ..read
            },
            read,
            Pass {
                tokens: shape.sequences,
                held: shape.written_room_tokens,
                made: 0,
                ..read
            },
        ];
        let mut memory = AnsweringMemory::default();
        for pass in passes.iter().filter(|pass| pass.tokens > 0) {
            let walk = StepShape {
                tokens: pass.tokens as u64,
                targets: pass.rows as u64,
                dropout: false,
                recompute: Recompute::None,
                ..*self
            };
            let peak = walk.answers(pass);
            memory.fullest = memory.fullest.max(peak.total());
            memory.cache = memory.cache.max(peak.of(Part::Cache));
            let without = Pass {
                held: 0,
                made: 0,
                ..*pass
            };
            let without = walk.answers(&without);
            if without.total() > memory.in_arena.total() {
                memory.in_arena = without;
            }
        }
        memory
    }

    fn answers(&self, pass: &Pass) -> StepMemory {
        let mut walk = Walk::default();
        let c = self.config;
        let (t, d, v) = (self.tokens, c.hidden_size as u64, c.vocab_size as u64);
        let (rows, n) = (self.targets.min(t), self.targets);
        let layers = self.layers.len();
        let cache = |tokens: usize| 2 * tokens as u64 * c.kv_dim() as u64 * self.stored;
        walk.take_as(Part::Cache, cache(pass.held) * layers as u64);
        // Positions, sample numbers, and the rotary table.
        walk.take(t * (8 + 4) + t * c.head_dim as u64 * self.wide);
        let mut x = walk.take(t * d * self.stored);
        for (i, layer) in self.layers.iter().enumerate() {
            let rows = if i + 1 == layers { rows } else { t };
            let y = self.infer(&mut walk, layer, rows, cache(pass.made));
            walk.give(x);
            x = y;
        }
        if pass.scores {
            walk.take(n * d * self.stored);
        }
        walk.take(n * d * self.stored + n * self.wide);
        walk.take(self.widened(n, d));
        walk.touch(self.panel(self.tables_trained, v, d));
        let rows = match pass.scores {
            true => (kernels::LOGITS_BYTES as u64 / (v * self.wide))
                .max(1)
                .min(n),
            // As they are, and as rows to choose from.
            false => 2 * n,
        };
        walk.take_as(Part::Logits, rows * v * self.wide);
        walk.peak
    }

    /// A group's outputs, taken. What a member keeps for a backward pass is let go at once.
    fn infer_group(&self, walk: &mut Walk, members: &[Linear], rows: u64, inputs: u64) -> u64 {
        let mut outputs = 0;
        for member in members {
            let made = self.group_forward(walk, std::slice::from_ref(member), rows, inputs);
            walk.give(made.low);
            outputs += made.outputs;
        }
        outputs
    }

    /// One layer over a live input; answers its output, taken. The keys and values that it makes stay.
    fn infer(&self, walk: &mut Walk, layer: &LayerLinears, rows: u64, cache: u64) -> u64 {
        let c = self.config;
        let t = self.tokens;
        let (d, f) = (c.hidden_size as u64, c.intermediate_size as u64);
        let q = c.q_dim() as u64;
        let mut held = walk.take(t * d * self.stored);
        held += self.infer_group(walk, &layer.qkv, t, d);
        if c.qk_norm {
            walk.touch(t * q * self.stored);
        }
        walk.take_as(Part::Cache, cache);
        let a = walk.take(t * q * self.stored);
        walk.touch(t * c.num_attention_heads as u64 * self.wide + self.attention_tasks());
        if rows < t {
            held += walk.take(rows * q * self.stored);
            walk.give(a);
            held += walk.take(rows * d * self.stored);
        } else {
            held += a;
        }
        held += self.infer_group(walk, &layer.o, rows, q);
        walk.touch(self.widened(rows, d));
        held += walk.take(rows * d * self.stored);
        let gate_up = self.infer_group(walk, &layer.gate_up, rows, d);
        held += walk.take(rows * f * self.stored);
        walk.give(gate_up);
        let down = self.infer_group(walk, &layer.down, rows, f);
        walk.touch(self.widened(rows, d));
        walk.give(held);
        down
    }
}
