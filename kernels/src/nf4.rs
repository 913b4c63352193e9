//! NF4: a weight in blocks of 64 four-bit codes and a scale (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), laid out as
//! bitsandbytes lays it out (`functional.quantize_4bit`), so that its checkpoints are read where they lie.
//!
//! A block's values are `code · absmax`. With double quantization a block's absmax is a byte too: 256 of them share an
//! absmax of their own, `absmax = map[byte] · nested_absmax + offset`, each step rounded to f32 as bitsandbytes does.
//! Blocks are cut from the flattened tensor, so one may straddle two rows.

mod quantize;

pub use quantize::dynamic_map;

use crate::{Bytes, Error, Result};
use std::sync::Arc;

/// Values of a block.
pub(crate) const BLOCK: usize = 64;
/// Absmax values of a block of the second level.
pub(crate) const NESTED_BLOCK: usize = 256;

/// The 16 values: quantiles of a normal distribution, scaled to [-1, 1], with an exact 0 (QLoRA, appendix E).
pub const NF4_CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Numbers in NF4. A clone shares them.
#[derive(Clone, Debug)]
pub struct Nf4 {
    codes: Bytes,
    absmax: Absmax,
    elements: usize,
}

/// The largest magnitude of each block.
#[derive(Clone, Debug)]
pub enum Absmax {
    /// Little-endian f32.
    Plain(Bytes),
    /// Double quantization.
    Nested {
        /// A byte for each block.
        codes: Bytes,
        /// What a byte stands for; [`dynamic_map`] in all that is known.
        map: Arc<[f32; 256]>,
        /// Largest magnitude of (absmax - offset) in each 256 blocks.
        absmax: Arc<[f32]>,
        /// Mean of the blocks' absmax.
        offset: f32,
    },
}

