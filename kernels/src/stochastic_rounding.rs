//! Rounding f32 to bf16 up or down at random, so that the mean of the outcomes is the number itself.
//!
//! A weight in bf16 has eight significant bits: an update below a 512th of it would be lost by
//! rounding to nearest, every time. With the low 16 bits taken as a probability it is applied in
//! the right share of steps (Gupta et al. 2015, arXiv 1502.02551; for Adam in bf16, Zamirai et al.
//! 2020, arXiv 2010.06192).
//!
//! The random bits are a function of seed, step, parameter and element: threads change nothing, and
//! a run that goes on from a checkpoint draws what it would have drawn.

use crate::access::CHUNK;
use crate::adamw::{BLOCK, Blocks};
use crate::dropout::{column_hash, mix_in};
use crate::real::widen_bf16;
use half::bf16;
use std::ops::Range;

/// What a rounding depends on, beside the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundingKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Which parameter.
    pub parameter: u64,
}

/// bf16 weights that take updates by stochastic rounding.
pub(crate) struct StochasticSlice<'a> {
    stored: &'a mut [bf16],
    key: RoundingKey,
    /// 64 bits for this part of [`CHUNK`] elements, in halves.
    hash: (u32, u32),
}

impl<'a> StochasticSlice<'a> {
    pub(crate) fn new(stored: &'a mut [bf16], key: RoundingKey) -> Self {
        Self::part(stored, key, 0)
    }

    fn part(stored: &'a mut [bf16], key: RoundingKey, part: u64) -> Self {
        let hash = mix_in(key_hash(key), part);
        Self {
            stored,
            key,
            hash: (hash as u32, (hash >> 32) as u32),
        }
    }
}

/// What the hashes of all parts begin with.
pub(crate) fn key_hash(key: RoundingKey) -> u64 {
    // Another start than dropout's, so that equal numbers give other bits.
    let parts = [key.seed, key.step, key.parameter];
    parts.into_iter().fold(0x726f_756e_6469_6e67, mix_in)
}

impl Blocks<f32> for StochasticSlice<'_> {
    fn tasks(self) -> Vec<Self> {
        let key = self.key;
        let parts = (0..).zip(self.stored.chunks_mut(CHUNK));
        parts
            .map(|(part, stored)| StochasticSlice::part(stored, key, part))
            .collect()
    }

    #[inline(always)]
    fn load(&self, elements: Range<usize>, into: &mut [f32; BLOCK]) {
        for (into, stored) in into.iter_mut().zip(&self.stored[elements]) {
            *into = widen_bf16(stored.to_bits());
        }
    }

    #[inline(always)]
    fn store(&mut self, elements: Range<usize>, from: &[f32; BLOCK]) {
        let ((low, high), first) = (self.hash, elements.start as u32);
        let mut rounded = [0u16; BLOCK];
        for i in 0..BLOCK {
            let random = column_hash(low, high, first.wrapping_add(i as u32)) >> 16;
            rounded[i] = round(from[i], random);
        }
        for (stored, rounded) in self.stored[elements].iter_mut().zip(rounded) {
            *stored = bf16::from_bits(rounded);
        }
    }
}

/// Bits of the bf16 below (towards zero) or above, by 16 random bits. An infinity or NaN stays what it is.
#[inline(always)]
fn round(value: f32, random: u32) -> u16 {
    let bits = value.to_bits();
    let finite = (bits & 0x7f80_0000) != 0x7f80_0000;
    let rounded = bits.wrapping_add(if finite { random } else { 0 }) >> 16;
    // A NaN whose mark lies in the bits that are cut off would become an infinity.
    let nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
    (rounded | if nan { 0x40 } else { 0 }) as u16
}
