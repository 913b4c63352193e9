//! Adapters as what they are to the weights: updates s·B·A, which can be measured, added, cut down, and found again in a
//! model that was tuned whole. An update is never formed where its factors will do.

mod agreement;
mod combine;
mod dense;
mod difference;
mod elementwise;
mod error;
mod extract;
mod inspect;
mod resize;
mod svd;

pub use combine::{CombineMethod, CombineOptions, Combined, combine};
pub use error::AlgebraError;
pub use extract::{ExtractOptions, Extracted, Rest, extract};
pub use inspect::{Inspection, LayerNorm, ModuleUpdate, NoOp, SavedModule, inspect};
pub use resize::{ModuleEnergy, Resized, resize};

use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// The share of ‖Δ‖² that was kept; all of nothing is all.
fn share(kept: f64, total: f64) -> f64 {
    if total > 0.0 { kept / total } else { 1.0 }
}

/// A tensor computed in f64, rounded to `dtype` for the file; what becomes infinite on the way is an error.
fn rounded(key: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let rounded = tensor.to_dtype(dtype)?;
    if kernels::sum_of_squares(&rounded)?.is_finite() {
        return Ok(rounded);
    }
    let wide = tensor
        .flatten_all()?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    let stored = rounded
        .flatten_all()?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    match stored.iter().position(|x| !x.is_finite()) {
        None => Ok(rounded),
        Some(element) if wide[element].is_finite() => Err(AlgebraError::Overflow {
            name: key.into(),
            value: wide[element],
            dtype: dtype.as_str(),
        }
        .into()),
        Some(element) => Err(Error::NotFinite {
            name: key.into(),
            element,
        }),
    }
}

/// The dtype an adapter is written in: f32, or f64 where it was read so.
fn stored_dtype<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> DType {
    let wide = tensors.into_iter().any(|t| t.dtype() == DType::F64);
    if wide { DType::F64 } else { DType::F32 }
}
