//! Two models' tensors side by side.

use super::AlgebraError;
use crate::change::{Change, Changed, panels};
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
    let of_base = Changed::open(base, Change::Keep)?;
    let of_tuned = Changed::open(tuned, Change::Keep)?;
    let (mut base_rows, mut tuned_rows) = (Vec::new(), Vec::new());
    for panel in panels(0..of_base.rows, of_base.columns, 1 << 20) {
        let first = panel.start * of_base.columns;
        of_base.read_base(panel.clone(), &mut base_rows)?;
        of_tuned.read_base(panel, &mut tuned_rows)?;
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
