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

    /// out = base + s·(B A), the product by GEMM on the calling thread; rounded where PEFT rounds: B A, its multiple, and
    /// the sum.
    pub fn added(&self, base: &[f32], out: &mut [f32], columns: usize) -> Result<()> {
        let rows = self.rows(out, columns)?;
        let b = Mat::new(self.b, rows, self.rank);
        let a = Mat::new(self.a, self.rank, columns);
        matmul(MatMut::new(out, rows, columns), 0.0, 1.0, b, a, ONE);
        let scaling = self.scaling;
        wide!({
            for (sum, w) in out.iter_mut().zip(base) {
                *sum = w + *sum * scaling;
            }
        });
        Ok(())
    }

    /// out = base + s·(B A), element by element: a sum over r in its order, times s, added.
    pub fn added_plainly(&self, base: &[f32], out: &mut [f32], columns: usize) -> Result<()> {
        self.rows(out, columns)?;
        /// Columns of A that stay in the first-level cache while all rows pass over them.
        const SOME: usize = 256;
        let (rank, scaling) = (self.rank, self.scaling);
        wide!({
            out.fill(0.0);
            for first in (0..columns).step_by(SOME) {
                let some = first..(first + SOME).min(columns);
                let a = |k: usize| &self.a[k * columns..][some.clone()];
                let rows = out.chunks_exact_mut(columns.max(1));
                for (row, b) in rows.zip(self.b.chunks_exact(rank.max(1))) {
                    let sums = &mut row[some.clone()];
                    // Four at a time: the sums are read and written once for four products.
                    let (fours, rest) = b.as_chunks::<4>();
                    for (four, [b0, b1, b2, b3]) in fours.iter().enumerate() {
                        let k = 4 * four;
                        let pairs = a(k).iter().zip(a(k + 1)).zip(a(k + 2)).zip(a(k + 3));
                        for (sum, (((a0, a1), a2), a3)) in sums.iter_mut().zip(pairs) {
                            let two = b1.mul_add(*a1, b0.mul_add(*a0, *sum));
                            *sum = b3.mul_add(*a3, b2.mul_add(*a2, two));
                        }
                    }
                    for (k, b) in rest.iter().enumerate() {
                        for (sum, a) in sums.iter_mut().zip(a(4 * fours.len() + k)) {
                            *sum = b.mul_add(*a, *sum);
                        }
                    }
                }
            }
            for (sum, w) in out.iter_mut().zip(base) {
                *sum = scaling.mul_add(*sum, *w);
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
            let (mut fast, mut plain) = (vec![f32::NAN; w.len()], vec![f32::NAN; w.len()]);
            update.added(&w, &mut fast, columns).unwrap();
            update.added_plainly(&w, &mut plain, columns).unwrap();
            for i in 0..rows {
                for j in 0..columns {
                    let product =
                        |k: usize| f64::from(b[i * rank + k]) * f64::from(a[k * columns + j]);
                    let delta: f64 = (0..rank).map(product).sum();
                    let at = i * columns + j;
                    let wanted = f64::from(w[at]) + f64::from(1.7f32) * delta;
                    assert!((f64::from(fast[at]) - wanted).abs() < 2e-6, "{i} {j}");
                    assert!((f64::from(plain[at]) - wanted).abs() < 2e-6, "{i} {j}");
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
        assert!(update.added(&[0.0; 12], &mut [0.0; 12], 4).is_ok());
        assert!(update.added(&[0.0; 13], &mut [0.0; 13], 4).is_err());
        assert!(update.added_plainly(&[0.0; 12], &mut [0.0; 12], 3).is_err());
    }
}
