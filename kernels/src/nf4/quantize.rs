//! Numbers to NF4: the nearest of 16 codes in blocks of 64, and the nearest of 256 for the blocks' absmax.
//!
//! Codes are those of bitsandbytes' CUDA kernels and of its portable backend: x / absmax is computed as x · (1 / absmax),
//! and a tie goes to the lower code. (Its native CPU library takes the nested codes from a table of 65,536 steps, which
//! gives another byte in about two of a thousand.) A block of zeros gets the code of 0, as in the portable backend.

use super::{Absmax, BLOCK, NESTED_BLOCK, NF4_CODE, Nf4};
use crate::simd::wide;
use crate::{Bytes, Error, Matrix, Result};
use rayon::prelude::*;
use std::sync::{Arc, LazyLock};

/// Elements that a task quantizes, about.
const PIECE: usize = 1 << 16;
/// What an absmax is divided by at least: bitsandbytes' bound, below which 1 / absmax would be infinite.
const SMALLEST: f32 = 1e-38;

/// Halfway between neighbouring codes: a value belongs to the code above only if it is larger.
const THRESHOLDS: [f32; 15] = {
    let mut thresholds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        thresholds[i] = (NF4_CODE[i] + NF4_CODE[i + 1]) / 2.0;
        i += 1;
    }
    thresholds
};

/// The signed dynamic 8-bit map (Dettmers 2016, arXiv:1511.04561), ascending: seven decades, the one below 10^-i cut
/// into 2^(6-i) steps, their middles; and 0 and 1. bitsandbytes' `create_dynamic_map(signed=True)`, bit for bit.
pub fn dynamic_map() -> Arc<[f32; 256]> {
    static MAP: LazyLock<Arc<[f32; 256]>> = LazyLock::new(|| {
        const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let mut values = vec![0.0, 1.0];
        for (i, decade) in DECADES.into_iter().enumerate() {
            let bounds = from_tenth_to_one((1 << i) + 1);
            for pair in bounds.windows(2) {
                let middle = decade * ((pair[0] + pair[1]) / 2.0);
                values.extend([middle, -middle]);
            }
        }
        values.sort_by(f32::total_cmp);
        let mut map = [0.0; 256];
        map.copy_from_slice(&values);
        Arc::new(map)
    });
    MAP.clone()
}

/// `torch.linspace(0.1, 1, count)` in f32: counted from both ends, each number one fused multiply-add.
fn from_tenth_to_one(count: usize) -> Vec<f32> {
    let step = (1.0 - 0.1f32) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, 0.1),
            false => step.mul_add(-((count - 1 - i) as f32), 1.0),
        })
        .collect()
}

