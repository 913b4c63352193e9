//! Small dense linear algebra in f64: Householder's QR and the one-sided Jacobi SVD.
//!
//! The matrices are tall and thin (a few thousand rows, as many columns as a rank) or square of the size of a rank, and
//! what is wanted of them is accuracy: Jacobi's method finds small singular values to more digits than the usual
//! bidiagonalisation. The faer crate does all of this and more, and adds some 80 s of CPU to a build from scratch (0.24
//! without default features, with `std` and `linalg`); this file adds none that one can measure.
//!
//! Sources: Golub and Van Loan, "Matrix Computations", 4th edition, 5.1-5.2 (Householder) and 8.6.3 (one-sided Jacobi);
//! Drmač and Veselić, "New fast and accurate Jacobi SVD algorithm", 2008, for working on the transposed triangle.
//!
//! The arithmetic of a column does not depend on which thread computes it, so neither do the results.

use crate::Result;
use candle_core::{DType, Device, Tensor};
use kernels::{Op, gemm};
use rayon::prelude::*;

/// A matrix, column after column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

/// A = Q R with orthonormal columns in Q (m, k) and an upper triangle R (k, n), k = min(m, n).
pub(crate) struct ThinQr {
    pub q: Dense,
    pub r: Dense,
}

/// A = U diag(s) Vᵀ with U (m, k), V (n, k), k = min(m, n), and s in descending order. The columns of U are orthonormal
/// where m ≥ n, those of V otherwise; on the other side a column that belongs to a zero is a column of zeros.
#[derive(Debug)]
pub(crate) struct Svd {
    pub u: Dense,
    pub s: Vec<f64>,
    pub v: Dense,
}

impl Dense {
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        let data = vec![0.0; rows * cols];
        Self { rows, cols, data }
    }

    pub(crate) fn column(&self, j: usize) -> &[f64] {
        &self.data[j * self.rows..(j + 1) * self.rows]
    }

    fn columns_mut(&mut self) -> std::slice::ChunksExactMut<'_, f64> {
        self.data.chunks_exact_mut(self.rows.max(1))
    }

    /// The transpose of a tensor of two dimensions: its rows as columns, without moving a number.
    pub(crate) fn transpose_of(tensor: &Tensor) -> Result<Self> {
        let (cols, rows) = tensor.dims2()?;
        let data = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Ok(Self { rows, cols, data })
    }

    /// A tensor of two dimensions.
    pub(crate) fn of(tensor: &Tensor) -> Result<Self> {
        Self::transpose_of(&tensor.t()?.contiguous()?)
    }

    /// Its transpose (cols, rows) as a tensor, without moving a number.
    pub(crate) fn into_transposed_tensor(self) -> Result<Tensor> {
        Ok(Tensor::from_vec(
            self.data,
            (self.cols, self.rows),
            &Device::Cpu,
        )?)
    }

    pub(crate) fn transposed(&self) -> Self {
        let mut t = Self::zeros(self.cols, self.rows);
        for (j, column) in t.columns_mut().enumerate() {
            for (i, x) in column.iter_mut().enumerate() {
                *x = self.data[i * self.rows + j];
            }
        }
        t
    }

    /// Its first `count` columns.
    pub(crate) fn truncated(mut self, count: usize) -> Self {
        self.cols = self.cols.min(count);
        self.data.truncate(self.rows * self.cols);
        self
    }

    /// Multiplies column j by the j-th factor.
    pub(crate) fn scale_columns(&mut self, factors: impl IntoIterator<Item = f64>) {
        for (column, factor) in self.columns_mut().zip(factors) {
            column.iter_mut().for_each(|x| *x *= factor);
        }
    }

    /// self · other, with all threads.
    pub(crate) fn times(&self, other: &Dense) -> Result<Dense> {
        let view = |m: &Dense| Tensor::from_slice(&m.data, (m.cols, m.rows), &Device::Cpu);
        // Column after column is the transpose row after row: (A B)ᵀ = Bᵀ Aᵀ.
        let mut out = Tensor::zeros((other.cols, self.rows), DType::F64, &Device::Cpu)?;
        let (a, b) = (view(self)?, view(other)?);
        gemm(&mut out, 0.0, 1.0, &b, Op::Plain, &a, Op::Plain)?;
        Dense::transpose_of(&out)
    }

    fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |most, x| most.max(x.abs()))
    }
}

