//! How far stored numbers are from what they should be, in rounding steps of their format, and how much of a change
//! they carry.

use crate::simd::wide;
use candle_core::DType;

/// Sums and extremes over elements, of base w, wanted e = w + Δ, and stored m.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Largest |m − e| beyond the tolerance, in steps of the stored format at the magnitude max(|w|, |e|); infinite where
    /// one is NaN.
    pub max_steps: f64,
    /// Σ w².
    pub weight: f64,
    /// Σ Δ².
    pub delta: f64,
    /// Σ (m − round(w)) Δ.
    pub carried: f64,
    /// Elements with Δ ≠ 0.
    pub changed: u64,
    /// Those of them that are stored as round(w).
    pub unchanged: u64,
}

impl Deviation {
    /// Of both sets of elements together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            max_steps: self.max_steps.max(other.max_steps),
            weight: self.weight + other.weight,
            delta: self.delta + other.delta,
            carried: self.carried + other.carried,
            changed: self.changed + other.changed,
            unchanged: self.unchanged + other.unchanged,
        }
    }

    /// Over lists of one length. `rounded` is w in the stored format `dtype` (w itself where it has that format).
    ///
    /// Where w and Δ cancel, the step is that of w: a sum cannot be more exact than its terms.
    pub fn of(
        base: &[f32],
        rounded: &[f32],
        wanted: &[f32],
        found: &[f32],
        dtype: DType,
        tolerance: Tolerance,
    ) -> Self {
        // Bits after the leading one, and the biased exponent of the smallest normal number.
        let (mantissa, smallest) = match dtype {
            DType::BF16 => (7, 1),
            DType::F16 => (10, 127 - 14),
            _ => (23, 1),
        };
        let format = (mantissa, smallest);
        wide!(sums(base, rounded, wanted, found, format, tolerance))
    }
}

/// By how much two right computations of e in f32 may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// As it is.
    pub absolute: f32,
    /// Times |e|.
    pub relative: f32,
}

/// Elements that are summed in f32 before their sums are added in f64.
const BLOCK: usize = 512;
const LANES: usize = 8;

#[inline(always)]
fn sums(
    base: &[f32],
    rounded: &[f32],
    wanted: &[f32],
    found: &[f32],
    format: (i32, i32),
    tolerance: Tolerance,
) -> Deviation {
    let mut all = Deviation::default();
    let blocks = (base.chunks(BLOCK).zip(rounded.chunks(BLOCK)))
        .zip(wanted.chunks(BLOCK).zip(found.chunks(BLOCK)));
    for ((w, r), (e, m)) in blocks {
        let mut lanes = Lanes::default();
        let ((w, w_rest), (r, r_rest)) = (w.as_chunks::<LANES>(), r.as_chunks::<LANES>());
        let ((e, e_rest), (m, m_rest)) = (e.as_chunks::<LANES>(), m.as_chunks::<LANES>());
        for (((w, r), e), m) in w.iter().zip(r).zip(e).zip(m) {
            lanes.add(w, r, e, m, format, tolerance);
        }
        let count = w_rest.len();
        if count > 0 {
            // Zeros that are what they should be add nothing.
            let mut padded = [[0f32; LANES]; 4];
            for (padded, rest) in padded.iter_mut().zip([w_rest, r_rest, e_rest, m_rest]) {
                padded[..count].copy_from_slice(&rest[..count]);
            }
            let [w, r, e, m] = &padded;
            lanes.add(w, r, e, m, format, tolerance);
        }
        all = all.with(lanes.together());
    }
    all
}

/// Eight sums of each kind, so that they fill a vector register.
struct Lanes {
    max_steps: [f32; LANES],
    nan: [f32; LANES],
    weight: [f32; LANES],
    delta: [f32; LANES],
    carried: [f32; LANES],
    changed: [f32; LANES],
    unchanged: [f32; LANES],
}

impl Default for Lanes {
    #[inline(always)]
    fn default() -> Self {
        let zero = [0.0; LANES];
        Self {
            max_steps: zero,
            nan: zero,
            weight: zero,
            delta: zero,
            carried: zero,
            changed: zero,
            unchanged: zero,
        }
    }
}

