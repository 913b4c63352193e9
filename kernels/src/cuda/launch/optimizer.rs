//! AdamW.

use super::{Arg, Float, Launch, PACK, THREADS, blocks, wide};
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

impl Weights {
    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Master => "master",
            Self::Stochastic(_) => "stochastic",
        }
    }

    /// The weights, the master copy, and the key's hash.
    fn args(self) -> [Arg; 3] {
        match self {
            Self::Exact => [Arg::Update(0), Arg::Absent, Arg::U64(0)],
            Self::Master => [Arg::Write(0), Arg::Update(1), Arg::U64(0)],
            Self::Stochastic(key) => [Arg::Update(0), Arg::Absent, Arg::U64(key_hash(key))],
        }
    }
}

/// The step's numbers, in the kernels' order; before them the scale on the device.
fn numbers(settings: &AdamW, step: u64, device_scale: Option<usize>) -> Vec<Arg> {
    let n: Numbers<f32> = Numbers::of(settings, step);
    let list = [
        n.scale, n.decay, n.rate, n.root, n.epsilon, n.beta1.0, n.beta1.1, n.beta2.0, n.beta2.1,
    ];
    let device_scale = device_scale.map_or(Arg::Absent, Arg::Read);
    std::iter::once(device_scale)
        .chain(list.map(Arg::F32))
        .collect()
}

/// One step of n weights by their gradients of type `g`, bit for bit [`crate::adamw_step`]. With `clipped` gradients are
/// multiplied by the number in a buffer after `settings.gradient_scale`.
///
/// Buffers: 0 weights, 1 master copy (f32; unused unless [`Weights::Master`]), 2 g, 3 m, 4 v (f32), 5 scale (1) f32.
pub fn adamw(
    weights: Weights,
    g: Float,
    n: usize,
    settings: &AdamW,
    step: u64,
    clipped: bool,
) -> Launch {
    let [p, master, key] = weights.args();
    let mut args = vec![p, master, Arg::Read(2), Arg::Update(3), Arg::Update(4)];
    args.extend(numbers(settings, step, clipped.then_some(5)));
    args.extend([key, wide(n)]);
    Launch::new(
        "adamw",
        format!("adamw_{}_{}", weights.name(), g.name()),
        [blocks(n, THREADS as usize * PACK), 1, 1],
        [THREADS, 1, 1],
        args,
    )
}

/// As [`adamw`], with moments in eight bits.
///
/// Buffers: 0 weights, 1 master copy, 2 g, 3 codes of m (n) u8, 4 absmax of m (n / 256, rounded up) f32, 5 codes of v,
/// 6 absmax of v, 7 [`eight_bit_tables`], 8 scale (1) f32.
pub fn adamw_8bit(
    weights: Weights,
    g: Float,
    n: usize,
    settings: &AdamW,
    step: u64,
    clipped: bool,
) -> Launch {
    /// Blocks of 256 that a thread block steps one after another, having read the tables once.
    const SOME: usize = 16;
    let [p, master, key] = weights.args();
    let mut args = vec![p, master, Arg::Read(2)];
    args.extend([3, 4, 5, 6].map(Arg::Update));
    args.push(Arg::Read(7));
    args.extend(numbers(settings, step, clipped.then_some(8)));
    args.extend([key, wide(n)]);
    Launch::new(
        "adamw_8bit",
        format!("adamw_8bit_{}_{}", weights.name(), g.name()),
        [blocks(n, BLOCK * SOME), 1, 1],
        [BLOCK as u32, 1, 1],
        args,
    )
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
