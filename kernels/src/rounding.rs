//! f32 to a stored format: rounded once, to nearest even, little-endian.

use crate::real::Stored;
use crate::simd::wide;
use candle_core::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Rounds `values` into `out`, which has room for them in `dtype`: f32, bf16, f16 or f64 (another type is none of
/// these and gives `false`, as does an `out` of another size).
#[must_use]
pub fn round_to_bytes(values: &[f32], dtype: DType, out: &mut [u8]) -> bool {
    if out.len() != values.len() * dtype.size_in_bytes() {
        return false;
    }
    match dtype {
        // Without a NaN among them, half the work.
        DType::BF16 if largest_magnitude_bits(values) <= f32::INFINITY.to_bits() => wide!({
            for (value, slot) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                let bits = value.to_bits();
                let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
                *slot = (rounded as u16).to_le_bytes();
            }
        }),
        DType::BF16 => wide!({
            for (value, slot) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                *slot = bf16::narrow(*value).to_bits().to_le_bytes();
            }
        }),
        DType::F16 => {
            let mut some = [f16::ZERO; 1024];
            for (values, out) in values
                .chunks(some.len())
                .zip(out.chunks_mut(2 * some.len()))
            {
                let some = &mut some[..values.len()];
                some.convert_from_f32_slice(values);
                for (half, slot) in some.iter().zip(out.as_chunks_mut::<2>().0) {
                    *slot = half.to_le_bytes();
                }
            }
        }
        DType::F32 => {
            for (value, slot) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                *slot = value.to_le_bytes();
            }
        }
        DType::F64 => {
            for (value, slot) in values.iter().zip(out.as_chunks_mut::<8>().0) {
                *slot = f64::from(*value).to_le_bytes();
            }
        }
        _ => return false,
    }
    true
}

/// Widens as many numbers of `dtype` (f32, bf16, f16, f64), little-endian, as `out` has room for.
pub fn widen_bytes(bytes: &[u8], dtype: DType, out: &mut [f32]) {
    let count = out.len().min(bytes.len() / dtype.size_in_bytes());
    crate::matrix::read_unaligned(bytes, dtype, 0..count, &mut out[..count]);
}

/// The first value that is finite and that `dtype` has no room for: it would be rounded to an infinity.
#[must_use]
pub fn first_overflow(values: &[f32], dtype: DType) -> Option<usize> {
    // The smallest magnitude that rounds away from the largest number of the format.
    let limit = match dtype {
        DType::BF16 => f32::from_bits(0x7f7f_8000),
        DType::F16 => 65_520.0,
        _ => return None,
    };
    // Infinities and NaNs are above it too, and rare.
    let any = largest_magnitude_bits(values) >= limit.to_bits();
    let over = |x: &f32| x.is_finite() && x.abs() >= limit;
    any.then(|| values.iter().position(over)).flatten()
}

/// The largest of the values without their signs, as bits, which are in the order of the numbers, NaNs the largest.
fn largest_magnitude_bits(values: &[f32]) -> u32 {
    wide!(
        values
            .iter()
            .fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWKWARD: [f32; 14] = [
        0.0,
        -0.0,
        1.0,
        1.003_906_2,
        -1.011_718_8,
        65_504.0,
        65_519.9,
        3.389_531_4e38,
        1e-45,
        -6e-8,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        0.1,
    ];

    #[test]
    fn rounds_as_half_does() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.37).sin() * 7.0).collect();
        for values in [&AWKWARD[..], &values] {
            let mut out = vec![0u8; 2 * values.len()];
            assert!(round_to_bytes(values, DType::BF16, &mut out));
            for (x, slot) in values.iter().zip(out.as_chunks::<2>().0) {
                assert_eq!(bf16::from_f32(*x).to_le_bytes(), *slot, "{x}");
            }
            assert!(round_to_bytes(values, DType::F16, &mut out));
            for (x, slot) in values.iter().zip(out.as_chunks::<2>().0) {
                assert_eq!(f16::from_f32(*x).to_le_bytes(), *slot, "{x}");
            }
        }
        assert!(!round_to_bytes(&AWKWARD, DType::F32, &mut [0; 3]));
        assert!(!round_to_bytes(&[1.0], DType::U8, &mut [0]));
    }

    #[test]
    fn widening_undoes_rounding() {
        for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
            let mut bytes = vec![0u8; AWKWARD.len() * dtype.size_in_bytes()];
            assert!(round_to_bytes(&AWKWARD, dtype, &mut bytes));
            let mut wide = [7f32; AWKWARD.len() + 1];
            widen_bytes(&bytes, dtype, &mut wide);
            assert_eq!(wide[AWKWARD.len()], 7.0);
            let mut again = vec![0u8; bytes.len()];
            assert!(round_to_bytes(&wide[..AWKWARD.len()], dtype, &mut again));
            assert_eq!(bytes, again);
            assert_eq!(
                wide[2..4],
                [
                    1.0,
                    if dtype == DType::F16 {
                        1.003_906_2
                    } else {
                        wide[3]
                    }
                ]
            );
        }
    }

    #[test]
    fn finds_what_does_not_fit() {
        for dtype in [DType::BF16, DType::F16] {
            for (i, x) in AWKWARD.iter().enumerate() {
                let infinite = match dtype {
                    DType::BF16 => bf16::from_f32(*x).is_infinite(),
                    _ => f16::from_f32(*x).is_infinite(),
                };
                let mut list = [0.5f32; 14];
                list[i] = *x;
                let expected = (infinite && x.is_finite()).then_some(i);
                assert_eq!(first_overflow(&list, dtype), expected, "{dtype:?} {x}");
            }
        }
        let edge = f32::from_bits(0x7f7f_8000);
        assert!(
            bf16::from_f32(edge).is_infinite() && !bf16::from_f32(edge.next_down()).is_infinite()
        );
        assert!(f16::from_f32(65_520.0).is_infinite() && !f16::from_f32(65_519.996).is_infinite());
    }
}
