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
use crate::dropout::{column_hash, splitmix};
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
    /// Number of this part among those of [`CHUNK`] elements.
    part: u64,
}

impl<'a> StochasticSlice<'a> {
    pub(crate) fn new(stored: &'a mut [bf16], key: RoundingKey) -> Self {
        Self {
            stored,
            key,
            part: 0,
        }
    }

    /// 64 bits for this part.
    fn hash(&self) -> u64 {
        let RoundingKey {
            seed,
            step,
            parameter,
        } = self.key;
        // Another start than dropout's, so that equal numbers give other bits.
        [seed, step, parameter, self.part]
            .into_iter()
            .fold(0x726f_756e_6469_6e67, |state, part| {
                splitmix(state ^ splitmix(part))
            })
    }
}

impl Blocks<f32> for StochasticSlice<'_> {
    fn tasks(self) -> Vec<Self> {
        let key = self.key;
        let parts = self.stored.chunks_mut(CHUNK).enumerate();
        parts
            .map(|(part, stored)| Self {
                stored,
                key,
                part: part as u64,
            })
            .collect()
    }

    #[inline(always)]
    fn block(&mut self, elements: Range<usize>, step: impl FnOnce(&mut [f32])) {
        let hash = self.hash();
        let (low, high) = (hash as u32, (hash >> 32) as u32);
        let first = elements.start as u32;
        let stored = &mut self.stored[elements];
        let mut values = [0.0; BLOCK];
        let values = &mut values[..stored.len()];
        for (value, stored) in values.iter_mut().zip(&*stored) {
            *value = widen_bf16(stored.to_bits());
        }
        step(values);
        for (i, (stored, value)) in stored.iter_mut().zip(values).enumerate() {
            let random = column_hash(low, high, first.wrapping_add(i as u32)) >> 16;
            *stored = round(*value, random);
        }
    }
}

/// The bf16 below (towards zero) or above, by 16 random bits. An infinity or NaN stays what it is.
#[inline(always)]
fn round(value: f32, random: u32) -> bf16 {
    let bits = value.to_bits();
    let finite = (bits & 0x7f80_0000) != 0x7f80_0000;
    let rounded = bits.wrapping_add(if finite { random } else { 0 }) >> 16;
    // A NaN whose mark lies in the bits that are cut off would become an infinity.
    let nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
    bf16::from_bits((rounded | if nan { 0x40 } else { 0 }) as u16)
}
