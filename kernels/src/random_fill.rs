//! Random numbers in the place of weights, so that a model whose weights are not there can be run and timed.
//!
//! A number is a function of the seed and of its place, not of a state: any part of a list can be filled alone, by any
//! number of threads, on any device, and a GPU gives the processor's bits. So the layers of a model too large for the
//! host's memory are filled where they lie.

use crate::access::{CHUNK, mutate};
use crate::cuda::ops;
use crate::dropout::{column_hash, mix_in};
use crate::real::Stored;
use crate::simd::wide;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uniform {
    /// Another seed, other numbers.
    pub seed: u64,
    /// Place of the first one in the endless list that the seed stands for: parts of one list are filled as the whole
    /// would be, and tensors that must differ take places that do not overlap.
    pub offset: u64,
    /// Numbers lie between minus this and this, and their standard deviation is this / √3.
    pub scale: f32,
}

/// Fills a dense f32 or bf16 tensor: number i is scale · u(seed, offset + i), where u is one of the 2^24 odd multiples of
/// 2^-24 in (-1, 1), each as likely as another. Their mean is 0, and none of them is 0.
///
/// # Errors
/// Another type, or a strided view.
pub fn fill_uniform(out: &mut Tensor, uniform: Uniform) -> Result<()> {
    const OP: &str = "fill_uniform";
    if out.device().is_cuda() {
        return ops::fill_uniform(out, uniform);
    }
    match out.dtype() {
        DType::F32 => mutate::<f32, _>(OP, out, |out| {
            fill(out, uniform);
            Ok(())
        }),
        DType::BF16 => mutate::<bf16, _>(OP, out, |out| {
            fill(out, uniform);
            Ok(())
        }),
        found => Err(Error::Type {
            op: OP,
            found,
            expected: "f32 or bf16",
        }),
    }
}

/// What the hashes of all parts begin with.
pub(crate) fn key_hash(seed: u64) -> u64 {
    // Another start than dropout's and rounding's, so that equal seeds give other bits.
    mix_in(0x7765_6967_6874_7300, seed)
}

fn fill<S: Stored<Acc = f32>>(out: &mut [S], uniform: Uniform) {
    let key = key_hash(uniform.seed);
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(task, out)| {
            // Places count modulo 2^64, as on a device.
            let mut place = uniform.offset.wrapping_add((task * CHUNK) as u64);
            let mut rest = out;
            while !rest.is_empty() {
                // What lies in one part shares a hash.
                let column = (place % CHUNK as u64) as usize;
                let (some, after) = rest.split_at_mut(rest.len().min(CHUNK - column));
                let hash = mix_in(key, place / CHUNK as u64);
                place = place.wrapping_add(some.len() as u64);
                wide!(fill_part(some, hash, column as u32, uniform.scale));
                rest = after;
            }
        });
}

#[inline(always)]
fn fill_part<S: Stored<Acc = f32>>(out: &mut [S], hash: u64, first: u32, scale: f32) {
    let (low, high) = (hash as u32, (hash >> 32) as u32);
    for (out, column) in out.iter_mut().zip(first..) {
        *out = S::narrow(symmetric(column_hash(low, high, column)) * scale);
    }
}

/// The upper 24 of 32 bits, as an odd multiple of 2^-24 between -1 and 1: exact in f32.
#[inline(always)]
fn symmetric(bits: u32) -> f32 {
    const UNIT: f32 = 1.0 / 16_777_216.0;
    ((bits.cast_signed() >> 7) | 1) as f32 * UNIT
}
