//! GGML's quantized blocks, as llama.cpp's `ggml-common.h` lays them out, to f32.
//!
//! The small formats hold 32 values: value = d·q (+ m), q of 4, 5 or 8 bits. The "K" formats hold
//! 256, in groups of 32 (16 for Q6_K) with their own small scales inside the block.

use crate::real::{f16_at, widen_bf16, widen_f16};
use crate::{Error, Result};

/// The tensor types of a GGUF file that are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // GGML's own names.
#[allow(non_camel_case_types)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
}

impl GgmlType {
    /// The type of a GGUF file's type number (`ggml_type`).
    pub fn from_id(id: u32) -> Result<Self> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            id => return Err(Error::GgmlId { id }),
        })
    }

    /// GGML's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values a block.
    pub fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Unpacks whole blocks. Stops at the shorter of the two lists.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        crate::simd::wide!(self.dequantize_loop(blocks, out));
    }

    #[inline(always)]
    fn dequantize_loop(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each(
                blocks,
                out,
                #[inline(always)]
                |b| f32::from_le_bytes(*b),
            ),
            Self::F16 => each(
                blocks,
                out,
                #[inline(always)]
                |b| widen_f16(u16::from_le_bytes(*b)),
            ),
            Self::BF16 => each(
                blocks,
                out,
                #[inline(always)]
                |b| widen_bf16(u16::from_le_bytes(*b)),
            ),
            Self::Q8_0 => by_block::<34, 32>(blocks, out, q8_0),
            Self::Q4_0 => by_block::<18, 32>(blocks, out, q4_0),
            Self::Q4_1 => by_block::<20, 32>(blocks, out, q4_1),
            Self::Q5_0 => by_block::<22, 32>(blocks, out, q5_0),
            Self::Q5_1 => by_block::<24, 32>(blocks, out, q5_1),
            Self::Q4K => by_block::<144, 256>(blocks, out, q4_k),
            Self::Q5K => by_block::<176, 256>(blocks, out, q5_k),
            Self::Q6K => by_block::<210, 256>(blocks, out, q6_k),
        }
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn(&[u8; N]) -> f32) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = widen(bytes);
    }
}

#[inline(always)]
fn by_block<const BYTES: usize, const VALUES: usize>(
    blocks: &[u8],
    out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (block, out) in blocks
        .as_chunks::<BYTES>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<VALUES>().0)
    {
        unpack(block, out);
    }
}

/// d: f16, 32 × i8.
#[inline(always)]
fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        out[i] = f32::from(b[2 + i] as i8) * d;
    }
}

/// d: f16, 32 × 4 bits: low nibbles are values 0..16, high nibbles 16..32; offset 8.
#[inline(always)]
fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..16 {
        let q = b[2 + i];
        out[i] = f32::from((q & 15) as i8 - 8) * d;
        out[i + 16] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

/// d, m: f16, 32 × 4 bits.
#[inline(always)]
fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for i in 0..16 {
        let q = b[4 + i];
        out[i] = f32::from(q & 15) * d + m;
        out[i + 16] = f32::from(q >> 4) * d + m;
    }
}

/// d: f16, 32 fifth bits, 32 × 4 bits; offset 16.
#[inline(always)]
fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for i in 0..16 {
        let q = u32::from(b[6 + i]);
        let low = (q & 15) | (((high >> i) & 1) << 4);
        let up = (q >> 4) | (((high >> (i + 16)) & 1) << 4);
        out[i] = (low as i32 - 16) as f32 * d;
        out[i + 16] = (up as i32 - 16) as f32 * d;
    }
}

/// d, m: f16, 32 fifth bits, 32 × 4 bits.
#[inline(always)]
fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    for i in 0..16 {
        let q = u32::from(b[8 + i]);
        let low = (q & 15) | (((high >> i) & 1) << 4);
        let up = (q >> 4) | (((high >> (i + 16)) & 1) << 4);
        out[i] = low as i32 as f32 * d + m;
        out[i + 16] = up as i32 as f32 * d + m;
    }
}

/// The 6-bit scale and minimum of group `j` of 8, packed in 12 bytes (`get_scale_min_k4`).
#[inline(always)]
fn scale_and_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (
            (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4),
            (s[j + 4] >> 4) | ((s[j] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin: f16, 12 bytes of scales, 128 bytes of nibbles: 32 bytes hold groups 2g (low) and 2g+1.
#[inline(always)]
fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for pair in 0..4 {
        let q = &b[16 + 32 * pair..][..32];
        let (s1, m1) = scale_and_min(&b[4..16], 2 * pair);
        let (s2, m2) = scale_and_min(&b[4..16], 2 * pair + 1);
        let (d1, m1, d2, m2) = (d * s1, dmin * m1, d * s2, dmin * m2);
        let (low, up) = out[64 * pair..][..64].split_at_mut(32);
        for i in 0..32 {
            low[i] = d1 * f32::from(q[i] & 15) - m1;
            up[i] = d2 * f32::from(q[i] >> 4) - m2;
        }
    }
}

/// As Q4_K, with a fifth bit of group j in bit j of 32 bytes.
#[inline(always)]
fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    let high = &b[16..48];
    for pair in 0..4 {
        let q = &b[48 + 32 * pair..][..32];
        let (s1, m1) = scale_and_min(&b[4..16], 2 * pair);
        let (s2, m2) = scale_and_min(&b[4..16], 2 * pair + 1);
        let (d1, m1, d2, m2) = (d * s1, dmin * m1, d * s2, dmin * m2);
        let (low, up) = out[64 * pair..][..64].split_at_mut(32);
        for i in 0..32 {
            let h = high[i] >> (2 * pair);
            low[i] = d1 * f32::from((q[i] & 15) | ((h & 1) << 4)) - m1;
            up[i] = d2 * f32::from((q[i] >> 4) | (((h >> 1) & 1) << 4)) - m2;
        }
    }
}

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 × i8 scales, d: f16; offset 32.
#[inline(always)]
fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    for half in 0..2 {
        let low = &b[64 * half..][..64];
        let high = &b[128 + 32 * half..][..32];
        let scales = &b[192 + 8 * half..][..8];
        let out = &mut out[128 * half..][..128];
        for quarter in 0..4 {
            let nibbles = &low[32 * (quarter % 2)..][..32];
            let shift = 4 * (quarter / 2);
            for i in 0..32 {
                let q = ((nibbles[i] >> shift) & 15) | (((high[i] >> (2 * quarter)) & 3) << 4);
                let scale = f32::from(scales[2 * quarter + i / 16] as i8);
                out[32 * quarter + i] = d * scale * f32::from(q as i8 - 32);
            }
        }
    }
}
