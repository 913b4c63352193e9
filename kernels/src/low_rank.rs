//! A low-rank update added to rows of a weight, W + s·B A, in two ways that share no code: in tiles whose sums stay in
//! registers, which is what is written, and by plain loops over rows, which is what a proof holds it against.

use crate::simd::wide;
use crate::{Error, Result};

/// Columns that are computed at a time: of a usual rank, A's fit the first-level cache. Rows of this many columns or
/// fewer are the fastest to hand over, with A's columns for them one after another: A's own rows lie apart by what is
/// often a multiple of 4 KiB, and such lines displace one another.
pub const LOW_RANK_COLUMNS: usize = 256;
/// Sums of a row that a tile holds in registers, and its rows.
const LANES: usize = 16;
const ROWS: usize = 4;

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
    /// Whether `base`, `values` and A are of `columns` columns and B has as many rows as they.
    fn check(&self, base: &[f32], values: &[f32], columns: usize) -> Result<()> {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let fits = rows * columns == values.len()
            && self.b.len() == rows * self.rank
            && self.a.len() == self.rank * columns
            && base.len() == values.len();
        if fits {
            return Ok(());
        }
        Err(Error::Shape {
            op: "low_rank",
            left: "b, a",
            left_shape: vec![self.b.len(), self.a.len()],
            right: "values, rank, columns",
            right_shape: vec![values.len(), self.rank, columns],
        })
    }

    /// out = base + s·(B A), on the calling thread; rounded where PEFT rounds: B A, its multiple, and the sum.
    pub fn added(&self, base: &[f32], out: &mut [f32], columns: usize) -> Result<()> {
        self.check(base, out, columns)?;
        if self.rank == 0 {
            out.copy_from_slice(base);
            return Ok(());
        }
        let mut packed = Vec::new();
        for first in (0..columns).step_by(LOW_RANK_COLUMNS) {
            let width = LOW_RANK_COLUMNS.min(columns - first);
            let a = if width == columns {
                self.a
            } else {
                packed.clear();
                for row in self.a.chunks_exact(columns) {
                    packed.extend_from_slice(&row[first..first + width]);
                }
                &packed
            };
            let strip = Strip {
                a,
                width,
                scaling: self.scaling,
            };
            wide!(self.add_strip(strip, &base[first..], &mut out[first..], columns));
        }
        Ok(())
    }

    /// All rows of a strip, `stride` apart.
    #[inline(always)]
    fn add_strip(&self, strip: Strip, base: &[f32], out: &mut [f32], stride: usize) {
        let rank = self.rank;
        let mut tile_b = vec![[0f32; ROWS]; rank];
        for (tile, b) in self.b.chunks(ROWS * rank).enumerate() {
            let at = ROWS * tile * stride;
            if b.len() == ROWS * rank {
                for (r, b) in b.chunks_exact(rank).enumerate() {
                    tile_b.iter_mut().zip(b).for_each(|(of_k, b)| of_k[r] = *b);
                }
                strip.add_rows(&tile_b, &base[at..], &mut out[at..], stride);
                continue;
            }
            for (r, b) in b.as_chunks::<1>().0.chunks_exact(rank).enumerate() {
                let at = at + r * stride;
                strip.add_rows(b, &base[at..], &mut out[at..], stride);
            }
        }
    }

    /// out = base + s·(B A), row by row: a sum over r in its order, times s, added.
    pub fn added_plainly(&self, base: &[f32], out: &mut [f32], columns: usize) -> Result<()> {
        self.check(base, out, columns)?;
        let (rank, scaling) = (self.rank.max(1), self.scaling);
        wide!({
            out.fill(0.0);
            for first in (0..columns).step_by(LOW_RANK_COLUMNS) {
                let some = first..(first + LOW_RANK_COLUMNS).min(columns);
                let a = |k: usize| &self.a[k * columns..][some.clone()];
                // Two rows at a time, so that A is read once for both; an odd one is alone.
                let pairs = out.chunks_mut(2 * columns).zip(self.b.chunks(2 * rank));
                for (rows, b) in pairs {
                    let (row, next) = rows.split_at_mut(columns);
                    let (b, b_next) = b.split_at(rank);
                    let row = &mut row[some.clone()];
                    if next.is_empty() {
                        (0..b.len()).for_each(|k| add_multiple(row, b[k], a(k)));
                    } else {
                        add_to_two(row, &mut next[some.clone()], b, b_next, a);
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

/// Some columns of A as (r, width), and what is multiplied by.
#[derive(Clone, Copy)]
struct Strip<'a> {
    a: &'a [f32],
    width: usize,
    scaling: f32,
}

impl Strip<'_> {
    /// R rows, `stride` apart, with a column of B's rows for each k. Each element is the same operations in the same
    /// order, whatever tile it falls into.
    #[inline(always)]
    fn add_rows<const R: usize>(
        self,
        b: &[[f32; R]],
        base: &[f32],
        out: &mut [f32],
        stride: usize,
    ) {
        let whole = self.width / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            let mut sums = [[0f32; LANES]; R];
            for (k, b) in b.iter().enumerate() {
                let a = lanes(&self.a[k * self.width + first..]);
                for r in 0..R {
                    for i in 0..LANES {
                        sums[r][i] = b[r].mul_add(a[i], sums[r][i]);
                    }
                }
            }
            for r in 0..R {
                let at = r * stride + first;
                let w = lanes(&base[at..]);
                for i in 0..LANES {
                    sums[r][i] = w[i] + sums[r][i] * self.scaling;
                }
                out[at..][..LANES].copy_from_slice(&sums[r]);
            }
        }
        for column in whole..self.width {
            for r in 0..R {
                let mut sum = 0f32;
                for (k, b) in b.iter().enumerate() {
                    sum = b[r].mul_add(self.a[k * self.width + column], sum);
                }
                let at = r * stride + column;
                out[at] = base[at] + sum * self.scaling;
            }
        }
    }
}

/// The first of these numbers as an array, whose length the compiler knows.
#[inline(always)]
fn lanes(values: &[f32]) -> &[f32; LANES] {
    values[..LANES].try_into().unwrap_or(&[0.0; LANES])
}

/// sums += b a.
#[inline(always)]
fn add_multiple(sums: &mut [f32], b: f32, a: &[f32]) {
    for (sum, a) in sums.iter_mut().zip(a) {
        *sum = b.mul_add(*a, *sum);
    }
}

/// x += Σ b_k a(k) and y += Σ c_k a(k), four k at a time: the sums are read and written once for four products.
#[inline(always)]
fn add_to_two<'a>(
    x: &mut [f32],
    y: &mut [f32],
    b: &[f32],
    c: &[f32],
    a: impl Fn(usize) -> &'a [f32],
) {
    let n = x.len();
    let y = &mut y[..n];
    let ((fours, rest), (c_fours, c_rest)) = (b.as_chunks::<4>(), c.as_chunks::<4>());
    for (four, (b, c)) in fours.iter().zip(c_fours).enumerate() {
        let k = 4 * four;
        let (a0, a1) = (&a(k)[..n], &a(k + 1)[..n]);
        let (a2, a3) = (&a(k + 2)[..n], &a(k + 3)[..n]);
        for i in 0..n {
            let two = b[1].mul_add(a1[i], b[0].mul_add(a0[i], x[i]));
            x[i] = b[3].mul_add(a3[i], b[2].mul_add(a2[i], two));
            let two = c[1].mul_add(a1[i], c[0].mul_add(a0[i], y[i]));
            y[i] = c[3].mul_add(a3[i], c[2].mul_add(a2[i], two));
        }
    }
    for (i, (b, c)) in rest.iter().zip(c_rest).enumerate() {
        let a = a(4 * fours.len() + i);
        add_multiple(x, *b, a);
        add_multiple(y, *c, a);
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
        for (rows, columns, rank) in [
            (5, 123, 7),
            (3, 64, 1),
            (4, 200, 16),
            (7, 613, 5),
            (0, 9, 2),
            (2, 5, 3),
            (3, 5, 0),
        ] {
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
    fn an_element_has_the_same_bits_whatever_is_computed_with_it() {
        let (rows, columns, rank) = (9, 613, 7);
        let (w, b, a) = (
            numbers(rows * columns, 0.3),
            numbers(rows * rank, 1.9),
            numbers(rank * columns, 7.1),
        );
        let of = |rows: std::ops::Range<usize>, strip: std::ops::Range<usize>, plain: bool| {
            let part = |values: &[f32], rows: std::ops::Range<usize>| -> Vec<f32> {
                rows.flat_map(|row| values[row * columns..][strip.clone()].to_vec())
                    .collect()
            };
            let base = part(&w, rows.clone());
            let a = part(&a, 0..rank);
            let update = LowRankRows {
                b: &b[rows.start * rank..rows.end * rank],
                a: &a,
                rank,
                scaling: 1.7,
            };
            let mut out = vec![f32::NAN; base.len()];
            match plain {
                true => update.added_plainly(&base, &mut out, strip.len()),
                false => update.added(&base, &mut out, strip.len()),
            }
            .unwrap();
            out
        };
        for plain in [false, true] {
            let all = of(0..rows, 0..columns, plain);
            for (some_rows, strip) in [(0..4, 0..256), (3..8, 17..140), (8..9, 600..613)] {
                let part = of(some_rows.clone(), strip.clone(), plain);
                let width = strip.len();
                for (i, row) in some_rows.enumerate() {
                    let found = &part[i * width..(i + 1) * width];
                    assert_eq!(found, &all[row * columns..][strip.clone()], "{row} {plain}");
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
        assert!(update.added(&[0.0; 8], &mut [0.0; 12], 4).is_err());
        assert!(update.added_plainly(&[0.0; 12], &mut [0.0; 12], 3).is_err());
    }
}
