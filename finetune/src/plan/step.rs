//! What one micro-batch takes and gives back, in the order of the forward and the backward pass.
//!
//! The passes are walked as `decoder.rs`, `layer.rs` and `adapters::LinearGroup` go, block by block, counting bytes
//! instead of computing: the largest sum is the peak. Shapes in comments: T tokens, R rows that the last layer needs,
//! N targets, D model, F MLP.

use super::WeightsRead;
use super::layout::{LayerLinears, Linear};
use super::walk::{Part, StepMemory, Walk};
use crate::config::DecoderConfig;
use crate::recipe::Recompute;

/// What a walk needs to know.
#[derive(Clone, Copy)]
pub(super) struct StepShape<'a> {
    pub config: &'a DecoderConfig,
    pub layers: &'a [LayerLinears],
    /// T.
    pub tokens: u64,
    /// N.
    pub targets: u64,
    /// Numbers that are trained.
    pub trained: u64,
    /// Bytes of a stored activation.
    pub stored: u64,
    /// Bytes of a number that is computed with: 4, or 8.
    pub wide: u64,
    /// How the frozen weights are read.
    pub frozen: WeightsRead,
    /// Whether the trained weights are of the computing type.
    pub trained_are_wide: bool,
    pub dropout: bool,
    pub recompute: Recompute,
    /// Whether norms and biases are trained.
    pub norms_trained: bool,
    /// Whether the embedding and the head are.
    pub tables_trained: bool,
    /// Where gradients go.
    pub gradients: GradientsKept,
}

/// How long a gradient stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GradientsKept {
    /// Until the step: this is the step's only micro-batch.
    FromFirst,
    /// Until the step, added up over micro-batches: all of them are there when the last one's come.
    FromBefore,
    /// Only until it is whole, and applied: a tied table's from the head to the end.
    PerLayer,
}

/// What a group's forward pass leaves behind.
pub(super) struct Grouped {
    pub outputs: u64,
    /// The low-rank products, kept for the backward pass.
    pub low: u64,
}

/// What a layer keeps, by the order in which the backward pass lets go of it.
#[derive(Clone, Copy, Default)]
struct Kept {
    mlp: u64,
    swiglu: u64,
    post_norm: u64,
    gate_up: u64,
    attention_out: u64,
    attention: u64,
    qkv: u64,
    input: u64,
}

impl Kept {
    fn total(&self) -> u64 {
        self.mlp
            + self.swiglu
            + self.post_norm
            + self.gate_up
            + self.attention_out
            + self.attention
            + self.qkv
            + self.input
    }
}

/// Layers whose inputs are in a GPU's memory while they are copied out of it (kernels' `ON_THEIR_WAY`).
const ON_THEIR_WAY: usize = 2;

/// Rows of the weight that are widened at a time, for a weight of another type (kernels' `PANEL_BYTES`).
const PANEL_BYTES: u64 = 1 << 20;

