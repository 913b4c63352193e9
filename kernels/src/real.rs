//! The numbers: what is stored, and what it is computed in.

use candle_core::{DType, WithDType};
use half::bf16;

/// A type that arithmetic is done in: f32 or f64.
pub(crate) trait Real: WithDType + Default + std::iter::Sum + Stored<Acc = Self> {
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn of(value: f64) -> Self;
    fn from_f32(value: f32) -> Self;
    fn f64(self) -> f64;
    fn exp(self) -> Self;
    /// self · factor + addend with one rounding.
    fn fma(self, factor: Self, addend: Self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// The larger; a NaN loses, so it must be looked for where it matters.
    fn larger(self, other: Self) -> Self;
    /// The same memory seen as f32, if that is what it is.
    fn as_f32_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    /// The list itself, if it is of this type.
    fn from_f32s(values: &[f32]) -> Option<&[Self]>;
    /// The list itself, if it is of this type.
    fn from_f64s(values: &[f64]) -> Option<&[Self]>;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        crate::simd::exp_f32(self)
    }
    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        self.mul_add(factor, addend)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // Written as a comparison: one vector instruction, where f32::max takes three.
        if self > other { self } else { other }
    }
    fn as_f32_mut(values: &mut [Self]) -> Option<&mut [f32]> {
        Some(values)
    }
    fn from_f32s(values: &[f32]) -> Option<&[Self]> {
        Some(values)
    }
    fn from_f64s(_: &[f64]) -> Option<&[Self]> {
        None
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        self.mul_add(factor, addend)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
    fn from_f32s(_: &[f32]) -> Option<&[Self]> {
        None
    }
    fn from_f64s(values: &[f64]) -> Option<&[Self]> {
        Some(values)
    }
}

/// A type that activations are stored in, with the type they are computed in.
pub(crate) trait Stored: WithDType {
    type Acc: Real;
    fn widen(self) -> Self::Acc;
    fn narrow(value: Self::Acc) -> Self;
    /// The list itself, if it needs no widening.
    fn as_wide(list: &[Self]) -> Option<&[Self::Acc]>;
}

impl Stored for f32 {
    type Acc = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
    fn as_wide(list: &[f32]) -> Option<&[f32]> {
        Some(list)
    }
}

impl Stored for f64 {
    type Acc = f64;
    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }
    #[inline(always)]
    fn narrow(value: f64) -> f64 {
        value
    }
    fn as_wide(list: &[f64]) -> Option<&[f64]> {
        Some(list)
    }
}

impl Stored for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        widen_bf16(self.to_bits())
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        // Round to nearest even without a branch, so that it vectorises; a NaN stays a NaN.
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
        bf16::from_bits(if is_nan { nan } else { rounded } as u16)
    }
    fn as_wide(_: &[bf16]) -> Option<&[f32]> {
        None
    }
}

/// bf16 is the upper half of an f32.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f16 to f32 by shifting the fields and one exact multiplication, which also handles subnormals
/// and, as it has no branch, vectorises without the F16C instructions.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // 2^112 moves f16's exponent bias (15) to f32's (127).
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = magnitude | 0x7f80_0000;
    let value = if magnitude >= 0x0f80_0000 {
        special
    } else {
        scaled.to_bits()
    };
    f32::from_bits(value | (u32::from(bits & 0x8000) << 16))
}

/// The type that arithmetic on `dtype` is done in: f64 for f64, f32 for everything else.
pub fn accumulate_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Runs `$body` with `$S` bound to the Rust type of a storage dtype.
macro_rules! with_stored {
    ($op:expr, $dtype:expr, $S:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $S = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $S = half::bf16;
                $body
            }
            candle_core::DType::F64 => {
                type $S = f64;
                $body
            }
            found => Err($crate::Error::Type {
                op: $op,
                found,
                expected: "f32, bf16 or f64",
            }),
        }
    };
}

/// Runs `$body` with `$T` bound to the Rust type of an accumulate dtype.
macro_rules! with_real {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            found => Err($crate::Error::Type {
                op: $op,
                found,
                expected: "f32 or f64",
            }),
        }
    };
}

pub(crate) use {with_real, with_stored};

/// Bits of an f16 that is inside a quantized block.
#[inline(always)]
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    widen_f16(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn every_f16_widens_as_half_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even_as_half_does() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Stored>::narrow(value), bf16::from_f32(value));
            assert!(
                ours == theirs || (value.is_nan() && ours.is_nan()),
                "{bits:#x}"
            );
        }
        for value in [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
        ] {
            assert_eq!(
                <bf16 as Stored>::narrow(value).to_bits(),
                bf16::from_f32(value).to_bits()
            );
        }
    }
}
