//! Loops compiled for the machine at hand, and the functions inside them.
//!
//! Nothing here fuses a multiplication with an addition, so the wide build of a loop and the
//! portable one give the same bits.

use crate::real::Real;

/// Runs a loop in the widest build this processor has. `body` must be a call of an
/// `#[inline(always)]` function, or small enough to be inlined, to be compiled into it.
#[inline(always)]
pub(crate) fn wide<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { wide_avx2(body) };
        }
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn wide_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// e^x in f32, within 2 units in the last place; below -87.3 it is 0, above 88.7 infinity.
///
/// The Cephes reduction: e^x = 2^n e^r with |r| <= ln(2)/2, and a polynomial for e^r. n is read
/// from the low bits of x·log2(e) + 1.5·2^23, which needs no conversion to an integer.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    // ln(2) in two parts; the first has few bits, so n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.8 { 88.8 } else { x };
    let clamped = if clamped < -88.0 { -88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = (p * r) * r + r + 1.0;
    // n reaches 128 just below the overflow: 2^n in two factors.
    let bits = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let half = bits >> 1;
    let a = f32::from_bits(((half + 127) as u32) << 23);
    let b = f32::from_bits(((bits - half + 127) as u32) << 23);
    let value = e * a * b;
    let value = if x < -87.336_54 { 0.0 } else { value };
    // The clamps let a NaN through as a finite number on some paths: put it back.
    if x.is_nan() { x } else { value }
}

/// 1 / (1 + e^-x), without overflow on either side.
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    let e = (T::ZERO - x.abs()).exp();
    let positive = T::ONE / (T::ONE + e);
    if x < T::ZERO { e * positive } else { positive }
}

/// Sum of `term(0) .. term(n)`, in 32 running sums that are added in a fixed order.
#[inline(always)]
pub(crate) fn sum_of<T: Real>(n: usize, term: impl Fn(usize) -> T) -> T {
    const LANES: usize = 32;
    let mut sums = [T::ZERO; LANES];
    let whole = n / LANES * LANES;
    let mut first = 0;
    while first < whole {
        for i in 0..LANES {
            sums[i] += term(first + i);
        }
        first += LANES;
    }
    for i in whole..n {
        sums[i - whole] += term(i);
    }
    fold(sums)
}

/// Sum of products of two lists of one length.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let b = &b[..a.len()];
    sum_of(a.len(), |i| a[i] * b[i])
}

/// Sum of a list.
#[inline(always)]
pub(crate) fn sum<T: Real>(a: &[T]) -> T {
    sum_of(a.len(), |i| a[i])
}

/// The largest value (NaNs are passed over), or minus infinity of nothing.
#[inline(always)]
pub(crate) fn largest<T: Real>(a: &[T]) -> T {
    const LANES: usize = 32;
    let mut best = [T::NEG_INFINITY; LANES];
    let mut chunks = a.chunks_exact(LANES);
    for x in &mut chunks {
        for i in 0..LANES {
            best[i] = x[i].larger(best[i]);
        }
    }
    for x in chunks.remainder() {
        best[0] = x.larger(best[0]);
    }
    best.into_iter().fold(T::NEG_INFINITY, |m, x| x.larger(m))
}

#[inline(always)]
fn fold<T: Real>(mut sums: [T; 32]) -> T {
    let mut width = 16;
    while width > 0 {
        for i in 0..width {
            let upper = sums[i + width];
            sums[i] += upper;
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut worst = 0f64;
        let mut x = -87.3f32;
        while x < 88.7 {
            let (ours, exact) = (f64::from(exp_f32(x)), f64::from(x).exp());
            worst = worst.max(((ours - exact) / exact).abs());
            x += 0.000_713;
        }
        assert!(worst < 1.3e-7, "relative error {worst}");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-100.0), 0.0);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp_f32(89.0), f32::INFINITY);
        assert!(exp_f32(88.7).is_finite());
        assert!(exp_f32(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_does_not_overflow() {
        assert_eq!(sigmoid(-200.0f32), 0.0);
        assert_eq!(sigmoid(200.0f32), 1.0);
        assert!((sigmoid(-3.5f64) - 1.0 / (1.0 + 3.5f64.exp())).abs() < 1e-16);
    }

    #[test]
    fn the_wide_build_gives_the_same_bits() {
        let a: Vec<f32> = (0..1003)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.173)
            .collect();
        let b: Vec<f32> = (0..1003)
            .map(|i| ((i * 53 % 97) as f32 - 48.0) * 0.0917)
            .collect();
        assert_eq!(wide(|| dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
        assert_eq!(wide(|| sum(&a)).to_bits(), sum(&a).to_bits());
        assert_eq!(wide(|| largest(&a)), largest(&a));
    }
}
