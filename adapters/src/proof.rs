//! Proves that merged weights are base + adapter: each targeted tensor is computed again and compared, every other
//! tensor must be the base's, byte for byte.

use crate::export::{Change, changed, encode_parallel, panels, read_panel};
use crate::merge::Updates;
use crate::{PeftAdapter, Result, WeightView, Weights};
use candle_core::DType;
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Serialize;

/// More rounding steps than this from base + adapter and a tensor is not their sum. One step, not a half, so that
/// files of programs that round the update before they add it pass.
const MOST_STEPS: f64 = 1.0;

/// What comparing merged weights with base + adapter found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TensorProof {
    /// Tensors that the adapter changes.
    pub targeted: usize,
    /// Tensors that are the base's, byte for byte (or rounded once, where the dtype was changed).
    pub untouched: usize,
    /// Largest deviation from base + adapter, in rounding steps of the stored dtype at the weight's magnitude.
    pub max_steps: f64,
    /// The tensor with that deviation, if there is any.
    pub worst: Option<String>,
    /// ‖Δ‖ / ‖W‖ over the targeted tensors: how much the adapter changes at all.
    pub relative_change: f64,
    /// Which part of Δ the stored weights carry, as a projection: 1 if rounding lost nothing.
    pub surviving: f64,
    /// Fraction of the elements that the adapter changes and whose stored value is still the base's.
    pub lost_in_rounding: f64,
    /// Each tensor that is not what it should be, and how.
    pub problems: Vec<String>,
}

impl TensorProof {
    /// Whether merged = base + adapter.
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }

    /// Things that are no error and that one would want to know.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.relative_change < 1e-6 {
            let change = self.relative_change;
            warnings.push(format!(
                "the adapter changes the weights by {change:.1e} of their norm: next to nothing"
            ));
        } else if self.surviving < 0.9 || self.lost_in_rounding > 0.5 {
            let (surviving, lost) = (100.0 * self.surviving, 100.0 * self.lost_in_rounding);
            warnings.push(format!(
                "{surviving:.1} % of the change survives rounding ({lost:.1} % of the weights stay as they were): write f32"
            ));
        }
        warnings
    }
}

/// Compares `merged` with `base` + `adapter`. Differences are in the proof; an error means it could not be made.
pub fn verify_tensors(
    base: &Weights,
    adapter: &PeftAdapter,
    merged: &Weights,
) -> Result<TensorProof> {
    let updates = Updates::new(base, adapter)?;
    let mut proof = TensorProof::default();
    let mut sums = Sums::default();
    for view in base.views() {
        let Ok(other) = merged.view(&view.name) else {
            proof.problems.push(format!("`{}` is missing", view.name));
            continue;
        };
        if other.shape != view.shape {
            proof.problems.push(format!(
                "`{}` has shape {:?} for {:?}",
                view.name, other.shape, view.shape
            ));
            continue;
        }
        let change = updates.change(view);
        if !matches!(change, Change::Keep) {
            proof.targeted += 1;
            let of_tensor = targeted(view, &change, &other)?;
            if of_tensor.max_steps > MOST_STEPS {
                let steps = of_tensor.max_steps;
                proof.problems.push(format!(
                    "`{}` is {steps} rounding steps from base + adapter",
                    view.name
                ));
            }
            if of_tensor.max_steps > sums.max_steps {
                proof.worst = Some(view.name.clone());
            }
            sums = sums.with(of_tensor);
        } else if untouched(view, &other)? {
            proof.untouched += 1;
        } else {
            proof.problems.push(format!(
                "`{}` has no adapter and differs from the base",
                view.name
            ));
        }
    }
    for name in merged.names().filter(|n| !base.has(n)) {
        proof.problems.push(format!("`{name}` is not in the base"));
    }
    let ratio = |a: f64, b: f64, if_none: f64| if b == 0.0 { if_none } else { a / b };
    proof.max_steps = sums.max_steps;
    proof.relative_change = ratio(sums.delta.sqrt(), sums.weight.sqrt(), 0.0);
    proof.surviving = ratio(sums.carried, sums.delta, 1.0);
    proof.lost_in_rounding = ratio(sums.unchanged as f64, sums.changed as f64, 0.0);
    Ok(proof)
}

/// Sums over elements of targeted tensors.
#[derive(Clone, Copy, Default)]
struct Sums {
    max_steps: f64,
    /// Σ W²
    weight: f64,
    /// Σ Δ²
    delta: f64,
    /// Σ (stored − round(W)) Δ
    carried: f64,
    /// Elements with Δ ≠ 0, and those of them that are stored as the base's.
    changed: u64,
    unchanged: u64,
}

impl Sums {
    fn with(self, other: Sums) -> Sums {
        Sums {
            max_steps: self.max_steps.max(other.max_steps),
            weight: self.weight + other.weight,
            delta: self.delta + other.delta,
            carried: self.carried + other.carried,
            changed: self.changed + other.changed,
            unchanged: self.unchanged + other.unchanged,
        }
    }
}

