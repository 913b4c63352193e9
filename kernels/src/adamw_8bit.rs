//! Numbers in eight bits, a scale every 256: the form of AdamW's moments in
//! "8-bit Optimizers via Block-wise Quantization" (Dettmers et al. 2021, arXiv 2110.02861).
//!
//! A number is the product of its block's largest magnitude and the nearest entry of a map of 256
//! values: seven decades from 1e-7 to 1, of which each has twice the entries of the one below
//! (bitsandbytes' `create_dynamic_map`). Of two entries that are equally near, the lower is taken.

use crate::access::{CHUNK, mutate};
use crate::adamw::{BLOCK, Blocks};
use crate::simd;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::sync::LazyLock;

/// Which numbers a map can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicMap {
    /// -0.993 to 1: for the mean gradient.
    Signed,
    /// 0 to 1, twice as fine: for the mean squared gradient.
    Unsigned,
}

/// Numbers in eight bits.
#[derive(Clone, Debug)]
pub struct Blockwise {
    /// (n), u8: an index into the map.
    pub codes: Tensor,
    /// (ceil(n / 256)), f32: the largest magnitude of each block.
    pub absmax: Tensor,
    map: DynamicMap,
}

impl Blockwise {
    /// `elements` zeros.
    pub fn zeros(elements: usize, map: DynamicMap) -> Result<Self> {
        let codes = Tensor::full(map.tables().zero, elements, &Device::Cpu)?;
        let absmax = Tensor::zeros(elements.div_ceil(BLOCK), DType::F32, &Device::Cpu)?;
        Ok(Self { codes, absmax, map })
    }

    /// Which map the codes are of.
    pub fn map(&self) -> DynamicMap {
        self.map
    }

    pub(crate) fn check(&self, op: &'static str, what: &'static str, n: usize) -> Result<()> {
        let lengths = [
            (self.codes.elem_count(), n),
            (self.absmax.elem_count(), n.div_ceil(BLOCK)),
        ];
        for (found, expected) in lengths {
            if found != expected {
                return Err(Error::Length {
                    op,
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn mutate<R>(
        &self,
        op: &'static str,
        body: impl FnOnce(BlockwiseSlice<'_>) -> Result<R>,
    ) -> Result<R> {
        mutate::<u8, _>(op, &self.codes, |codes| {
            mutate::<f32, _>(op, &self.absmax, |absmax| {
                body(BlockwiseSlice {
                    codes,
                    absmax,
                    tables: self.map.tables(),
                })
            })
        })
    }
}

/// Eight-bit numbers under their locks.
pub(crate) struct BlockwiseSlice<'a> {
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
    tables: &'static Tables,
}

impl Blocks<f32> for BlockwiseSlice<'_> {
    fn tasks(self) -> Vec<Self> {
        let tables = self.tables;
        let parts = self.codes.chunks_mut(CHUNK);
        parts
            .zip(self.absmax.chunks_mut(CHUNK / BLOCK))
            .map(|(codes, absmax)| Self {
                codes,
                absmax,
                tables,
            })
            .collect()
    }

    #[inline(always)]
    fn load(&self, elements: Range<usize>, into: &mut [f32; BLOCK]) {
        let (values, absmax) = (&self.tables.values, self.absmax[elements.start / BLOCK]);
        for (into, code) in into.iter_mut().zip(&self.codes[elements]) {
            *into = values[usize::from(*code)] * absmax;
        }
    }

    #[inline(always)]
    fn store(&mut self, elements: Range<usize>, from: &[f32; BLOCK]) {
        let n = elements.len();
        let absmax = simd::largest_magnitude(&from[..n]);
        self.absmax[elements.start / BLOCK] = absmax;
        // A block of zeros stays one.
        let scale = absmax.max(f32::MIN_POSITIVE);
        let mut shares = [0.0; BLOCK];
        for i in 0..BLOCK {
            shares[i] = from[i] / scale;
        }
        let (lowest, upper): (&[u8; 1 << 16], &[f32; 256]) =
            (&self.tables.lowest, &self.tables.upper);
        for (code, share) in self.codes[elements].iter_mut().zip(&shares) {
            let low = lowest[(share.to_bits() >> 16) as usize];
            *code = low + u8::from(*share > upper[usize::from(low)]);
        }
    }
}

/// A map, and what finds the nearest entry with two loads and a comparison.
struct Tables {
    /// The entries, ascending.
    values: [f32; 256],
    /// The midpoint between an entry and the next; infinity for the last.
    upper: [f32; 256],
    /// By the upper 16 bits of an f32: the entry nearest to the lowest number with these bits. The
    /// others have the same or the next one: no two midpoints lie as close as 2^-8 of their value.
    lowest: Box<[u8; 1 << 16]>,
    /// The entry that is zero.
    zero: u8,
}

impl DynamicMap {
    /// The 256 values, ascending.
    pub fn values(self) -> &'static [f32; 256] {
        &self.tables().values
    }

    /// The midpoint between each value and the next, and infinity: a number belongs to the first value whose bound is not
    /// below it.
    pub(crate) fn upper_bounds(self) -> &'static [f32; 256] {
        &self.tables().upper
    }

    fn tables(self) -> &'static Tables {
        static SIGNED: LazyLock<Tables> = LazyLock::new(|| Tables::new(DynamicMap::Signed));
        static UNSIGNED: LazyLock<Tables> = LazyLock::new(|| Tables::new(DynamicMap::Unsigned));
        match self {
            Self::Signed => &SIGNED,
            Self::Unsigned => &UNSIGNED,
        }
    }
}

impl Tables {
    fn new(map: DynamicMap) -> Self {
        let mut values = Vec::with_capacity(256);
        for decade in 0..7 {
            let items = match map {
                DynamicMap::Signed => 1 << decade,
                DynamicMap::Unsigned => 2 << decade,
            };
            let scale = 10f64.powi(decade - 6) as f32;
            let bounds = linspace(0.1, 1.0, items + 1);
            for pair in bounds.windows(2) {
                let value = scale * ((pair[0] + pair[1]) / 2.0);
                values.push(value);
                if map == DynamicMap::Signed {
                    values.push(-value);
                }
            }
        }
        values.extend([0.0, 1.0]);
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = std::array::from_fn(|i| values[i]);
        let upper: [f32; 256] = std::array::from_fn(|i| match values.get(i + 1) {
            Some(next) => (values[i] + next) / 2.0,
            None => f32::INFINITY,
        });
        let nearest = |x: f32| upper[..255].partition_point(|bound| *bound < x) as u8;
        let lowest = (0..1u32 << 16).map(|key| {
            // Of negative numbers the one with the largest magnitude is the lowest.
            let rest = if key >> 15 == 1 { 0xffff } else { 0 };
            nearest(f32::from_bits(key << 16 | rest))
        });
        let lowest: Box<[u8]> = lowest.collect();
        Self {
            values,
            upper,
            lowest: lowest.try_into().expect("a table of 2^16 entries"),
            zero: nearest(0.0),
        }
    }
}

/// `count` numbers from `start` to `end` as torch's `linspace` makes them in f32: each half is
/// counted from its own end, with one rounding.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => step.mul_add(-((count - 1 - i) as f32), end),
        })
        .collect()
}
