//! Inverted dropout (Srivastava et al. 2014) whose mask is a function, not a state.
//!
//! An element is kept iff hash(seed, step, module, sample, position, column) is not below p·2³².
//! Where a sample lies in a pack, or on which thread it is computed, changes nothing, and the
//! backward pass is the same call on the gradient.

use crate::access::{self, dense, read};
use crate::real::{Real, Stored, with_stored};
use crate::simd::wide;
use crate::{Error, OpCase, Result};
use candle_core::Tensor;
use rayon::prelude::*;

/// What a mask depends on, beside the row and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Which module's mask.
    pub module: u64,
}

/// What each of T rows is: token `position` of sample `sample`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowIds {
    /// The sample's number in the data set.
    pub sample: Vec<u64>,
    /// The token's position in the sample.
    pub position: Vec<u32>,
}

/// Rows a task takes.
const ROWS: usize = 16;

/// x (T, D) with a share p of its elements set to zero and the rest divided by 1 - p.
pub fn dropout(x: &Tensor, p: f64, key: DropoutKey, rows: &RowIds) -> Result<Tensor> {
    const OP: &str = "dropout";
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Probability { p });
    }
    let (t, d) = access::dims2(OP, "x", x)?;
    for (what, found) in [
        ("rows.sample", rows.sample.len()),
        ("rows.position", rows.position.len()),
    ] {
        if found != t {
            return Err(Error::Length {
                op: OP,
                what,
                expected: t,
                found,
            });
        }
    }
    if p == 0.0 || d == 0 {
        return Ok(x.clone());
    }
    let threshold = threshold(p);
    with_stored!(OP, x.dtype(), S => {
        let x = dense(OP, x)?;
        let from = read::<S>(OP, &x)?;
        let from: &[S] = &from;
        let keep = <S as Stored>::Acc::of(1.0 / (1.0 - p));
        let mut y = vec![<S as candle_core::WithDType>::from_f64(0.0); from.len()];
        y.par_chunks_mut(ROWS * d).zip(from.par_chunks(ROWS * d)).enumerate().for_each(|(task, (y, x))| {
            for (i, (y, x)) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).enumerate() {
                let row = task * ROWS + i;
                let hash = row_hash(key, rows.sample[row], rows.position[row]);
                wide!(drop_row(y, x, hash, threshold, keep));
            }
        });
        access::tensor(y, x.shape())
    })
}

#[inline(always)]
fn drop_row<S: Stored>(y: &mut [S], x: &[S], hash: u64, threshold: u32, keep: S::Acc) {
    let (low, high) = (hash as u32, (hash >> 32) as u32);
    for (column, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let kept = column_hash(low, high, column as u32) >= threshold;
        *y = if kept {
            S::narrow(x.widen() * keep)
        } else {
            S::narrow(S::Acc::ZERO)
        };
    }
}

/// 64 bits for a row.
fn row_hash(key: DropoutKey, sample: u64, position: u32) -> u64 {
    mix_in(mix_in(key_hash(key), sample), u64::from(position))
}

/// What the hashes of all rows begin with.
pub(crate) fn key_hash(key: DropoutKey) -> u64 {
    let parts = [key.seed, key.step, key.module];
    parts.into_iter().fold(0x6d65_6474_756e_6500, mix_in)
}

/// Each part is mixed in by a round of SplitMix64 (Steele et al. 2014).
pub(crate) fn mix_in(state: u64, part: u64) -> u64 {
    splitmix(state ^ splitmix(part))
}

/// An element is dropped iff its hash is below this.
pub(crate) fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

fn splitmix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 32 bits for a column: two keyed rounds of a 32-bit mixer (Wellons' lowbias32), which
/// vectorises, as 64-bit products do not.
#[inline(always)]
pub(crate) fn column_hash(low: u32, high: u32, column: u32) -> u32 {
    mix32(mix32(column ^ low).wrapping_add(high))
}

#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    x = (x ^ (x >> 15)).wrapping_mul(0x735a_2d97);
    x ^ (x >> 15)
}

fn case_dropout(x: &Tensor) -> Result<Tensor> {
    let t = x.dim(0)?;
    let rows = RowIds {
        sample: (0..t as u64).map(|i| i / 4).collect(),
        position: (0..t as u32).map(|i| i % 4).collect(),
    };
    dropout(
        x,
        0.3,
        DropoutKey {
            seed: 1,
            step: 2,
            module: 3,
        },
        &rows,
    )
}

/// The reference multiplies by the mask that ones give; what the mask is, other tests say.
pub(crate) const CASE: OpCase = OpCase {
    name: "dropout",
    shapes: &[&[&[5, 123]], &[&[130, 300]]],
    run: |inputs, dy| {
        let y = case_dropout(&inputs[0])?;
        Ok((y, dy.map(case_dropout).transpose()?.into_iter().collect()))
    },
    reference: |inputs| {
        let mask = case_dropout(&inputs[0].ones_like()?).map_err(candle_core::Error::wrap)?;
        &inputs[0] * mask
    },
};
