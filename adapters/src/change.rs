//! What becomes of a tensor, read by rows or by tiles: as it is, with a low-rank update added in f32, or another tensor instead.

use crate::{Error, Result, WeightView};
use candle_core::{DType, Tensor};
use kernels::{Bytes, LOW_RANK_COLUMNS, LowRankRows, Matrix, Tolerance};
use std::ops::Range;
use std::sync::Arc;

/// Elements of a tile: the buffers that a thread needs of it, and what is read for it, fit the second-level cache that
/// two threads share.
const TILE: usize = 1 << 12;

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
    Tiled,
    /// As it is proven: by loops that share no code with the other.
    Plain,
}

/// Some columns of some rows.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// Some columns of A, one after another, as a proof collects them for itself.
#[derive(Default)]
pub(crate) struct Gathered {
    columns: Range<usize>,
    a: Vec<f32>,
}

/// A tensor and its change, ready to be read by rows or by tiles.
#[derive(Clone)]
pub(crate) struct Changed<'a> {
    pub view: &'a WeightView,
    pub rows: usize,
    pub columns: usize,
    of: Arc<Prepared<'a>>,
    base: Matrix,
    /// The row of the tensor that is the base's first.
    first: usize,
    /// The base's bytes, where they are numbers as they are.
    plain: Option<(Bytes, DType)>,
}

/// What is made once of a tensor's change.
struct Prepared<'a> {
    change: Change<'a>,
    instead: Option<Matrix>,
    /// By row, how far two ways of computing it may be apart: see [`Changed::tolerance`].
    tolerances: Vec<f32>,
    /// A's columns by strips of [`LOW_RANK_COLUMNS`], each as (r, columns), one after another; nothing where magnitudes
    /// need whole rows.
    strips: Vec<f32>,
}