impl Nf4 {
    /// Quantizes a weight of any stored form, a few rows at a time with all threads: the same bytes for any number of
    /// them. A number that is not finite is an error.
    pub fn quantize(weight: &Matrix, double_quant: bool) -> Result<Self> {
        const OP: &str = "NF4";
        let (rows, cols) = (weight.rows(), weight.cols());
        let elements = rows * cols;
        let mut codes = vec![0u8; elements.div_ceil(2)];
        let mut absmax = vec![0f32; elements.div_ceil(BLOCK)];
        if elements > 0 {
            // Pieces of whole rows that are whole blocks as well.
            let unit = BLOCK / gcd(cols, BLOCK);
            let some = (PIECE / (unit * cols)).max(1) * unit;
            let hold = weight.hold(OP)?;
            let source = hold.rows();
            let bad = codes
                .par_chunks_mut(some * cols / 2)
                .zip(absmax.par_chunks_mut(some * cols / BLOCK))
                .enumerate()
                .filter_map(|(i, (codes, absmax))| {
                    let first = i * some;
                    let last = (first + some).min(rows);
                    let mut values = vec![0f32; (last - first) * cols];
                    source.read(first..last, &mut values);
                    wide!(quantize_blocks(&values, absmax, codes));
                    absmax.iter().any(|x| !x.is_finite()).then(|| {
                        let at = values.iter().position(|x| !x.is_finite());
                        first * cols + at.unwrap_or(0)
                    })
                })
                .min();
            if let Some(element) = bad {
                return Err(Error::NotFinite { op: OP, element });
            }
        }
        let absmax = match double_quant {
            true => nest(absmax, OP)?,
            false => Absmax::Plain(Bytes::from_vec(
                absmax.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )),
        };
        Self::new(Bytes::from_vec(codes), absmax, elements)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest magnitude; a NaN or an infinity if there is one.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are, and what is not finite comes last.
    let bits = values
        .iter()
        .fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
    f32::from_bits(bits)
}

#[inline(always)]
fn quantize_blocks(values: &[f32], absmax: &mut [f32], codes: &mut [u8]) {
    let (whole, tail) = values.as_chunks::<BLOCK>();
    let (codes, last) = codes.split_at_mut(whole.len() * BLOCK / 2);
    let packed = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
    for ((values, absmax), packed) in whole.iter().zip(&mut *absmax).zip(packed) {
        *absmax = quantize_block(values, packed);
    }
    if !tail.is_empty() {
        let (mut values, mut packed) = ([0f32; BLOCK], [0; BLOCK / 2]);
        values[..tail.len()].copy_from_slice(tail);
        absmax[whole.len()] = quantize_block(&values, &mut packed);
        last.copy_from_slice(&packed[..last.len()]);
    }
}

#[inline(always)]
fn quantize_block(values: &[f32; BLOCK], packed: &mut [u8; BLOCK / 2]) -> f32 {
    let absmax = largest(values);
    let inverse = 1.0 / absmax.max(SMALLEST);
    let mut codes = [0u32; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        let scaled = value * inverse;
        for threshold in THRESHOLDS {
            *code += u32::from(scaled > threshold);
        }
    }
    for (byte, pair) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    absmax
}

/// The second level: what is left of each absmax without their mean, in 8 bits.
fn nest(absmax: Vec<f32>, op: &'static str) -> Result<Absmax> {
    let map = dynamic_map();
    let offset = mean(&absmax);
    if !offset.is_finite() {
        // Only sums beyond f32 come here: each absmax is finite.
        let element = BLOCK * absmax.iter().position(|x| *x > 1e30).unwrap_or(0);
        return Err(Error::NotFinite { op, element });
    }
    let middles: Vec<f32> = map.windows(2).map(|w| 0.5 * (w[0] + w[1])).collect();
    let mut codes = vec![0u8; absmax.len()];
    let mut nested = vec![0f32; absmax.len().div_ceil(NESTED_BLOCK)];
    codes
        .par_chunks_mut(NESTED_BLOCK)
        .zip(absmax.par_chunks(NESTED_BLOCK))
        .zip(&mut nested)
        .for_each(|((codes, absmax), nested)| {
            *nested = absmax.iter().fold(0f32, |m, x| m.max((x - offset).abs()));
            let inverse = 1.0 / nested.max(SMALLEST);
            for (code, x) in codes.iter_mut().zip(absmax) {
                let scaled = (x - offset) * inverse;
                *code = middles.partition_point(|middle| *middle < scaled) as u8;
            }
        });
    Ok(Absmax::Nested {
        codes: Bytes::from_vec(codes),
        map,
        absmax: nested.into(),
        offset,
    })
}

/// `torch.mean` of f32 numbers on one thread of an x86 processor, bit for bit. (By more threads, or on a GPU, torch adds
/// them up in another order, and the last bits of bitsandbytes' offset differ.)
fn mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    if values.is_empty() {
        return 0.0;
    }
    let sum = if values.len() < LANES {
        cascade(values.as_chunks::<1>().0)[0]
    } else {
        let (rows, rest) = values.as_chunks::<LANES>();
        let lanes = cascade(rows);
        lanes
            .iter()
            .fold(rest.iter().fold(0.0, |s, x| s + x), |s, x| s + x)
    };
    sum / values.len() as f32
}

/// Column sums as ATen's `cascade_sum` makes them: four running sums, each in four levels, so that small sums are added
/// to small ones.
fn cascade<const L: usize>(rows: &[[f32; L]]) -> [f32; L] {
    const SUMS: usize = 4;
    const LEVELS: usize = 4;
    let add = |to: &mut [f32; L], from: &[f32; L]| {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    };
    let (fours, rest) = rows.as_chunks::<SUMS>();
    let power = (fours.len().max(1).next_power_of_two().ilog2() as usize / LEVELS).max(4);
    let mut levels = [[[0f32; L]; SUMS]; LEVELS];
    for (i, four) in fours.iter().enumerate() {
        for (sum, row) in levels[0].iter_mut().zip(four) {
            add(sum, row);
        }
        // A level that is full goes into the next.
        let done = i + 1;
        for level in 1..LEVELS {
            if done & ((1 << (level * power)) - 1) != 0 {
                break;
            }
            let (below, above) = levels.split_at_mut(level);
            for (to, from) in above[0].iter_mut().zip(&mut below[level - 1]) {
                add(to, from);
                *from = [0.0; L];
            }
        }
    }
    let [mut sums, upper @ ..] = levels;
    for level in &upper {
        for (to, from) in sums.iter_mut().zip(level) {
            add(to, from);
        }
    }
    for row in rest {
        add(&mut sums[0], row);
    }
    let [mut total, others @ ..] = sums;
    for other in &others {
        add(&mut total, other);
    }
    total
}