impl Lanes {
    #[inline(always)]
    fn add(
        &mut self,
        w: &[f32; LANES],
        r: &[f32; LANES],
        e: &[f32; LANES],
        m: &[f32; LANES],
        (mantissa, smallest): (i32, i32),
        tolerance: Tolerance,
    ) {
        for i in 0..LANES {
            let (w, r, e, m) = (w[i], r[i], e[i], m[i]);
            let magnitude = if w.abs() > e.abs() { w.abs() } else { e.abs() };
            let exponent = (magnitude.to_bits() >> 23) as i32;
            let exponent = if exponent < smallest {
                smallest
            } else {
                exponent
            };
            // Steps in one, a power of two put together from its bits, in two factors: of the smallest numbers' steps
            // there are more in one than the largest number. Beyond 2^60 a step is counted as that at 2^60.
            let exponent = if exponent > 127 + 60 {
                127 + 60
            } else {
                exponent
            };
            let in_one = f32::from_bits(((mantissa + 127 + 127 - exponent - 60) << 23) as u32);
            let tolerated = tolerance.relative.mul_add(e.abs(), tolerance.absolute);
            let off = ((m - e).abs() - tolerated) * TWO_TO_60 * in_one;
            // Below zero is within the tolerance.
            self.max_steps[i] = if off > self.max_steps[i] {
                off
            } else {
                self.max_steps[i]
            };
            self.nan[i] += if off.is_nan() { 1.0 } else { 0.0 };
            let delta = e - w;
            self.weight[i] += w * w;
            self.delta[i] += delta * delta;
            self.carried[i] += (m - r) * delta;
            let changed = if e == w { 0.0 } else { 1.0 };
            self.changed[i] += changed;
            self.unchanged[i] += if m == r { changed } else { 0.0 };
        }
    }

    #[inline(always)]
    fn together(&self) -> Deviation {
        let sum = |lanes: &[f32; LANES]| lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
        // A NaN must not pass for small.
        let max_steps = match sum(&self.nan) {
            0.0 => f64::from(self.max_steps.iter().fold(0f32, |a, b| a.max(*b))),
            _ => f64::INFINITY,
        };
        Deviation {
            max_steps,
            weight: sum(&self.weight),
            delta: sum(&self.delta),
            carried: sum(&self.carried),
            changed: sum(&self.changed) as u64,
            unchanged: sum(&self.unchanged) as u64,
        }
    }
}

const TWO_TO_60: f32 = (1u64 << 60) as f32;

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// One step of the format, at numbers of many magnitudes.
    #[test]
    fn steps_are_those_of_the_format() {
        let off_by = |x: f32, m: f32, dtype| {
            Deviation::of(&[x], &[x], &[x], &[m], dtype, Tolerance::default()).max_steps
        };
        for x in [
            1.0f32, 1.5, 0.7, 3e-5, 40_000.0, 1e-7, -2.3, 1e18, 1e-38, -3e-20,
        ] {
            let bf = bf16::from_f32(x);
            let next = bf16::from_bits(bf.to_bits() + 1).to_f32();
            assert_eq!(off_by(bf.to_f32(), next, DType::BF16), 1.0, "{x}");
            assert_eq!(off_by(x, f32::from_bits(x.to_bits() + 1), DType::F32), 1.0);
            if x.abs() < 60_000.0 {
                let half = f16::from_f32(x);
                let next = f16::from_bits(half.to_bits() + 1).to_f32();
                assert_eq!(off_by(half.to_f32(), next, DType::F16), 1.0, "{x}");
            }
        }
        assert_eq!(off_by(1.0, f32::NAN, DType::BF16), f64::INFINITY);
        assert_eq!(off_by(f32::NAN, 1.0, DType::F32), f64::INFINITY);
    }

    #[test]
    fn sums_are_those_of_single_elements() {
        let numbers = |seed: f32| -> Vec<f32> {
            (0..1023)
                .map(|i| ((i as f32 + seed) * 0.37).sin())
                .collect()
        };
        let (w, mut e) = (numbers(0.0), numbers(0.1));
        e[7] = w[7];
        let round = |x: &f32| bf16::from_f32(*x).to_f32();
        let (r, mut m): (Vec<f32>, Vec<f32>) =
            (w.iter().map(round).collect(), e.iter().map(round).collect());
        m[100] = r[100];
        let exact = Tolerance::default();
        let all = Deviation::of(&w, &r, &e, &m, DType::BF16, exact);
        let single = (0..w.len())
            .map(|i| {
                Deviation::of(
                    &w[i..=i],
                    &r[i..=i],
                    &e[i..=i],
                    &m[i..=i],
                    DType::BF16,
                    exact,
                )
            })
            .fold(Deviation::default(), Deviation::with);
        assert_eq!(
            (all.max_steps, all.changed, all.unchanged),
            (single.max_steps, single.changed, single.unchanged)
        );
        let loose = Tolerance {
            absolute: 0.0,
            relative: 2f32.powi(-8),
        };
        let steps =
            |e: f32, m: f32| Deviation::of(&[e], &[e], &[e], &[m], DType::BF16, loose).max_steps;
        assert_eq!((steps(1.0, 1.0), steps(1.0, 1.003_906_2)), (0.0, 0.0));
        assert_eq!(steps(1.0, 1.007_812_5), 0.5);
        assert!(all.changed == 1022 && all.unchanged >= 1);
        for (a, b) in [
            (all.weight, single.weight),
            (all.delta, single.delta),
            (all.carried, single.carried),
        ] {
            assert!(a > 0.0 && (a - b).abs() < 1e-6 * a);
        }
    }
}
