//! Loops compiled for the machine at hand, and the functions inside them.
//!
//! A fused multiply-add gives one rounding in every build (the portable one of a processor without
//! it calls a slow, exact function), so all builds give the same bits.

use crate::real::Real;

/// Evaluates an expression in the widest build this processor has. What it calls is compiled into
/// that build only if it is `#[inline(always)]`, closures included: the attribute may stand on a
/// closure that is an argument.
macro_rules! wide {
    ($body:expr) => {
        $crate::simd::in_wide_build(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use wide;

/// See [`wide`].
#[inline(always)]
pub(crate) fn in_wide_build<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { wide_avx2(body) };
        }
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
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
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p.mul_add(r, coefficient);
    }
    let e = (p * r).mul_add(r, r) + 1.0;
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

/// Running sums: enough to fill the vector units, and added in a fixed order at the end.
const LANES: usize = 32;

/// A sum over a list; `add` takes a running sum and an element.
#[inline(always)]
pub(crate) fn sum_over<T: Real, A: Copy>(a: &[A], add: impl Fn(T, A) -> T) -> T {
    let mut sums = [T::ZERO; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    for a in whole {
        for i in 0..LANES {
            sums[i] = add(sums[i], a[i]);
        }
    }
    for (sum, a) in sums.iter_mut().zip(rest) {
        *sum = add(*sum, *a);
    }
    fold(&sums)
}

/// A sum over two lists of one length.
#[inline(always)]
pub(crate) fn sum_over2<T: Real, A: Copy, B: Copy>(
    a: &[A],
    b: &[B],
    add: impl Fn(T, A, B) -> T,
) -> T {
    let mut sums = [T::ZERO; LANES];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..LANES {
            sums[i] = add(sums[i], a[i], b[i]);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(rest_a).zip(rest_b) {
        *sum = add(*sum, *a, *b);
    }
    fold(&sums)
}

/// A sum over three lists of one length.
#[inline(always)]
pub(crate) fn sum_over3<T: Real, A: Copy, B: Copy, C: Copy>(
    a: &[A],
    b: &[B],
    c: &[C],
    add: impl Fn(T, A, B, C) -> T,
) -> T {
    let mut sums = [T::ZERO; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let ((whole_b, rest_b), (whole_c, rest_c)) = (b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in whole_a.iter().zip(whole_b).zip(whole_c) {
        for i in 0..LANES {
            sums[i] = add(sums[i], a[i], b[i], c[i]);
        }
    }
    for (((sum, a), b), c) in sums.iter_mut().zip(rest_a).zip(rest_b).zip(rest_c) {
        *sum = add(*sum, *a, *b, *c);
    }
    fold(&sums)
}

/// Sum of products of two lists of one length.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    sum_over2(
        a,
        b,
        #[inline(always)]
        |sum, a: T, b| a.fma(b, sum),
    )
}

/// Sum of a list.
#[inline(always)]
pub(crate) fn sum<T: Real>(a: &[T]) -> T {
    sum_over(
        a,
        #[inline(always)]
        |sum, a| sum + a,
    )
}

/// The largest value (NaNs are passed over), or minus infinity of nothing.
#[inline(always)]
pub(crate) fn largest<T: Real>(a: &[T]) -> T {
    let mut best = [T::NEG_INFINITY; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    for a in whole {
        for i in 0..LANES {
            best[i] = a[i].larger(best[i]);
        }
    }
    for (best, a) in best.iter_mut().zip(rest) {
        *best = a.larger(*best);
    }
    best.into_iter().fold(T::NEG_INFINITY, |m, x| x.larger(m))
}

/// The largest magnitude (NaNs are passed over), or 0 of nothing.
#[inline(always)]
pub(crate) fn largest_magnitude(a: &[f32]) -> f32 {
    let mut best = [0f32; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    for a in whole {
        for i in 0..LANES {
            best[i] = Real::larger(a[i].abs(), best[i]);
        }
    }
    for (best, a) in best.iter_mut().zip(rest) {
        *best = Real::larger(a.abs(), *best);
    }
    best.into_iter().fold(0.0, |m, x| Real::larger(x, m))
}

/// Adds up running sums. Kept out of line: seeing them stored side by side is what makes the
/// compiler keep them in vector registers before.
#[inline(never)]
fn fold<T: Real>(sums: &[T; LANES]) -> T {
    let mut sums = *sums;
    let mut width = LANES / 2;
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
        assert_eq!(wide!(dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
        assert_eq!(wide!(sum(&a)).to_bits(), sum(&a).to_bits());
        assert_eq!(wide!(largest(&a)), largest(&a));
    }
}
