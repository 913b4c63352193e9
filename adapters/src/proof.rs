//! Proves that merged weights are base + adapter: each targeted tensor is computed again and compared, every other
//! tensor must be the base's, byte for byte.

use crate::export::{encode_parallel, panels, read_panel};
use crate::merge::Updates;
use crate::{PeftAdapter, Result, WeightView, Weights};
use candle_core::DType;
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
    /// The tensor with that deviation.
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
        if updates.get(&view.name).is_some() {
            proof.targeted += 1;
            let of_tensor = targeted(view, &updates, &other)?;
            if !(of_tensor.max_steps <= MOST_STEPS) {
                let steps = of_tensor.max_steps;
                proof.problems.push(format!(
                    "`{}` is {steps} rounding steps from base + adapter",
                    view.name
                ));
            }
            if of_tensor.max_steps > sums.max_steps || proof.worst.is_none() {
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
            // A NaN must not pass for small.
            max_steps: if other.max_steps.is_nan() {
                f64::INFINITY
            } else {
                self.max_steps.max(other.max_steps)
            },
            weight: self.weight + other.weight,
            delta: self.delta + other.delta,
            carried: self.carried + other.carried,
            changed: self.changed + other.changed,
            unchanged: self.unchanged + other.unchanged,
        }
    }
}

fn targeted(view: &WeightView, updates: &Updates, merged: &WeightView) -> Result<Sums> {
    let (rows, columns) = view.rows_and_columns();
    let (weight, stored) = (
        view.matrix_of(rows, columns)?,
        merged.matrix_of(rows, columns)?,
    );
    let dtype = merged.float_dtype().unwrap_or(DType::F32);
    let update = updates.get(&view.name);
    let mut sums = Sums::default();
    for panel in panels(rows, columns) {
        let base = read_panel(&weight, None, panel.clone())?;
        let wanted = read_panel(&weight, update.as_ref(), panel.clone())?;
        let found = read_panel(&stored, None, panel)?;
        const PIECE: usize = 1 << 14;
        let pieces: Vec<Sums> = (
            base.par_chunks(PIECE),
            wanted.par_chunks(PIECE),
            found.par_chunks(PIECE),
        )
            .into_par_iter()
            .map(|(base, wanted, found)| compare(base, wanted, found, dtype))
            .collect();
        // Added in order: the same sum for any number of threads.
        sums = pieces.into_iter().fold(sums, Sums::with);
    }
    Ok(sums)
}

fn compare(base: &[f32], wanted: &[f32], found: &[f32], dtype: DType) -> Sums {
    let mut sums = Sums::default();
    for ((&w, &e), &m) in base.iter().zip(wanted).zip(found) {
        // Where W and Δ cancel, the step is that of W: the sum cannot be more exact than its terms.
        let steps = f64::from((m - e).abs()) / step(w.abs().max(e.abs()), dtype);
        sums.max_steps = if steps.is_nan() {
            f64::INFINITY
        } else {
            sums.max_steps.max(steps)
        };
        let (w, delta) = (f64::from(w), f64::from(e) - f64::from(w));
        let rounded = round(w as f32, dtype);
        sums.weight += w * w;
        sums.delta += delta * delta;
        sums.carried += (f64::from(m) - f64::from(rounded)) * delta;
        if delta != 0.0 {
            sums.changed += 1;
            sums.unchanged += u64::from(m == rounded);
        }
    }
    sums
}

/// Distance between neighbouring numbers of `dtype` at the magnitude `x`.
fn step(x: f32, dtype: DType) -> f64 {
    // Bits after the leading one, and the exponent of the smallest normal number.
    let (mantissa, smallest) = match dtype {
        DType::BF16 => (7, -126),
        DType::F16 => (10, -14),
        _ => (23, -126),
    };
    let exponent = match (x.to_bits() >> 23) as i32 - 127 {
        e if e < smallest => smallest,
        e => e,
    };
    2f64.powi(exponent - mantissa)
}

fn round(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => half::bf16::from_f32(x).to_f32(),
        DType::F16 => half::f16::from_f32(x).to_f32(),
        _ => x,
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