/// Σ xᵢ yᵢ in eight sums, which the compiler keeps in vector registers.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = (xs.remainder().iter().zip(ys.remainder()))
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in xs.zip(ys) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// y += factor · x.
fn add_multiple(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// Applies H = I - 2 v vᵀ (v of length one, from row `first` on) to a column.
fn reflect(column: &mut [f64], first: usize, v: &[f64]) {
    let tail = &mut column[first..];
    let factor = -2.0 * dot(tail, v);
    add_multiple(tail, factor, v);
}

/// Columns that one task takes: enough numbers to be worth a thread.
fn columns_a_task(rows: usize) -> usize {
    ((1 << 14) / rows.max(1)).max(1)
}

/// Householder's QR.
pub(crate) fn thin_qr(mut a: Dense) -> ThinQr {
    let (m, n) = (a.rows, a.cols);
    let k = m.min(n);
    let least = columns_a_task(m);
    let mut reflectors: Vec<Vec<f64>> = Vec::with_capacity(k);
    for j in 0..k {
        let (done, rest) = a.data.split_at_mut((j + 1) * m);
        let column = &mut done[j * m + j..];
        let mut v = column.to_vec();
        let length = length(&v);
        // The sign that adds, so that nothing cancels.
        let to = if v[0] > 0.0 { -length } else { length };
        v[0] -= to;
        let norm = self::length(&v);
        if norm > 0.0 {
            v.iter_mut().for_each(|x| *x /= norm);
            rest.par_chunks_exact_mut(m)
                .with_min_len(least)
                .for_each(|column| reflect(column, j, &v));
        }
        column[0] = to;
        column[1..].fill(0.0);
        reflectors.push(v);
    }
    let mut r = Dense::zeros(k, n);
    for (j, column) in r.columns_mut().enumerate() {
        column.copy_from_slice(&a.data[j * m..j * m + k]);
    }
    let mut q = Dense::zeros(m, k);
    let columns = q.data.par_chunks_exact_mut(m.max(1)).with_min_len(least);
    columns.enumerate().for_each(|(j, column)| {
        column[j] = 1.0;
        // Later reflectors leave the j-th unit vector as it is.
        for first in (0..=j).rev() {
            reflect(column, first, &reflectors[first]);
        }
    });
    ThinQr { q, r }
}

/// ‖x‖ without overflow or underflow on the way.
fn length(x: &[f64]) -> f64 {
    let most = x.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    if most == 0.0 {
        return 0.0;
    }
    let scaled: f64 = x.iter().map(|x| (x / most) * (x / most)).sum();
    most * scaled.sqrt()
}

/// The singular value decomposition.
pub(crate) fn svd(a: &Dense) -> Svd {
    if a.rows < a.cols {
        let Svd { u, s, v } = svd(&a.transposed());
        return Svd { u: v, s, v: u };
    }
    // To a largest number of about one, by a power of two, so that squares keep their digits.
    let largest = a.largest();
    let scale = match largest.is_normal() {
        true => (-largest.log2().floor()).exp2(),
        false => 1.0,
    };
    let mut scaled = a.clone();
    scaled.data.iter_mut().for_each(|x| *x *= scale);
    let ThinQr { q, r } = thin_qr(scaled);
    // Rᵀ W = X diag(s), so A = Q W diag(s) Xᵀ.
    let mut x = r.transposed();
    let mut w = identity(x.cols);
    orthogonalise(&mut x, &mut w);
    let mut lengths: Vec<(usize, f64)> = (0..x.cols).map(|j| (j, length(x.column(j)))).collect();
    lengths.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let n = a.cols;
    let (mut v, mut sorted) = (Dense::zeros(n, n), Dense::zeros(n, n));
    let targets = v.columns_mut().zip(sorted.columns_mut());
    for ((to_v, to_w), (j, length)) in targets.zip(&lengths) {
        to_w.copy_from_slice(w.column(*j));
        if *length > 0.0 {
            let from = x.column(*j).iter().map(|x| x / length);
            to_v.iter_mut().zip(from).for_each(|(to, x)| *to = x);
        }
    }
    Svd {
        u: apply(&q, &sorted),
        s: lengths.iter().map(|(_, length)| length / scale).collect(),
        v,
    }
}

fn identity(n: usize) -> Dense {
    let mut one = Dense::zeros(n, n);
    for (j, column) in one.columns_mut().enumerate() {
        column[j] = 1.0;
    }
    one
}

/// Q W column by column.
fn apply(q: &Dense, w: &Dense) -> Dense {
    let mut out = Dense::zeros(q.rows, w.cols);
    let least = columns_a_task(q.rows);
    let columns = out.data.par_chunks_exact_mut(q.rows.max(1));
    columns
        .with_min_len(least)
        .enumerate()
        .for_each(|(j, column)| {
            for (i, factor) in w.column(j).iter().enumerate() {
                add_multiple(column, *factor, q.column(i));
            }
        });
    out
}

/// Rotates pairs of columns of `x` until all are orthogonal, and `w` along with them (Hestenes, 1958).
fn orthogonalise(x: &mut Dense, w: &mut Dense) {
    let n = x.cols;
    // Ten sweeps are many; the bound is there so that nothing can keep it from ending.
    for _ in 0..60 {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (a, b) = two_columns(x, p, q);
                let (alpha, beta, gamma) = (dot(a, a), dot(b, b), dot(a, b));
                if gamma.abs() <= f64::EPSILON * alpha.sqrt() * beta.sqrt() || gamma == 0.0 {
                    continue;
                }
                rotated = true;
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(a, b, c, c * t);
                let (a, b) = two_columns(w, p, q);
                rotate(a, b, c, c * t);
            }
        }
        if !rotated {
            return;
        }
    }
}

