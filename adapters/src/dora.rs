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
//! n changes with every step. n² = ‖W‖² + 2 s W·(BA) + s² ‖BA‖² needs neither W + Δ nor BA: ‖W‖² is known from the start,
//! W Aᵀ costs as much as r tokens do, and the last is B (A Aᵀ) Bᵀ. The base is read through [`Matrix`], so it may be
//! quantized. The products are made where the model lies; the sums over r, which cancel, on the processor in f64.

use crate::change::panels;
use crate::low_rank::product;
use crate::{Error, ParamId, Result};
use candle_core::{Device, Tensor};
use kernels::{Matrix, Op};
use rayon::prelude::*;

/// Where the three terms of n² cancel to less than this share of them, the row is added up anew.
const CANCELLED: f64 = 0.05;

/// The magnitudes of one linear layer.
pub(crate) struct Dora {
    /// m (N), in the accumulate dtype.
    pub magnitude: Tensor,
    pub param: Option<ParamId>,
    of_rows: Rows,
}

enum Rows {
    /// A and B change: ‖W‖² of each row.
    Squares(Vec<f64>),
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

/// A low-rank update of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Update<'a> {
    pub matrix: &'a Matrix,
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    pub scaling: f64,
}

impl Dora {
    /// With the given magnitudes, or, where training starts, with those by which the layer is the base's: ‖W + Δ‖.
    /// `trained` says whether A, B and m will change.
    pub(crate) fn new(
        module: &str,
        update: Update,
        magnitude: Option<Tensor>,
        trained: bool,
    ) -> Result<Self> {
        let squares = squares_of_rows(update.matrix)?;
        let norms = update.norms(&squares)?;
        if let Some(row) = norms.iter().position(|n| *n <= 0.0) {
            return Err(Error::ZeroRow {
                module: module.into(),
                row,
            });
        }
        let norms = vector(norms, update.a)?;
        let magnitude = match magnitude {
            Some(magnitude) => magnitude,
            None => norms.copy()?,
        };
        let of_rows = match trained {
            true => Rows::Squares(squares),
            false => Rows::Factors((&magnitude / &norms)?),
        };
        Ok(Self {
            magnitude,
            param: None,
            of_rows,
        })
    }

    pub(crate) fn factors(&self, update: Update) -> Result<Factors> {
        let squares = match &self.of_rows {
            Rows::Factors(factor) => {
                return Ok(Factors {
                    factor: factor.clone(),
                    norm: None,
                });
            }
            Rows::Squares(squares) => squares,
        };
        let norm = vector(update.norms(squares)?, update.a)?;
        Ok(Factors {
            factor: (&self.magnitude / &norm)?,
            norm: Some(norm),
        })
    }
}

impl Update<'_> {
    /// n of each row, given ‖W‖².
    fn norms(self, squares: &[f64]) -> Result<Vec<f64>> {
        let s = self.scaling;
        // (N, r) each, row after row.
        let crossed = kernels::linear(self.a, self.matrix)?.to_device(&Device::Cpu)?;
        let crossed = flat(&crossed.t()?)?;
        let gram = product(self.a, Op::Plain, self.a, Op::Transposed)?;
        let beyond = flat(&product(self.b, Op::Plain, &gram, Op::Plain)?)?;
        let (a, b) = (flat(self.a)?, flat(self.b)?);
        let rank = self.a.dim(0)?.max(1);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let norms = squares.par_iter().enumerate().map(|(i, square)| {
            let row = i * rank..(i + 1) * rank;
            let b = &b[row.clone()];
            let delta = s * s * dot(b, &beyond[row.clone()]);
            let sum = square + 2.0 * s * dot(b, &crossed[row]) + delta;
            if sum >= CANCELLED * (square + delta) {
                return Ok(sum.sqrt());
            }
            self.norm_of_row(i, b, &a)
        });
        norms.collect()
    }

    fn norm_of_row(self, row: usize, b: &[f64], a: &[f64]) -> Result<f64> {
        let columns = self.matrix.cols();
        let mut w = vec![0f32; columns];
        self.matrix.read_rows_f32(row..row + 1, &mut w)?;
        let element = |(j, w): (usize, &f32)| {
            let delta: f64 = b
                .iter()
                .enumerate()
                .map(|(k, b)| b * a[k * columns + j])
                .sum();
            f64::from(*w) + self.scaling * delta
        };
        Ok(w.iter()
            .enumerate()
            .map(element)
            .map(|x| x * x)
            .sum::<f64>()
            .sqrt())
    }
}

/// ‖W‖² of each row, in f64.
fn squares_of_rows(matrix: &Matrix) -> Result<Vec<f64>> {
    let columns = matrix.cols();
    let parts: Vec<Vec<f64>> = panels(0..matrix.rows(), columns, 1 << 16)
        .into_par_iter()
        .map(|rows| {
            let mut w = vec![0f32; rows.len() * columns];
            matrix.read_rows_f32(rows, &mut w)?;
            Ok(row_squares(&w, columns))
        })
        .collect::<Result<_>>()?;
    Ok(parts.concat())
}

/// Σ w² of each row of `columns` numbers, in f64.
pub(crate) fn row_squares(w: &[f32], columns: usize) -> Vec<f64> {
    let square = |row: &[f32]| row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    w.chunks_exact(columns.max(1)).map(square).collect()
}

/// (N), in the dtype of `like`, where it lies.
fn vector(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    let n = values.len();
    let values = Tensor::from_vec(values, n, &Device::Cpu)?;
    Ok(values.to_dtype(like.dtype())?.to_device(like.device())?)
}

fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor
        .to_device(&Device::Cpu)?
        .flatten_all()?
        .to_dtype(candle_core::DType::F64)?
        .to_vec1()?)
}
