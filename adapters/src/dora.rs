//! DoRA: the length of each row of a weight is trained apart from its direction.
//!
//! Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024; `DoraLinearLayer` of huggingface/peft. With
//! W the base, Δ = s B A, n = ‖W + Δ‖ over each row, m the trained magnitudes and f = m / n (N):
//!
//! ```text
//! without dropout   z = x (W + Δ)ᵀ                    y = f ∘ z + b
//! with dropout d    z = d(x) (W + Δ)ᵀ                 y = x Wᵀ + b + d(x) Δᵀ + (f − 1) ∘ z
//! backward          dm = Σ_T dy ∘ z / n               the rest: low_rank.rs
//! ```
//!
//! The two agree where d is the identity. The second is PEFT's: its base product of what dropout left is added at a
//! factor of f − 1, so a step with dropout costs a second product with W, forward and backward. As in the paper's
//! section 4.3, n counts as a constant in the backward pass.
//!
//! n changes with every step: [`kernels::row_norms`]. The base is read through [`Matrix`], so it may be quantized; on a
//! GPU nothing of it is waited for.

use crate::{Error, ParamId, Result};
use candle_core::{DType, Device, Tensor};
use kernels::{LowRankUpdate, Matrix, RowSquares};

/// The magnitudes of one linear layer.
pub(crate) struct Dora {
    /// m (N), in the accumulate dtype.
    pub magnitude: Tensor,
    pub param: Option<ParamId>,
    of_rows: Rows,
}

enum Rows {
    /// A and B change: what stays of each row.
    Squares(RowSquares),
    /// Nothing changes: f.
    Factors(Tensor),
}

/// What [`Dora::factors`] found of one forward pass, both (N).
pub(crate) struct Factors {
    /// f
    pub factor: Tensor,
    /// n, if the magnitudes are trained.
    pub norm: Option<Tensor>,
}

impl Dora {
    /// With the given magnitudes, or, where training starts, with those by which the layer is the base's: ‖W + Δ‖.
    /// `trained` says whether A, B and m will change.
    pub(crate) fn new(
        module: &str,
        matrix: &Matrix,
        update: LowRankUpdate,
        magnitude: Option<Tensor>,
        trained: bool,
    ) -> Result<Self> {
        let squares = RowSquares::of(matrix)?;
        let norms = kernels::row_norms(matrix, &squares, update)?;
        let lengths = norms.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        if let Some(row) = lengths.to_vec1::<f64>()?.iter().position(|n| *n <= 0.0) {
            return Err(Error::ZeroRow {
                module: module.into(),
                row,
            });
        }
        let magnitude = match magnitude {
            Some(magnitude) => magnitude,
            None => norms.copy()?,
        };
        let of_rows = match trained {
            true => Rows::Squares(squares),
            false => Rows::Factors(kernels::divide(&magnitude, &norms)?),
        };
        Ok(Self {
            magnitude,
            param: None,
            of_rows,
        })
    }

    pub(crate) fn factors(&self, matrix: &Matrix, update: LowRankUpdate) -> Result<Factors> {
        let squares = match &self.of_rows {
            Rows::Factors(factor) => {
                return Ok(Factors {
                    factor: factor.clone(),
                    norm: None,
                });
            }
            Rows::Squares(squares) => squares,
        };
        let norm = kernels::row_norms(matrix, squares, update)?;
        Ok(Factors {
            factor: kernels::divide(&self.magnitude, &norm)?,
            norm: Some(norm),
        })
    }
}
