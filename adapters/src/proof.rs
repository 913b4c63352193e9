//! Proves that merged weights are base + adapter: each targeted tensor is computed again, another way, and compared;
//! every other tensor must be the base's, byte for byte.

use crate::change::{Change, Changed, Tile, panels};
use crate::encode::encode;
use crate::merge::Updates;
use crate::rounded::{Buffers, deviation_of};
use crate::{Result, WeightView, Weights};
use candle_core::DType;
use kernels::Deviation;
use rayon::prelude::*;
use serde::Serialize;

/// More rounding steps than this from base + adapter and a tensor is not their sum. One step, not a half, so that
/// files of programs that round the update before they add it pass.
const MOST_STEPS: f64 = 1.0;
/// Elements that are compared at a time, by one thread.
const PANEL: usize = 1 << 18;

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
    /// Whether the bytes were read back from the files, rather than looked at on their way to them.
    pub read_back: bool,
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

/// A proof in the making.
#[derive(Default)]
pub(crate) struct Findings {
    proof: TensorProof,
    sums: Deviation,
}

impl Findings {
    /// A tensor that the adapter changes, which may be `most` steps off.
    pub(crate) fn targeted(&mut self, name: &str, deviation: Deviation, most: f64) {
        self.proof.targeted += 1;
        if deviation.max_steps > most {
            let steps = deviation.max_steps;
            self.problem(format!(
                "`{name}` is {steps} rounding steps from base + adapter"
            ));
        }
        if deviation.max_steps > self.sums.max_steps {
            self.proof.worst = Some(name.to_owned());
        }
        self.sums = self.sums.with(deviation);
    }

    /// A tensor that is the base's.
    pub(crate) fn untouched(&mut self) {
        self.proof.untouched += 1;
    }

    /// A tensor that should be the base's.
    pub(crate) fn differs(&mut self, name: &str) {
        self.problem(format!("`{name}` has no adapter and differs from the base"));
    }

    pub(crate) fn problem(&mut self, problem: String) {
        self.proof.problems.push(problem);
    }

    pub(crate) fn finish(mut self) -> TensorProof {
        let ratio = |a: f64, b: f64, if_none: f64| if b == 0.0 { if_none } else { a / b };
        let sums = self.sums;
        self.proof.max_steps = sums.max_steps;
        self.proof.relative_change = ratio(sums.delta.sqrt(), sums.weight.sqrt(), 0.0);
        self.proof.surviving = ratio(sums.carried, sums.delta, 1.0);
        self.proof.lost_in_rounding = ratio(sums.unchanged as f64, sums.changed as f64, 0.0);
        self.proof
    }
}

/// Compares the tensors of `merged` with what the updates make of those of `base`.
pub(crate) fn verify_updates(
    base: &Weights,
    updates: &Updates,
    merged: &Weights,
) -> Result<TensorProof> {
    let mut findings = Findings::default();
    for view in base.views_in_file_order() {
        let Ok(other) = merged.view(&view.name) else {
            findings.problem(format!("`{}` is missing", view.name));
            continue;
        };
        if other.shape != view.shape {
            findings.problem(format!(
                "`{}` has shape {:?} for {:?}",
                view.name, other.shape, view.shape
            ));
            continue;
        }
        let change = updates.change(view);
        if !matches!(change, Change::Keep) {
            let dtype = other.float_dtype().unwrap_or(DType::F32);
            let deviation = targeted(view, change, &other, dtype)?;
            findings.targeted(&view.name, deviation, MOST_STEPS);
        } else if untouched(view, &other)? {
            findings.untouched();
        } else {
            findings.differs(&view.name);
        }
        view.release();
        other.release();
    }
    for name in merged.names().filter(|n| !base.has(n)) {
        findings.problem(format!("`{name}` is not in the base"));
    }
    let mut proof = findings.finish();
    proof.read_back = true;
    Ok(proof)
}

fn targeted(
    view: &WeightView,
    change: Change,
    merged: &WeightView,
    dtype: DType,
) -> Result<Deviation> {
    let changed = Changed::open(view, change)?;
    let stored = Changed::open(merged, Change::Keep)?;
    let parts: Vec<Deviation> = panels(0..changed.rows, changed.columns, PANEL)
        .into_par_iter()
        .map_init(Buffers::default, |buffers, panel| {
            changed.read_base(panel.clone(), &mut buffers.base)?;
            stored.read_base(panel.clone(), &mut buffers.found)?;
            let columns = 0..changed.columns;
            let rows = panel;
            deviation_of(&changed, &Tile { rows, columns }, dtype, buffers)
        })
        .collect::<Result<_>>()?;
    // Added in order: the same sum for any number of threads.
    Ok(parts
        .into_iter()
        .fold(Deviation::default(), Deviation::with))
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
    let base = Changed::open(view, Change::Keep)?;
    let width = base.columns * dtype.size_in_bytes();
    let same: Vec<bool> = panels(0..base.rows, base.columns, PANEL)
        .into_par_iter()
        .map(|panel| {
            let mut values = Vec::new();
            base.read_base(panel.clone(), &mut values)?;
            let mut expected = vec![0u8; panel.len() * width];
            encode(&view.name, &values, dtype, &mut expected)?;
            let bytes = panel.start * width..panel.end * width;
            merged.with_bytes(|found| found.get(bytes) == Some(&expected[..]))
        })
        .collect::<Result<_>>()?;
    Ok(same.into_iter().all(|same| same))
}