impl Nf4 {
    /// Numbers that are quantized already: two codes a byte, the first in the high bits; of an odd number of elements
    /// the last four bits mean nothing.
    pub fn new(codes: Bytes, absmax: Absmax, elements: usize) -> Result<Self> {
        let blocks = elements.div_ceil(BLOCK);
        let held = |what, bytes: &Bytes, expected: usize| {
            // What is not there any more, as in a file that shrank, counts as missing.
            let found = bytes.as_slice().len();
            if found == expected && bytes.len() == expected {
                return Ok(());
            }
            Err(Error::Nf4 {
                elements,
                what,
                expected,
                found,
            })
        };
        held("bytes of codes", &codes, elements.div_ceil(2))?;
        match &absmax {
            Absmax::Plain(bytes) => held("bytes of absmax", bytes, 4 * blocks)?,
            Absmax::Nested { codes, absmax, .. } => {
                held("absmax codes", codes, blocks)?;
                let (expected, found) = (blocks.div_ceil(NESTED_BLOCK), absmax.len());
                if found != expected {
                    return Err(Error::Nf4 {
                        elements,
                        what: "nested absmax values",
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(Self {
            codes,
            absmax,
            elements,
        })
    }

    /// Bytes that so many elements take, with or without double quantization. The map is shared and not counted.
    pub fn size_of(elements: usize, double_quant: bool) -> usize {
        let blocks = elements.div_ceil(BLOCK);
        let scales = match double_quant {
            true => blocks + 4 * blocks.div_ceil(NESTED_BLOCK) + 4,
            false => 4 * blocks,
        };
        elements.div_ceil(2) + scales
    }

    /// Bytes it takes.
    pub fn size_bytes(&self) -> usize {
        Self::size_of(self.elements, matches!(self.absmax, Absmax::Nested { .. }))
    }

    /// Numbers it holds.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Everything that makes up its numbers, one part after another.
    pub fn all_bytes(&self) -> Vec<u8> {
        let mut bytes = self.codes.as_slice().to_vec();
        match &self.absmax {
            Absmax::Plain(absmax) => bytes.extend(absmax.as_slice()),
            Absmax::Nested {
                codes,
                map,
                absmax,
                offset,
            } => {
                bytes.extend(codes.as_slice());
                let floats = absmax.iter().chain(map.iter()).chain([offset]);
                bytes.extend(floats.flat_map(|x| x.to_le_bytes()));
            }
        }
        bytes
    }

    /// Two codes a byte.
    pub fn codes(&self) -> &Bytes {
        &self.codes
    }

    /// The blocks' scales.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// The numbers from element `start` on.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) {
        let codes = self.codes.as_slice();
        let head = (start.next_multiple_of(BLOCK) - start).min(out.len());
        let (head, rest) = out.split_at_mut(head);
        self.read_part(codes, start, head);
        let first = start.div_ceil(BLOCK);
        let (whole, tail) = rest.as_chunks_mut::<BLOCK>();
        let (packed, _) = codes.as_chunks::<{ BLOCK / 2 }>();
        let packed = &packed[first.min(packed.len())..];
        match &self.absmax {
            Absmax::Plain(bytes) => {
                let (absmax, _) = bytes.as_slice().as_chunks::<4>();
                unpack(
                    packed,
                    whole,
                    #[inline(always)]
                    |i| f32::from_le_bytes(absmax[first + i]),
                );
            }
            Absmax::Nested {
                codes,
                map,
                absmax,
                offset,
            } => {
                let codes = codes.as_slice();
                unpack(
                    packed,
                    whole,
                    #[inline(always)]
                    |i| {
                        let block = first + i;
                        nested(map, codes[block], absmax[block / NESTED_BLOCK], *offset)
                    },
                );
            }
        }
        self.read_part(codes, (first + whole.len()) * BLOCK, tail);
    }

    /// The numbers from `start` on, all in one block.
    fn read_part(&self, codes: &[u8], start: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let block = start / BLOCK;
        // The last block may be short of bytes.
        let stored = &codes[block * BLOCK / 2..];
        let stored = &stored[..stored.len().min(BLOCK / 2)];
        let mut packed = [[0; BLOCK / 2]];
        packed[0][..stored.len()].copy_from_slice(stored);
        let mut values = [[0f32; BLOCK]];
        unpack(&packed, &mut values, |_| self.scale(block));
        let first = start % BLOCK;
        out.copy_from_slice(&values[0][first..first + out.len()]);
    }

    /// The absmax of a block.
    fn scale(&self, block: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(bytes) => f32::from_le_bytes(bytes.as_slice().as_chunks::<4>().0[block]),
            Absmax::Nested {
                codes,
                map,
                absmax,
                offset,
            } => nested(
                map,
                codes.as_slice()[block],
                absmax[block / NESTED_BLOCK],
                *offset,
            ),
        }
    }
}

#[inline(always)]
fn nested(map: &[f32; 256], code: u8, absmax: f32, offset: f32) -> f32 {
    map[usize::from(code)] * absmax + offset
}

/// Whole blocks: each code's value times the block's scale.
fn unpack(packed: &[[u8; BLOCK / 2]], out: &mut [[f32; BLOCK]], scale: impl Fn(usize) -> f32) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { unpack_avx2(packed, out, scale) };
        return;
    }
    unpack_portable(packed, out, scale);
}

fn unpack_portable(
    packed: &[[u8; BLOCK / 2]],
    out: &mut [[f32; BLOCK]],
    scale: impl Fn(usize) -> f32,
) {
    for (i, (packed, out)) in packed.iter().zip(out).enumerate() {
        let scale = scale(i);
        let values = NF4_CODE.map(|code| code * scale);
        for (byte, pair) in packed.iter().zip(out.as_chunks_mut::<2>().0) {
            *pair = [
                values[usize::from(byte >> 4)],
                values[usize::from(byte & 15)],
            ];
        }
    }
}

/// Sixteen bytes are 32 indices; eight at a time look their values up in two registers of eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn unpack_avx2(packed: &[[u8; BLOCK / 2]], out: &mut [[f32; BLOCK]], scale: impl Fn(usize) -> f32) {
    use std::arch::x86_64::*;
    // SAFETY: the table holds 16 numbers.
    let (low, high) = unsafe {
        (
            _mm256_loadu_ps(NF4_CODE.as_ptr()),
            _mm256_loadu_ps(NF4_CODE.as_ptr().add(8)),
        )
    };
    let nibble = _mm_set1_epi8(15);
    for (i, (packed, out)) in packed.iter().zip(out).enumerate() {
        let scale = _mm256_set1_ps(scale(i));
        // The scale goes into the tables: the same products, and fewer of them.
        let (low, high) = (_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale));
        for (bytes, out) in packed
            .as_chunks::<16>()
            .0
            .iter()
            .zip(out.as_chunks_mut::<32>().0)
        {
            // SAFETY: sixteen bytes are there.
            let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
            let second = _mm_and_si128(bytes, nibble);
            let first = _mm_and_si128(_mm_srli_epi16::<4>(bytes), nibble);
            let indices = [
                _mm_unpacklo_epi8(first, second),
                _mm_unpackhi_epi8(first, second),
            ];
            for (indices, out) in indices.into_iter().zip(out.as_chunks_mut::<16>().0) {
                let halves = [indices, _mm_unpackhi_epi64(indices, indices)];
                for (indices, out) in halves.into_iter().zip(out.as_chunks_mut::<8>().0) {
                    let indices = _mm256_cvtepu8_epi32(indices);
                    // The look-up reads three bits of an index; the fourth, moved to the sign, chooses the table.
                    let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(indices));
                    let values = _mm256_blendv_ps(
                        _mm256_permutevar8x32_ps(low, indices),
                        _mm256_permutevar8x32_ps(high, indices),
                        upper,
                    );
                    // SAFETY: eight numbers have room.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_builds_unpack_to_the_same_bits() {
        let packed: Vec<[u8; 32]> = (0..37u32)
            .map(|i| std::array::from_fn(|j| (i * 71 + j as u32 * 29) as u8))
            .collect();
        let scale = |i: usize| 0.013 + i as f32 * 0.000_7;
        let (mut a, mut b) = (vec![[0f32; 64]; 37], vec![[1f32; 64]; 37]);
        unpack(&packed, &mut a, scale);
        unpack_portable(&packed, &mut b, scale);
        assert_eq!(a, b);
    }
}