fn targeted(view: &WeightView, change: &Change, merged: &WeightView) -> Result<Sums> {
    let (rows, columns) = view.rows_and_columns();
    let (weight, stored) = (
        view.matrix_of(rows, columns)?,
        merged.matrix_of(rows, columns)?,
    );
    let dtype = merged.float_dtype().unwrap_or(DType::F32);
    let (matrix, update) = changed(view, change)?;
    let mut sums = Sums::default();
    for panel in panels(rows, columns) {
        let base = read_panel(&weight, None, panel.clone())?;
        let wanted = read_panel(&matrix, update, panel.clone())?;
        let found = read_panel(&stored, None, panel)?;
        const PIECE: usize = 1 << 14;
        let pieces: Vec<Sums> = (
            base.par_chunks(PIECE),
            wanted.par_chunks(PIECE),
            found.par_chunks(PIECE),
        )
            .into_par_iter()
            .map(|(base, wanted, found)| match dtype {
                DType::BF16 => compare(base, wanted, found, Steps::of(7, -126), |x| {
                    bf16::from_f32(x).to_f32()
                }),
                DType::F16 => compare(base, wanted, found, Steps::of(10, -14), |x| {
                    f16::from_f32(x).to_f32()
                }),
                _ => compare(base, wanted, found, Steps::of(23, -126), |x| x),
            })
            .collect();
        // Added in order: the same sum for any number of threads.
        sums = pieces.into_iter().fold(sums, Sums::with);
    }
    Ok(sums)
}

fn compare(
    base: &[f32],
    wanted: &[f32],
    found: &[f32],
    steps: Steps,
    round: impl Fn(f32) -> f32,
) -> Sums {
    let mut sums = Sums::default();
    for ((&w, &e), &m) in base.iter().zip(wanted).zip(found) {
        // Where W and Δ cancel, the step is that of W: the sum cannot be more exact than its terms.
        let deviation = f64::from((m - e).abs()) * steps.in_one(w.abs().max(e.abs()));
        // A NaN must not pass for small.
        if deviation > sums.max_steps || deviation.is_nan() {
            sums.max_steps = if deviation.is_nan() {
                f64::INFINITY
            } else {
                deviation
            };
        }
        let rounded = round(w);
        let (w, delta) = (f64::from(w), f64::from(e) - f64::from(w));
        sums.weight += w * w;
        sums.delta += delta * delta;
        sums.carried += (f64::from(m) - f64::from(rounded)) * delta;
        sums.changed += u64::from(delta != 0.0);
        sums.unchanged += u64::from(delta != 0.0 && m == rounded);
    }
    sums
}

/// Distances between neighbouring numbers of a float format.
#[derive(Clone, Copy)]
struct Steps {
    mantissa: i32,
    smallest: i32,
}

impl Steps {
    /// By the bits after the leading one, and the exponent of the smallest normal number.
    fn of(mantissa: i32, smallest: i32) -> Self {
        Self { mantissa, smallest }
    }

    /// How many steps at the magnitude `x` make one: a power of two, put together from its bits.
    fn in_one(self, x: f32) -> f64 {
        let exponent = ((x.to_bits() >> 23) as i32 - 127).max(self.smallest);
        f64::from_bits(((self.mantissa - exponent + 1023) as u64) << 52)
    }
}

/// Whether the merged tensor is the base's: the same bytes, or, in another dtype, each number rounded once.
fn untouched(view: &WeightView, merged: &WeightView) -> Result<bool> {
    let same_bytes = || view.with_bytes(|a| merged.with_bytes(|b| a == b))?;
    let Some(dtype) = merged.float_dtype() else {
        return Ok(view.dtype_name() == merged.dtype_name() && same_bytes()?);
    };
    if view.bytes_are(dtype) && merged.bytes_are(dtype) {
        return same_bytes();
    }
    if !view.is_float() {
        return Ok(false);
    }
    let (rows, columns) = view.rows_and_columns();
    let matrix = view.matrix_of(rows, columns)?;
    let width = columns * dtype.size_in_bytes();
    for panel in panels(rows, columns) {
        let bytes = panel.start * width..panel.end * width;
        let expected = encode_parallel(&view.name, &read_panel(&matrix, None, panel)?, dtype)?;
        if !merged.with_bytes(|b| b.get(bytes) == Some(&expected[..]))? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_format() {
        for x in [1.0f32, 1.5, 0.7, 3e-5, 40_000.0, 1e-7] {
            let next = bf16::from_bits(bf16::from_f32(x).to_bits() + 1).to_f32();
            let step = f64::from(next) - f64::from(bf16::from_f32(x).to_f32());
            assert_eq!(step * Steps::of(7, -126).in_one(x), 1.0, "{x}");
            let next = f16::from_bits(f16::from_f32(x).to_bits() + 1).to_f32();
            let step = f64::from(next) - f64::from(f16::from_f32(x).to_f32());
            assert_eq!(step * Steps::of(10, -14).in_one(x), 1.0, "{x}");
            let step = f64::from(x.next_up()) - f64::from(x);
            assert_eq!(step * Steps::of(23, -126).in_one(x), 1.0, "{x}");
        }
    }
}
