//! The lengths of a weight's rows under a low-rank update: n = ‖W + s·B A‖ of each row, W (N, K), B (N, r), A (r, K).
//!
//! Source: the norm of Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024.
//!
//! The processor computes n² = ‖W‖² + 2 s W·(BA) + s² ‖BA‖², which needs neither W + s·B A nor BA: ‖W‖² is known from the
//! start, W Aᵀ costs as much as r tokens do, and the last is B (A Aᵀ) Bᵀ. The sums over r, which cancel, are in f64; a row
//! of which little is left is added up anew.
//!
//! A GPU reads W once and makes W + s·B A in registers, eight rows at a time: as many products as r tokens take, and
//! beside them no pass over W in another type. Each number is an f32; their squares are added in f64.

use crate::access::{self, dims2};
use crate::cuda::ops;
use crate::real::{Real, accumulate_dtype, with_real};
use crate::{Matrix, Op, Result, gemm};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Where the three terms of n² cancel to less than this share of them, the row is added up anew.
const CANCELLED: f64 = 0.05;

/// Elements whose squares a task adds.
const PANEL: usize = 1 << 16;

/// ‖W‖² of each row of a weight that does not change, in f64; empty for one in a GPU's memory, where nothing reads it.
#[derive(Clone, Debug)]
pub struct RowSquares(Vec<f64>);

/// What is added to a weight (N, K): s·B A, in an accumulate type.
#[derive(Clone, Copy, Debug)]
pub struct LowRankUpdate<'a> {
    /// A (r, K).
    pub a: &'a Tensor,
    /// B (N, r).
    pub b: &'a Tensor,
    /// s.
    pub scaling: f64,
}

impl RowSquares {
    /// Of a weight as it is stored.
    pub fn of(w: &Matrix) -> Result<Self> {
        if w.on_device().is_some() {
            return Ok(Self(Vec::new()));
        }
        let (n, k) = (w.rows(), w.cols());
        let hold = w.hold("row_norms")?;
        let rows = hold.rows();
        let mut squares = vec![0.0; n];
        let some = (PANEL / k.max(1)).max(1);
        squares
            .par_chunks_mut(some)
            .enumerate()
            .for_each(|(task, squares)| {
                let mut w = vec![0f32; squares.len() * k];
                let first = task * some;
                rows.read(first..first + squares.len(), &mut w);
                for (square, w) in squares.iter_mut().zip(w.chunks_exact(k.max(1))) {
                    *square = w.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
                }
            });
        Ok(Self(squares))
    }
}

/// (N), in A's type and where it lies: ‖W + s·B A‖ of each row. `squares` are the weight's.
pub fn row_norms(w: &Matrix, squares: &RowSquares, update: LowRankUpdate) -> Result<Tensor> {
    const OP: &str = "row_norms";
    let LowRankUpdate { a, b, .. } = update;
    let ((r, k), (n, of_b)) = (dims2(OP, "A", a)?, dims2(OP, "B", b)?);
    let shape = [w.rows(), w.cols()];
    if k != shape[1] {
        return Err(access::shape(OP, "A", a.dims(), "the weight", &shape));
    }
    if n != shape[0] {
        return Err(access::shape(OP, "B", b.dims(), "the weight", &shape));
    }
    if r != of_b {
        return Err(access::shape(OP, "B", b.dims(), "A", a.dims()));
    }
    if let Some(w) = w.on_device() {
        return ops::row_norms(w, update);
    }
    if squares.0.len() != n {
        let found = [squares.0.len()];
        return Err(access::shape(
            OP,
            "the squares",
            &found,
            "the weight",
            &shape,
        ));
    }
    with_real!(OP, accumulate_dtype(a.dtype()), T => {
        let norms = norms(w, &squares.0, update, (n, r))?;
        access::tensor(norms.into_iter().map(T::of).collect::<Vec<T>>(), n)
    })
}

/// n of each row, given ‖W‖².
fn norms(
    w: &Matrix,
    squares: &[f64],
    update: LowRankUpdate,
    (n, r): (usize, usize),
) -> Result<Vec<f64>> {
    let LowRankUpdate { a, b, scaling: s } = update;
    // (N, r) each, row after row.
    let crossed = flat(&crate::linear(a, w)?.t()?)?;
    let zeros = |rows| Tensor::zeros((rows, r), accumulate_dtype(a.dtype()), a.device());
    let (mut gram, mut beyond) = (zeros(r)?, zeros(n)?);
    gemm(&mut gram, 0.0, 1.0, a, Op::Plain, a, Op::Transposed)?;
    gemm(&mut beyond, 0.0, 1.0, b, Op::Plain, &gram, Op::Plain)?;
    let (a, b, beyond) = (flat(a)?, flat(b)?, flat(&beyond)?);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let hold = w.hold("row_norms")?;
    let rows = hold.rows();
    let norm = |(i, square): (usize, &f64)| {
        let row = i * r..(i + 1) * r;
        let b = &b[row.clone()];
        let delta = s * s * dot(b, &beyond[row.clone()]);
        let sum = square + 2.0 * s * dot(b, &crossed[row]) + delta;
        if sum >= CANCELLED * (square + delta) {
            return sum.sqrt();
        }
        let mut w = vec![0f32; w.cols()];
        rows.read(i..i + 1, &mut w);
        norm_of_row(&w, &a, b, s)
    };
    Ok(squares.par_iter().enumerate().map(norm).collect())
}

/// ‖w + s·b A‖ of one row, element by element.
fn norm_of_row(w: &[f32], a: &[f64], b: &[f64], scaling: f64) -> f64 {
    let columns = w.len();
    let element = |(j, w): (usize, &f32)| {
        let delta: f64 = b
            .iter()
            .enumerate()
            .map(|(l, b)| b * a[l * columns + j])
            .sum();
        f64::from(*w) + scaling * delta
    };
    let squares = w.iter().enumerate().map(element).map(|x| x * x);
    squares.sum::<f64>().sqrt()
}

fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn numbers(rows: usize, columns: usize, seed: f64) -> Tensor {
        let list: Vec<f32> = (0..rows * columns)
            .map(|i| ((i as f64 + seed) * 0.731).sin() as f32)
            .collect();
        Tensor::from_vec(list, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Beside W + s·B A made whole in f64, with one row of which a thousandth is left: B A is that row's negative.
    #[test]
    fn norms_are_those_of_the_whole_sum() {
        for (n, k, r) in [(5, 123, 7), (70, 40, 3), (1, 9, 1)] {
            let (a, mut b, s) = (numbers(r, k, 0.3), numbers(n, r, 1.9), 0.7);
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let mut w = numbers(n, k, 5.1);
            for cancelled in [false, true] {
                if cancelled {
                    let update = (b.matmul(&a).unwrap() * -s).unwrap();
                    w = (update + (w * 1e-3).unwrap()).unwrap();
                    b = b.copy().unwrap();
                }
                let sum = (wide(&b).matmul(&wide(&a)).unwrap() * s).unwrap();
                let sum = (wide(&w) + sum).unwrap();
                let expected: Vec<f64> = sum.sqr().unwrap().sum(1).unwrap().to_vec1().unwrap();
                let matrix = Matrix::dense(w.clone());
                let squares = RowSquares::of(&matrix).unwrap();
                let update = LowRankUpdate {
                    a: &a,
                    b: &b,
                    scaling: s,
                };
                let found: Vec<f32> = row_norms(&matrix, &squares, update)
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (f64::from(*found) / expected.sqrt() - 1.0).abs();
                    assert!(off < 1e-6, "({n}, {k}, {r}) {cancelled}: {off}");
                }
            }
        }
    }
}
