//! A low-rank update added to rows of a weight, W + s·B A, in two ways that share no code: by GEMM, which is what is
//! written, and by plain loops, which is what a proof holds it against.

use crate::gemm::{Mat, MatMut, ONE, matmul};
use crate::simd::wide;
use crate::{Error, Result};

/// Some rows of B (n, r), all of A (r, columns), and what their product is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct LowRankRows<'a> {
    /// Rows of B, one after another.
    pub b: &'a [f32],
    /// A, row after row.
    pub a: &'a [f32],
    /// r.
    pub rank: usize,
    /// s.
    pub scaling: f32,
}

impl LowRankRows<'_> {
    /// The number of rows, if `values` and A are of `columns` columns and B has that many rows.
    fn rows(&self, values: &[f32], columns: usize) -> Result<usize> {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let fits = rows * columns == values.len()
            && self.b.len() == rows * self.rank
            && self.a.len() == self.rank * columns;
        if fits {
            return Ok(rows);
        }
        Err(Error::Shape {
            op: "low_rank",
            left: "b, a",
            left_shape: vec![self.b.len(), self.a.len()],
            right: "values, rank, columns",
            right_shape: vec![values.len(), self.rank, columns],
        })
    }

    /// values += s·(B A), by GEMM on the calling thread.
    pub fn add_to(&self, values: &mut [f32], columns: usize) -> Result<()> {
        let rows = self.rows(values, columns)?;
        let b = Mat::new(self.b, rows, self.rank);
        let a = Mat::new(self.a, self.rank, columns);
        let out = MatMut::new(values, rows, columns);
        matmul(out, 1.0, self.scaling, b, a, ONE);
        Ok(())
    }

    /// B A alone, by GEMM on the calling thread.
    pub fn product(&self, out: &mut [f32], columns: usize) -> Result<()> {
        let rows = self.rows(out, columns)?;
        let b = Mat::new(self.b, rows, self.rank);
        let a = Mat::new(self.a, self.rank, columns);
        matmul(MatMut::new(out, rows, columns), 0.0, 1.0, b, a, ONE);
        Ok(())
    }

    /// values += s·(B A), element by element: a sum over r in its order, times s, added.
    pub fn add_plainly_to(&self, values: &mut [f32], columns: usize) -> Result<()> {
        self.rows(values, columns)?;
        /// Columns whose sums stay in registers.
        const SOME: usize = 64;
        let (rank, scaling) = (self.rank, self.scaling);
        wide!({
            let rows = values.chunks_exact_mut(columns.max(1));
            for (row, b) in rows.zip(self.b.chunks_exact(rank.max(1))) {
                let (whole, rest) = row.as_chunks_mut::<SOME>();
                for (block, w) in whole.iter_mut().enumerate() {
                    let mut sums = [0f32; SOME];
                    for (k, b) in b.iter().enumerate() {
                        let a = &self.a[k * columns + block * SOME..][..SOME];
                        for i in 0..SOME {
                            sums[i] = b.mul_add(a[i], sums[i]);
                        }
                    }
                    for i in 0..SOME {
                        w[i] = scaling.mul_add(sums[i], w[i]);
                    }
                }
                let first = columns - rest.len();
                for (i, w) in rest.iter_mut().enumerate() {
                    let a = |k: usize| self.a[k * columns + first + i];
                    let sum = (0..rank).fold(0f32, |sum, k| b[k].mul_add(a(k), sum));
                    *w = scaling.mul_add(sum, *w);
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.731).sin()).collect()
    }

    #[test]
    fn both_ways_are_the_sum_in_f64() {
        for (rows, columns, rank) in [(5, 123, 7), (3, 64, 1), (4, 200, 16), (0, 9, 2), (2, 5, 3)] {
            let (w, b, a) = (
                numbers(rows * columns, 0.3),
                numbers(rows * rank, 1.9),
                numbers(rank * columns, 7.1),
            );
            let update = LowRankRows {
                b: &b,
                a: &a,
                rank,
                scaling: 1.7,
            };
            let (mut fast, mut plain, mut alone) = (w.clone(), w.clone(), w.clone());
            update.add_to(&mut fast, columns).unwrap();
            update.add_plainly_to(&mut plain, columns).unwrap();
            update.product(&mut alone, columns).unwrap();
            for i in 0..rows {
                for j in 0..columns {
                    let product =
                        |k: usize| f64::from(b[i * rank + k]) * f64::from(a[k * columns + j]);
                    let delta: f64 = (0..rank).map(product).sum();
                    let at = i * columns + j;
                    let wanted = f64::from(w[at]) + f64::from(1.7f32) * delta;
                    assert!((f64::from(fast[at]) - wanted).abs() < 2e-6, "{i} {j}");
                    assert!((f64::from(plain[at]) - wanted).abs() < 2e-6, "{i} {j}");
                    assert!((f64::from(alone[at]) - delta).abs() < 2e-6, "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        let update = LowRankRows {
            b: &[1.0; 6],
            a: &[1.0; 8],
            rank: 2,
            scaling: 1.0,
        };
        assert!(update.add_to(&mut [0.0; 12], 4).is_ok());
        assert!(update.add_to(&mut [0.0; 13], 4).is_err());
        assert!(update.add_plainly_to(&mut [0.0; 12], 3).is_err());
    }
}
