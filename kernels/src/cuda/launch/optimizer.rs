//! AdamW over many parameters: a table with a row for each, and one launch over all of them.

use super::{Arg, Float, Launch, THREADS, blocks, narrow};
use crate::adamw::{BLOCK, Numbers};
use crate::stochastic_rounding::key_hash;
use crate::{AdamW, DynamicMap, RoundingKey};

/// How weights take their update: [`crate::Keep`] on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// f32.
    Exact,
    /// bf16, rounded from an f32 master copy.
    Master,
    /// bf16, rounded at random.
    Stochastic(RoundingKey),
}

/// Addresses in the device's memory; 0 for what a parameter has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Weights.
    pub p: u64,
    /// Master copy, f32: under [`Weights::Master`].
    pub master: u64,
    /// Gradient.
    pub g: u64,
    /// Mean gradient: f32, or codes u8.
    pub m: u64,
    /// Mean squared gradient: f32, or codes u8.
    pub v: u64,
    /// With moments in eight bits, the scales of m (n / 256, rounded up) f32.
    pub m_absmax: u64,
    /// Those of v.
    pub v_absmax: u64,
    /// (1) f32: what the gradient is multiplied by after `settings.gradient_scale`. NaN leaves the parameter as it is.
    pub scale: u64,
}

/// A parameter, and what its step takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// How it is kept.
    pub weights: Weights,
    /// How its gradient is.
    pub g: Float,
    /// Elements.
    pub n: usize,
    /// The step's numbers.
    pub settings: AdamW,
    /// Where all of it lies.
    pub at: Addresses,
}

/// Elements of a parameter that a block of threads takes at a time; `PIECE` in `adamw.cuh`.
const PIECE: usize = 8192;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// The `step`th step of these parameters, one at least, by their gradients: bit for bit [`crate::adamw_step`] of each, whose
/// moments are f32. With it comes the table of them, which is to be in the device's memory.
///
/// Buffers: 0 the table.
pub fn adamw(parameters: &[Stepped], step: u64) -> (Vec<u64>, Launch) {
    launch("adamw", parameters, step, &[])
}

/// As [`adamw`], with moments in eight bits.
///
/// Buffers: 0 the table, 1 [`eight_bit_tables`].
pub fn adamw_8bit(parameters: &[Stepped], step: u64) -> (Vec<u64>, Launch) {
    launch("adamw_8bit", parameters, step, &[Arg::Read(1)])
}

fn launch(
    kernel: &'static str,
    parameters: &[Stepped],
    step: u64,
    more: &[Arg],
) -> (Vec<u64>, Launch) {
    let (mut table, mut pieces) = (Vec::new(), 0);
    for parameter in parameters {
        pieces += parameter.n.div_ceil(PIECE);
        table.extend(parameter.row(pieces, step));
    }
    let mut args = vec![Arg::Read(0), Arg::U32(narrow(parameters.len()))];
    args.extend(more);
    let launch = Launch::new(
        kernel,
        kernel.into(),
        [blocks(pieces, 1), 1, 1],
        [THREADS, 1, 1],
        args,
    );
    (table, launch)
}

impl Stepped {
    /// `Parameter` of `adamw.cuh`; `end` counts pieces up to its last.
    fn row(&self, end: usize, step: u64) -> [u64; 16] {
        let (form, key) = match self.weights {
            Weights::Exact => (0, 0),
            Weights::Master => (2, 0),
            Weights::Stochastic(key) => (4, key_hash(key)),
        };
        let kind = form + u32::from(self.g == Float::Bf16);
        let n: Numbers<f32> = Numbers::of(&self.settings, step);
        let pair = |low: u32, high: f32| u64::from(low) | u64::from(high.to_bits()) << 32;
        let two = |low: f32, high: f32| pair(low.to_bits(), high);
        let at = &self.at;
        [
            at.p,
            at.master,
            at.g,
            at.m,
            at.v,
            at.m_absmax,
            at.v_absmax,
            at.scale,
            key,
            self.n as u64,
            end as u64,
            pair(kind, n.scale),
            two(n.decay, n.rate),
            two(n.root, n.epsilon),
            two(n.beta1.0, n.beta1.1),
            two(n.beta2.0, n.beta2.1),
        ]
    }
}

/// (4, 256) f32: values and upper bounds of the signed map, then of the unsigned one. The same for every step.
pub fn eight_bit_tables() -> Vec<f32> {
    let tables = |map: DynamicMap| [*map.values(), *map.upper_bounds()];
    [DynamicMap::Signed, DynamicMap::Unsigned]
        .into_iter()
        .flat_map(tables)
        .flatten()
        .collect()
}