fn two_columns(x: &mut Dense, p: usize, q: usize) -> (&mut [f64], &mut [f64]) {
    let rows = x.rows;
    let (left, right) = x.data.split_at_mut(q * rows);
    (&mut left[p * rows..(p + 1) * rows], &mut right[..rows])
}

fn rotate(a: &mut [f64], b: &mut [f64], c: f64, s: f64) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn random(rows: usize, cols: usize, name: &str) -> Dense {
        let data = Stream::new(3, name).uniforms(rows * cols, 1.0);
        Dense { rows, cols, data }
    }

    fn distance(a: &Dense, b: &Dense) -> f64 {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols));
        let pairs = a.data.iter().zip(&b.data);
        pairs.fold(0.0, |most, (a, b)| most.max((a - b).abs()))
    }

    fn put_together(svd: &Svd) -> Dense {
        let mut u = svd.u.clone();
        u.scale_columns(svd.s.iter().copied());
        u.times(&svd.v.transposed()).unwrap()
    }

    const SHAPES: [(usize, usize); 8] = [
        (5, 123),
        (123, 7),
        (7, 7),
        (1, 9),
        (9, 1),
        (64, 33),
        (1, 1),
        (2000, 40),
    ];

    #[test]
    fn qr_gives_the_matrix_back() {
        for (m, n) in SHAPES {
            let a = random(m, n, "qr");
            let ThinQr { q, r } = thin_qr(a.clone());
            assert_eq!((q.rows, q.cols, r.rows, r.cols), (m, m.min(n), m.min(n), n));
            assert!(distance(&q.times(&r).unwrap(), &a) < 1e-13, "({m}, {n})");
            let gram = q.transposed().times(&q).unwrap();
            assert!(distance(&gram, &identity(m.min(n))) < 1e-13, "({m}, {n})");
            for j in 0..n {
                assert!(r.column(j).iter().skip(j + 1).all(|x| *x == 0.0));
            }
        }
    }

    #[test]
    fn svd_gives_the_matrix_back() {
        for (m, n) in SHAPES {
            let a = random(m, n, "svd");
            let found = svd(&a);
            assert_eq!(found.s.len(), m.min(n));
            assert!(found.s.is_sorted_by(|a, b| a >= b));
            assert!(distance(&put_together(&found), &a) < 1e-12, "({m}, {n})");
            for side in [&found.u, &found.v] {
                let gram = side.transposed().times(side).unwrap();
                assert!(distance(&gram, &identity(m.min(n))) < 1e-12, "({m}, {n})");
            }
        }
    }

    /// Known values: U diag(10^-i) Vᵀ. The small ones keep their digits relative to the largest, and the decomposition
    /// is the same at other orders of magnitude.
    #[test]
    fn singular_values_are_those_put_in() {
        let (u, v) = (thin_qr(random(41, 9, "u")).q, thin_qr(random(23, 9, "v")).q);
        let values: Vec<f64> = (0..9).map(|i| 10f64.powi(-i)).collect();
        let mut a = u.clone();
        a.scale_columns(values.iter().copied());
        let a = a.times(&v.transposed()).unwrap();
        for scale in [1.0, 1e150, 1e-150] {
            let mut a = a.clone();
            a.data.iter_mut().for_each(|x| *x *= scale);
            let found = svd(&a);
            for (i, (s, wanted)) in found.s.iter().zip(&values).enumerate() {
                assert!((s / scale - wanted).abs() < 1e-14, "{i}: {s} at {scale}");
            }
            assert!(found.s[9..].iter().all(|s| s / scale < 1e-14));
        }
    }

    #[test]
    fn degenerate_matrices_are_no_exception() {
        let zero = svd(&Dense::zeros(5, 3));
        assert_eq!(zero.s, [0.0; 3]);
        assert!(
            zero.u
                .data
                .iter()
                .chain(&zero.v.data)
                .all(|x| x.is_finite())
        );
        // One column three times, and a column of zeros.
        let one = random(6, 1, "one");
        let mut data = one.data.repeat(3);
        data.extend([0.0; 6]);
        let a = Dense {
            rows: 6,
            cols: 4,
            data,
        };
        let found = svd(&a);
        let wanted = length(&one.data) * 3f64.sqrt();
        assert!((found.s[0] - wanted).abs() < 1e-14 && found.s[1] < 1e-15);
        assert!(distance(&put_together(&found), &a) < 1e-15);
    }

    #[test]
    fn threads_change_nothing() {
        let a = random(700, 60, "threads");
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| svd(&a))
        };
        let (one, three) = (with(1), with(3));
        assert_eq!((one.u, one.s, one.v), (three.u, three.s, three.v));
    }
}