impl StepShape<'_> {
    /// Walks through a micro-batch.
    pub(super) fn memory(&self) -> StepMemory {
        let mut walk = Walk::default();
        let c = self.config;
        if self.gradients == GradientsKept::FromBefore {
            walk.take_as(Part::Gradients, self.trained * self.wide);
        }
        let (t, d) = (self.tokens, c.hidden_size as u64);
        let rows = self.rows();
        let last = self.layers.len() - 1;
        // Positions, sample numbers, and the rotary table.
        let prepared = t * (8 + 4) + t * c.head_dim as u64 * self.wide;
        walk.take(prepared);

        let mut x = walk.take(t * d * self.stored);
        let mut kept: Vec<Kept> = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let rows = if i == last { rows } else { t };
            let (y, saved) = self.forward(&mut walk, layer, rows);
            if self.keeps_inputs_alone() {
                walk.give(saved.total());
                kept.push(Kept {
                    input: x,
                    ..Kept::default()
                });
            } else {
                kept.push(Kept {
                    input: saved.input + x,
                    ..saved
                });
            }
            walk.keep(kept[i].total());
            if self.recompute == Recompute::Offload && i >= ON_THEIR_WAY {
                walk.put_away(kept[i - ON_THEIR_WAY].total());
            }
            x = y;
        }
        self.head(&mut walk, x);
        let mut dx = walk.take(rows * d * self.wide);
        if self.recompute == Recompute::Offload {
            let still_here = kept.iter().rev().take(ON_THEIR_WAY);
            still_here.for_each(|kept| walk.put_away(kept.total()));
            walk.take(kept[last].total());
        }
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let rows = if i == last { rows } else { t };
            if self.recompute != Recompute::Offload {
                walk.release(kept[i].total());
            } else if i > 0 {
                // The next one is on its way back.
                walk.take(kept[i - 1].total());
            }
            let mut kept = kept[i];
            if self.keeps_inputs_alone() {
                let (y, again) = self.forward(&mut walk, layer, rows);
                // The layer's output is made again too, and not read.
                walk.give(y);
                kept = Kept {
                    input: again.input + kept.input,
                    ..again
                };
            }
            let need_dx = i > 0 || self.tables_trained;
            dx = self.backward(&mut walk, layer, kept, dx, rows, need_dx);
        }
        let table = c.vocab_size as u64 * d;
        if self.tables_trained && self.tied_gradient_waits() {
            // The head's gradient is there, and this is added to it.
            walk.touch(table * self.wide);
        } else if self.tables_trained {
            self.gradient(&mut walk, table);
        }
        walk.peak
    }

    /// Whether the backward pass starts a layer from its input.
    fn keeps_inputs_alone(&self) -> bool {
        matches!(self.recompute, Recompute::Full | Recompute::Offload)
    }

    /// Whether the head's gradient stays until the embedding's is added to it.
    fn tied_gradient_waits(&self) -> bool {
        self.config.tie_word_embeddings && self.gradients != GradientsKept::FromBefore
    }

    /// R: all rows, or those that predict a target.
    fn rows(&self) -> u64 {
        self.targets.min(self.tokens)
    }

    fn is_wide(&self) -> bool {
        self.stored == self.wide
    }

    /// A copy (rows, width) in the computing type, where what is stored is of another.
    pub(super) fn widened(&self, rows: u64, width: u64) -> u64 {
        if self.is_wide() {
            0
        } else {
            rows * width * self.wide
        }
    }

    /// The buffer for a weight (rows, columns) of another type than is computed in.
    pub(super) fn panel(&self, trained: bool, rows: u64, columns: u64) -> u64 {
        let read = match (trained, self.trained_are_wide) {
            (true, true) => WeightsRead::InPlace,
            (true, false) => WeightsRead::Panels,
            (false, _) => self.frozen,
        };
        match read {
            WeightsRead::InPlace => 0,
            WeightsRead::Panels => PANEL_BYTES.min(rows * columns * self.wide),
            WeightsRead::Whole => rows * columns * self.stored,
        }
    }

    /// A gradient of a trained tensor: it stays, or is added to one that is there.
    fn gradient(&self, walk: &mut Walk, elements: u64) {
        let bytes = walk.take_as(Part::Gradients, elements * self.wide);
        if self.gradients != GradientsKept::FromFirst {
            walk.give_as(Part::Gradients, bytes);
        }
    }

    pub(super) fn group_forward(
        &self,
        walk: &mut Walk,
        members: &[Linear],
        rows: u64,
        inputs: u64,
    ) -> Grouped {
        let adapted = members.iter().any(|m| m.rank > 0);
        let wide = walk.take(if adapted {
            self.widened(rows, inputs)
        } else {
            0
        });
        let mut made = Grouped { outputs: 0, low: 0 };
        for member in members {
            let x = walk.take(self.widened(rows, inputs));
            let y = walk.take(rows * member.outputs * self.wide);
            walk.touch(self.panel(member.trained, member.outputs, inputs));
            walk.give(x);
            if member.rank > 0 {
                let dropped = if self.dropout {
                    rows * inputs * self.wide
                } else {
                    0
                };
                walk.take(dropped);
                made.low += walk.take(rows * member.rank * self.wide);
                if member.dora {
                    walk.touch(self.read_for_norms(member, inputs));
                    made.low += self.dora_forward(walk, rows * member.outputs);
                }
                walk.give(dropped);
            }
            if self.is_wide() {
                made.outputs += y;
            } else {
                made.outputs += walk.take(rows * member.outputs * self.stored);
                walk.give(y);
            }
        }
        walk.give(wide);
        made
    }

    /// A GPU's kernel for the lengths of DoRA's rows reads a quantized weight made dense, in f32.
    fn read_for_norms(&self, member: &Linear, inputs: u64) -> u64 {
        match self.frozen {
            WeightsRead::Whole => member.outputs * inputs * self.wide,
            _ => 0,
        }
    }

    /// What DoRA keeps of an output of so many numbers: the output before its factors. The base's product is the other
    /// one, whichever of the two that is.
    fn dora_forward(&self, walk: &mut Walk, numbers: u64) -> u64 {
        let second = walk.take(numbers * self.wide);
        if self.dropout {
            walk.touch(numbers * self.wide);
        }
        if self.is_wide() {
            return second;
        }
        let kept = walk.take(numbers * self.stored);
        walk.give(second);
        kept
    }

    /// The gradients of a group; answers dx (rows, inputs), taken.
    fn group_backward(
        &self,
        walk: &mut Walk,
        members: &[Linear],
        rows: u64,
        inputs: u64,
        need_dx: bool,
    ) -> u64 {
        let reads_input = members.iter().any(|m| m.rank > 0 || m.trained);
        let x = walk.take(if reads_input {
            self.widened(rows, inputs)
        } else {
            0
        });
        let full = rows * inputs * self.wide;
        let mut dx = 0;
        for member in members {
            let scaled = rows * member.outputs * self.wide;
            let scaled = walk.take(if member.dora { scaled } else { 0 });
            if need_dx {
                let through = walk.take(full);
                walk.touch(self.panel(member.trained, member.outputs, inputs));
                if dx == 0 {
                    dx = through;
                } else {
                    walk.give(through);
                }
            }
            if member.trained {
                self.gradient(walk, member.outputs * inputs);
            }
            if member.rank > 0 {
                let g = walk.take(rows * member.rank * self.wide);
                walk.touch(if self.dropout { full } else { 0 });
                self.gradient(walk, member.rank * (inputs + member.outputs));
                if need_dx && self.dropout {
                    walk.touch(2 * full + scaled);
                }
                walk.give(g);
            }
            walk.give(scaled);
        }
        walk.give(x);
        dx
    }

    /// One layer's forward pass over a live input; answers its output, taken, and what it keeps besides the input.
    fn forward(&self, walk: &mut Walk, layer: &LayerLinears, rows: u64) -> (u64, Kept) {
        let c = self.config;
        let t = self.tokens;
        let (d, f) = (c.hidden_size as u64, c.intermediate_size as u64);
        let (q, kv) = (c.q_dim() as u64, c.kv_dim() as u64);
        let lean = self.recompute == Recompute::Selective;
        let mut kept = Kept {
            input: walk.take(t * self.wide),
            ..Kept::default()
        };

        let h = walk.take(t * d * self.stored);
        let qkv = self.group_forward(walk, &layer.qkv, t, d);
        kept.qkv = qkv.low + self.input_kept(walk, &layer.qkv, h, lean);
        kept.attention = qkv.outputs;
        if c.qk_norm {
            // The projections stay for the norms' backward pass, their normalised copies for the attention's.
            kept.attention += walk.take((q + kv) * t * self.stored);
            kept.attention += walk.take((q + kv) / c.head_dim as u64 * t * self.wide);
        }
        kept.attention += walk.take(t * q * self.stored);
        kept.attention += walk.take(t * c.num_attention_heads as u64 * self.wide);
        walk.touch(self.attention_tasks());
        let all = rows == t;
        let a = if all {
            0
        } else {
            walk.take(rows * q * self.stored)
        };
        let x = if all {
            0
        } else {
            walk.take(rows * d * self.stored)
        };
        let o = self.group_forward(walk, &layer.o, rows, q);
        kept.attention_out = o.low + self.input_kept(walk, &layer.o, a, false);
        let x1 = o.outputs;

        kept.post_norm = x1 + walk.take(rows * self.wide);
        let h = walk.take(rows * d * self.stored);
        walk.give(x);
        let gate_up = self.group_forward(walk, &layer.gate_up, rows, d);
        kept.gate_up = gate_up.low + self.input_kept(walk, &layer.gate_up, h, lean);
        kept.swiglu = gate_up.outputs;
        let m = walk.take(rows * f * self.stored);
        let down = self.group_forward(walk, &layer.down, rows, f);
        kept.mlp = down.low + self.input_kept(walk, &layer.down, m, lean);
        walk.touch(self.widened(rows, d));
        (down.outputs, kept)
    }

    /// What stays of a group's input: all of it where something reads it again, unless it can be made again.
    fn input_kept(&self, walk: &mut Walk, members: &[Linear], input: u64, lean: bool) -> u64 {
        if !lean && members.iter().any(|m| m.rank > 0 || m.trained) {
            return input;
        }
        walk.give(input);
        0
    }

    /// Copies of keys, values, queries and outputs that the attention's tasks make, for two tasks at a time.
    pub(super) fn attention_tasks(&self) -> u64 {
        let c = self.config;
        let group = (c.num_attention_heads / c.num_key_value_heads) as u64;
        2 * self.tokens * c.head_dim as u64 * self.wide * (2 + 2 * group).min(6)
    }

    /// Loss and gradient of the last rows; gives x back. dx is taken by the caller.
    fn head(&self, walk: &mut Walk, x: u64) {
        let c = self.config;
        let (n, d, v) = (self.targets, c.hidden_size as u64, c.vocab_size as u64);
        let gathered = walk.take(n * d * self.stored);
        let h = walk.take(n * d * self.stored + n * self.wide);
        walk.give(x);
        let wide = walk.take(self.widened(n, d));
        let dh = walk.take(n * d * self.wide);
        if self.tables_trained && self.tied_gradient_waits() {
            walk.take_as(Part::Gradients, v * d * self.wide);
        } else if self.tables_trained {
            self.gradient(walk, v * d);
        }
        let rows = (kernels::LOGITS_BYTES as u64 / (v * self.wide))
            .max(1)
            .min(n);
        let logits = walk.take_as(Part::Logits, rows * v * self.wide);
        walk.touch(self.panel(self.tables_trained, v, d));
        walk.give_as(Part::Logits, logits);
        walk.give(wide + h);
        let dx_rows = walk.take(n * d * self.wide);
        walk.give(gathered);
        walk.touch(self.rows() * d * self.wide);
        walk.give(dx_rows + dh);
    }

    /// One layer's backward pass; gives back what it kept and dy, answers dx, taken.
    fn backward(
        &self,
        walk: &mut Walk,
        layer: &LayerLinears,
        kept: Kept,
        dy: u64,
        rows: u64,
        need_dx: bool,
    ) -> u64 {
        let c = self.config;
        let t = self.tokens;
        let (d, f) = (c.hidden_size as u64, c.intermediate_size as u64);
        let (q, kv) = (c.q_dim() as u64, c.kv_dim() as u64);
        let lean = self.recompute == Recompute::Selective;
        let again = |walk: &mut Walk, bytes: u64| if lean { walk.take(bytes) } else { 0 };

        let m = again(walk, rows * f * self.stored);
        let dm = self.group_backward(walk, &layer.down, rows, f, true);
        walk.give(kept.mlp + m);
        let d_gate_up = walk.take(2 * rows * f * self.wide);
        walk.give(kept.swiglu + dm);
        let h = again(walk, rows * d * self.stored);
        let dh = self.group_backward(walk, &layer.gate_up, rows, d, true);
        walk.give(kept.gate_up + h + d_gate_up);
        // It takes the place of dy.
        let dx1 = dy;
        walk.give(kept.post_norm + dh);

        let da = self.group_backward(walk, &layer.o, rows, q, true);
        walk.give(kept.attention_out);
        let (da, dx1) = if rows == t {
            (da, dx1)
        } else {
            let whole = (walk.take(t * q * self.wide), walk.take(t * d * self.wide));
            walk.give(da + dx1);
            whole
        };
        let dqkv = walk.take(t * (q + 2 * kv) * self.wide);
        walk.touch(self.attention_tasks() + self.partial_keys(kv));
        walk.give(kept.attention + da);
        let h = again(walk, t * d * self.stored);
        let need_dh = need_dx || self.norms_trained;
        let dh = self.group_backward(walk, &layer.qkv, t, d, need_dh);
        walk.give(kept.qkv + h + dqkv);
        if !need_dh {
            walk.give(kept.input + dx1);
            return 0;
        }
        walk.give(kept.input + dh);
        dx1
    }

    /// Where few tasks would be left, the query heads of a group have keys' gradients of their own, added up at the end.
    fn partial_keys(&self, kv: u64) -> u64 {
        let group = (self.config.num_attention_heads / self.config.num_key_value_heads) as u64;
        2 * self.tokens * kv * group * self.wide
    }
}
