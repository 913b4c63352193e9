//! What becomes of a tensor, read by rows: as it is, with a low-rank update added in f32, or another tensor instead.

use crate::{Error, Result, WeightView};
use candle_core::Tensor;
use kernels::{LowRankRows, Matrix, Tolerance};
use std::ops::Range;

/// What becomes of one tensor.
#[derive(Clone)]
pub(crate) enum Change<'a> {
    Keep,
    /// W + scaling · B A, each row then brought to its magnitude if there are any.
    Add(LowRank<'a>),
    /// The tensor instead.
    Replace(&'a Tensor),
}

/// A (r, in) and B (out, r), and DoRA's magnitudes (out), in f32.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub module: &'a str,
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub rank: usize,
    pub scaling: f64,
    pub magnitude: Option<&'a [f32]>,
}

/// How an update is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it is written.
    Gemm,
    /// As it is proven: by loops that share no code with the other.
    Plain,
}

/// A tensor and its change, ready to be read by rows.
pub(crate) struct Changed<'a> {
    pub view: &'a WeightView,
    pub rows: usize,
    pub columns: usize,
    change: Change<'a>,
    base: Matrix,
    instead: Option<Matrix>,
    /// The largest ‖column‖ of A.
    widest: f32,
}

impl<'a> Changed<'a> {
    /// Opens the tensor: quantized or made here and now, where it is of that kind.
    pub(crate) fn open(view: &'a WeightView, change: Change<'a>) -> Result<Self> {
        let (rows, columns) = view.rows_and_columns();
        let instead = match &change {
            Change::Replace(tensor) => Some(Matrix::dense(tensor.reshape((rows, columns))?)),
            _ => None,
        };
        let widest = match &change {
            Change::Add(update) => widest_column(update.a, columns),
            _ => 0.0,
        };
        Ok(Self {
            view,
            rows,
            columns,
            change,
            base: view.matrix_of(rows, columns)?,
            instead,
            widest,
        })
    }

    /// The base's rows, in f32.
    pub(crate) fn read_base(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        out.resize(rows.len() * self.columns, 0.0);
        Ok(self.base.read_rows_f32(rows, out)?)
    }

    /// By how much the two ways of computing a row may differ in f32. B A is a sum of r products, each rounded to 24 bits:
    /// at random that adds up to less than 2 √r roundings of ‖b‖ ‖a‖; the sum with W and the row's factor are rounded
    /// once or twice each.
    pub(crate) fn tolerance(&self, row: usize, factor: f32) -> Tolerance {
        let Change::Add(update) = &self.change else {
            return Tolerance::default();
        };
        let b = &update.b[row * update.rank..(row + 1) * update.rank];
        let length = b.iter().map(|b| b * b).sum::<f32>().sqrt();
        let roundings = 2.0 * (update.rank as f32).sqrt() * 2f32.powi(-24);
        let scale = (update.scaling as f32 * factor).abs();
        Tolerance {
            absolute: roundings * scale * length * self.widest,
            relative: 2f32.powi(-22),
        }
    }

    /// The rows as they should become, in f32, from `base` as [`Self::read_base`] gives them. Returns the factors that
    /// magnitudes have put on the rows.
    pub(crate) fn read(
        &self,
        rows: Range<usize>,
        base: &[f32],
        way: Way,
        out: &mut Vec<f32>,
    ) -> Result<Vec<f32>> {
        let update = match (&self.change, &self.instead) {
            (Change::Add(update), _) => update,
            (_, Some(instead)) => {
                out.resize(base.len(), 0.0);
                instead.read_rows_f32(rows, out)?;
                return Ok(Vec::new());
            }
            _ => {
                out.clear();
                out.extend_from_slice(base);
                return Ok(Vec::new());
            }
        };
        let low_rank = LowRankRows {
            b: &update.b[rows.start * update.rank..rows.end * update.rank],
            a: update.a,
            rank: update.rank,
            scaling: update.scaling as f32,
        };
        out.resize(base.len(), 0.0);
        match way {
            Way::Gemm => low_rank.added(base, out, self.columns)?,
            Way::Plain => low_rank.added_plainly(base, out, self.columns)?,
        }
        let Some(magnitude) = update.magnitude else {
            return Ok(Vec::new());
        };
        set_lengths(out, self.columns, &magnitude[rows.clone()]).map_err(|row| Error::ZeroRow {
            module: update.module.into(),
            row: rows.start + row,
        })
    }
}

/// These rows in ranges of about `elements` elements, but whole rows.
pub(crate) fn panels(rows: Range<usize>, columns: usize, elements: usize) -> Vec<Range<usize>> {
    let step = (elements / columns.max(1)).max(1);
    let end = rows.end;
    let panel = |first: usize| first..(first + step).min(end);
    rows.step_by(step).map(panel).collect()
}

fn widest_column(a: &[f32], columns: usize) -> f32 {
    let mut squares = vec![0f32; columns];
    for row in a.chunks_exact(columns.max(1)) {
        squares
            .iter_mut()
            .zip(row)
            .for_each(|(sum, a)| *sum += a * a);
    }
    squares.into_iter().fold(0.0, f32::max).sqrt()
}

/// Brings each row to the length m: times m / ‖row‖, both in f32. Returns the factors, or the first row that is all zeros.
fn set_lengths(
    values: &mut [f32],
    columns: usize,
    magnitudes: &[f32],
) -> std::result::Result<Vec<f32>, usize> {
    let squares = crate::dora::row_squares(values, columns);
    if let Some(row) = squares.iter().position(|s| *s == 0.0) {
        return Err(row);
    }
    let factor = |(square, m): (f64, &f32)| m / square.sqrt() as f32;
    let factors: Vec<f32> = squares.into_iter().zip(magnitudes).map(factor).collect();
    for (row, factor) in values.chunks_exact_mut(columns.max(1)).zip(&factors) {
        row.iter_mut().for_each(|w| *w *= factor);
    }
    Ok(factors)
}