impl<'a> Changed<'a> {
    /// Opens the tensor: quantized or made here and now, where it is of that kind.
    pub(crate) fn open(view: &'a WeightView, change: Change<'a>) -> Result<Self> {
        let (rows, columns) = view.rows_and_columns();
        let instead = match &change {
            Change::Replace(tensor) => Some(Matrix::dense(tensor.reshape((rows, columns))?)),
            _ => None,
        };
        let (tolerances, strips) = match &change {
            Change::Add(update) if update.magnitude.is_none() => {
                (tolerances(update, columns), strips(update.a, columns))
            }
            Change::Add(update) => (tolerances(update, columns), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Self {
            view,
            rows,
            columns,
            of: Arc::new(Prepared {
                change,
                instead,
                tolerances,
                strips,
            }),
            base: view.matrix_of(rows, columns)?,
            first: 0,
            plain: None,
        })
    }

    /// The same, but its base's rows are read from these bytes, which hold only these rows.
    pub(crate) fn with_rows(&self, rows: Range<usize>, bytes: Bytes) -> Result<Self> {
        let base = self.view.matrix_in(&bytes, rows.len(), self.columns)?;
        let dtype = self.view.float_dtype();
        Ok(Self {
            base,
            first: rows.start,
            plain: dtype.map(|dtype| (bytes, dtype)),
            ..self.clone()
        })
    }

    /// What to read at a time so that it stays in the caches: tiles where rows can be read in parts, else whole rows,
    /// about `elements` of them.
    pub(crate) fn tiles(&self, rows: Range<usize>, elements: usize) -> Vec<Tile> {
        if self.plain.is_none() || self.of.strips.is_empty() {
            let tile = |rows| Tile {
                rows,
                columns: 0..self.columns,
            };
            return panels(rows, self.columns, elements)
                .into_iter()
                .map(tile)
                .collect();
        }
        let mut tiles = Vec::new();
        for first in (0..self.columns).step_by(LOW_RANK_COLUMNS) {
            let columns = first..(first + LOW_RANK_COLUMNS).min(self.columns);
            for rows in panels(rows.clone(), LOW_RANK_COLUMNS, TILE) {
                let columns = columns.clone();
                tiles.push(Tile { rows, columns });
            }
        }
        tiles
    }

    /// The base's rows, in f32.
    pub(crate) fn read_base(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        out.resize(rows.len() * self.columns, 0.0);
        let rows = rows.start - self.first..rows.end - self.first;
        Ok(self.base.read_rows_f32(rows, out)?)
    }

    /// The base's tile, in f32.
    pub(crate) fn read_base_tile(&self, tile: &Tile, out: &mut Vec<f32>) -> Result<()> {
        let Some((bytes, dtype)) = &self.plain else {
            return self.read_base(tile.rows.clone(), out);
        };
        let (bytes, width) = (bytes.as_slice(), dtype.size_in_bytes());
        out.resize(tile.rows.len() * tile.columns.len(), 0.0);
        let rows = out.chunks_exact_mut(tile.columns.len().max(1));
        for (row, out) in tile.rows.clone().zip(rows) {
            let start = (row - self.first) * self.columns + tile.columns.start;
            let bytes = &bytes[start * width..(start + out.len()) * width];
            kernels::widen_bytes(bytes, *dtype, out);
        }
        Ok(())
    }

    /// By how much the two ways of computing a row may differ in f32. B A is a sum of r products, each rounded to 24 bits:
    /// at random that adds up to less than 2 √r roundings of ‖b‖ ‖a‖; the sum with W and the row's factor are rounded
    /// once or twice each.
    pub(crate) fn tolerance(&self, row: usize, factor: f32) -> Tolerance {
        let Some(of_row) = self.of.tolerances.get(row) else {
            return Tolerance::default();
        };
        Tolerance {
            absolute: of_row * factor.abs(),
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
        let columns = 0..self.columns;
        let tile = Tile { rows, columns };
        self.read_tile(&tile, base, way, &mut Gathered::default(), out)
    }

    /// As [`Self::read`], of a tile. What is gathered serves the next tile of the same tensor.
    pub(crate) fn read_tile(
        &self,
        tile: &Tile,
        base: &[f32],
        way: Way,
        gathered: &mut Gathered,
        out: &mut Vec<f32>,
    ) -> Result<Vec<f32>> {
        let rows = tile.rows.clone();
        let update = match (&self.of.change, &self.of.instead) {
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
        let (whole, width) = (tile.columns.len() == self.columns, tile.columns.len());
        let a = match way {
            _ if whole => update.a,
            // A strip follows those before it, r numbers for each of their columns.
            Way::Tiled => {
                &self.of.strips[update.rank * tile.columns.start..][..update.rank * width]
            }
            Way::Plain => gathered.columns_of(update.a, self.columns, &tile.columns),
        };
        let low_rank = LowRankRows {
            b: &update.b[rows.start * update.rank..rows.end * update.rank],
            a,
            rank: update.rank,
            scaling: update.scaling as f32,
        };
        out.resize(base.len(), 0.0);
        match way {
            Way::Tiled => low_rank.added(base, out, width)?,
            Way::Plain => low_rank.added_plainly(base, out, width)?,
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

impl Gathered {
    /// To be called before the first tile of another tensor.
    pub(crate) fn forget(&mut self) {
        self.columns = 0..0;
    }

    fn columns_of(&mut self, a: &[f32], of: usize, columns: &Range<usize>) -> &[f32] {
        if self.columns != *columns {
            self.a.clear();
            for row in a.chunks_exact(of.max(1)) {
                self.a.extend_from_slice(&row[columns.clone()]);
            }
            self.columns = columns.clone();
        }
        &self.a
    }
}

/// A (r, columns) by strips of columns, each of them (r, columns).
fn strips(a: &[f32], columns: usize) -> Vec<f32> {
    let mut strips = Vec::with_capacity(a.len());
    for first in (0..columns).step_by(LOW_RANK_COLUMNS) {
        let end = (first + LOW_RANK_COLUMNS).min(columns);
        a.chunks_exact(columns)
            .for_each(|row| strips.extend_from_slice(&row[first..end]));
    }
    strips
}

/// These rows in ranges of about `elements` elements, but whole rows.
pub(crate) fn panels(rows: Range<usize>, columns: usize, elements: usize) -> Vec<Range<usize>> {
    let step = (elements / columns.max(1)).max(1);
    let end = rows.end;
    let panel = |first: usize| first..(first + step).min(end);
    rows.step_by(step).map(panel).collect()
}

/// 2 √r roundings of s ‖b‖ ‖a‖ for each row b of B and the longest column a of A.
fn tolerances(update: &LowRank, columns: usize) -> Vec<f32> {
    let roundings = 2.0 * (update.rank as f32).sqrt() * 2f32.powi(-24);
    let most = roundings * (update.scaling as f32).abs() * widest_column(update.a, columns);
    let length = |b: &[f32]| b.iter().map(|b| b * b).sum::<f32>().sqrt();
    let rows = update.b.chunks_exact(update.rank.max(1));
    rows.map(|b| most * length(b)).collect()
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

/// Σ w² of each row of `columns` numbers, in f64.
fn row_squares(w: &[f32], columns: usize) -> Vec<f64> {
    let square = |row: &[f32]| row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    w.chunks_exact(columns.max(1)).map(square).collect()
}

/// Brings each row to the length m: times m / ‖row‖, both in f32. Returns the factors, or the first row that is all zeros.
fn set_lengths(
    values: &mut [f32],
    columns: usize,
    magnitudes: &[f32],
) -> std::result::Result<Vec<f32>, usize> {
    let squares = row_squares(values, columns);
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
