//! Two models' tensors side by side.

use super::AlgebraError;
use crate::export::{panels, read_panel};
use crate::{Result, WeightView};

/// Whether both are stored alike, byte for byte.
pub(super) fn same_bytes(base: &WeightView, tuned: &WeightView) -> Result<bool> {
    if base.dtype_name() != tuned.dtype_name() {
        return Ok(false);
    }
    base.with_bytes(|a| tuned.with_bytes(|b| a == b))?
}

/// ‖tuned - base‖² and ‖base‖², or nothing where the two are the same. What is no float is compared by its bytes.
pub(super) fn differs(base: &WeightView, tuned: &WeightView) -> Result<Option<(f64, f64)>> {
    if same_bytes(base, tuned)? {
        return Ok(None);
    }
    if !base.is_float() || !tuned.is_float() {
        return Ok(Some((0.0, 0.0)));
    }
    let (mut delta, mut weight) = (0.0, 0.0);
    each_panel(base, tuned, |base, tuned| {
        let (d, w) = squares(base, tuned);
        delta += d;
        weight += w;
    })?;
    Ok((delta > 0.0).then_some((delta, weight)))
}

/// Σ (tuned - base)² and Σ base².
pub(super) fn squares(base: &[f32], tuned: &[f32]) -> (f64, f64) {
    let pairs = base.iter().zip(tuned);
    pairs.fold((0.0, 0.0), |(delta, weight), (b, t)| {
        let (b, t) = (f64::from(*b), f64::from(*t));
        (delta + (t - b) * (t - b), weight + b * b)
    })
}

/// Shows both tensors in f32, some rows at a time, all numbers finite.
pub(super) fn each_panel(
    base: &WeightView,
    tuned: &WeightView,
    mut look: impl FnMut(&[f32], &[f32]),
) -> Result<()> {
    let (rows, columns) = base.rows_and_columns();
    let of_base = base.matrix_of(rows, columns)?;
    let of_tuned = tuned.matrix_of(rows, columns)?;
    for panel in panels(rows, columns) {
        let first = panel.start * columns;
        let base_rows = read_panel(&of_base, None, panel.clone())?;
        let tuned_rows = read_panel(&of_tuned, None, panel)?;
        for (model, values) in [("base", &base_rows), ("tuned", &tuned_rows)] {
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return Err(AlgebraError::NotFinite {
                    model,
                    name: base.name.clone(),
                    element: first + at,
                }
                .into());
            }
        }
        look(&base_rows, &tuned_rows);
    }
    base.release();
    tuned.release();
    Ok(())
}
