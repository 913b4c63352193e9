//! Best low-rank approximations: of a product B A that is never formed, and of a large matrix by random projections.

use super::dense::{Dense, svd, thin_qr};
use crate::Result;
use crate::random::Stream;
use candle_core::{DType, Device, Tensor};
use kernels::{Op, gemm, sum_of_squares};
use rayon::prelude::*;

/// Columns that the random projection has beyond the rank.
const OVERSAMPLING: usize = 16;
/// How often the projection is multiplied by Δ Δᵀ. Each time the spectrum that the projection sees falls off faster: with
/// two, singular values count by their fifth power.
const POWER_ITERATIONS: usize = 2;

/// Matrices with a side of at most this are decomposed exactly: there is little to save.
const EXACT: usize = 128;

/// The leading singular triplets of a matrix Δ (out, in), and how much of it they are.
pub(crate) struct Truncated {
    /// Left singular vectors (out, k).
    u: Dense,
    /// Singular values, largest first.
    pub s: Vec<f64>,
    /// Right singular vectors (in, k).
    v: Dense,
    /// ‖Δ‖², in the Frobenius norm.
    pub total: f64,
}

impl Truncated {
    /// The best approximation of this rank.
    pub(crate) fn into_rank(self, rank: usize) -> Self {
        let mut s = self.s;
        s.truncate(rank);
        Self {
            u: self.u.truncated(rank),
            s,
            v: self.v.truncated(rank),
            total: self.total,
        }
    }

    /// ‖approximation‖². As the approximation is a projection of Δ, ‖Δ - approximation‖² is the rest of ‖Δ‖².
    pub(crate) fn kept(&self) -> f64 {
        let kept: f64 = self.s.iter().map(|s| s * s).sum();
        // Rounding must not make more of it than there is.
        kept.min(self.total)
    }

    /// A (rank, in) and B (out, rank) in f64, each with the root of the singular values; zeros beyond those there are.
    pub(crate) fn factors(self, rank: usize) -> Result<(Tensor, Tensor)> {
        let roots: Vec<f64> = self.s.iter().map(|s| s.sqrt()).collect();
        let side = |mut vectors: Dense| {
            vectors.scale_columns(roots.iter().copied());
            let found = vectors.into_transposed_tensor()?;
            Ok::<_, crate::Error>(found.pad_with_zeros(0, 0, rank - roots.len().min(rank))?)
        };
        Ok((side(self.v)?, side(self.u)?.t()?.contiguous()?))
    }
}

/// The singular values and vectors of B A, exactly: B = Q R and Aᵀ = P S, so B A = Q (R Sᵀ) Pᵀ, and the core is of the
/// size of the rank.
pub(crate) fn of_product(a: &Tensor, b: &Tensor) -> Result<Truncated> {
    let (left, right) = (thin_qr(Dense::of(b)?), thin_qr(Dense::transpose_of(a)?));
    let core = svd(&left.r.times(&right.r.transposed())?);
    let total = core.s.iter().map(|s| s * s).sum();
    Ok(Truncated {
        u: left.q.times(&core.u)?,
        v: right.q.times(&core.v)?,
        s: core.s,
        total,
    })
}

/// The leading singular triplets of Δ (out, in), f32: exactly where a side is short or the rank comes near it, else by
/// randomized subspace iteration with a basis orthonormalised at every step.
///
/// Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53, 2011, algorithms 4.4 and
/// 5.1. The large products run through the fast GEMM in f32, all that is small in f64. The same Δ, rank and stream give
/// the same bytes.
pub(crate) fn of_matrix(delta: &Tensor, rank: usize, stream: Stream) -> Result<Truncated> {
    let (rows, columns) = delta.dims2()?;
    let total = sum_of_squares(delta)?;
    let least = rows.min(columns);
    let size = match least <= EXACT {
        true => least,
        false => (rank + OVERSAMPLING).min(least),
    };
    let mut start = vec![0f32; columns * size];
    const PIECE: usize = 1 << 12;
    let pieces = start.par_chunks_mut(PIECE).enumerate();
    pieces.for_each(|(piece, numbers)| stream.normals(piece * PIECE, 1.0, numbers));
    let start = Tensor::from_vec(start, (columns, size), &Device::Cpu)?;
    let mut basis = range(delta, Op::Plain, &start)?;
    // A basis of the whole space has nothing to gain.
    let iterations = match size < least {
        true => POWER_ITERATIONS,
        false => 0,
    };
    for _ in 0..iterations {
        let other = range(delta, Op::Transposed, &single(&basis)?)?;
        basis = range(delta, Op::Plain, &single(&other)?)?;
    }
    // Δ ≈ Q Qᵀ Δ, and (Qᵀ Δ)ᵀ = U diag(s) Wᵀ is small enough to decompose.
    let projected = times(delta, Op::Transposed, &single(&basis)?)?;
    let core = svd(&Dense::of(&projected)?);
    let found = Truncated {
        u: basis.times(&core.v)?,
        s: core.s,
        v: core.u,
        total,
    };
    Ok(found.into_rank(rank))
}

/// An orthonormal basis of op(Δ) x.
fn range(delta: &Tensor, op: Op, x: &Tensor) -> Result<Dense> {
    Ok(thin_qr(Dense::of(&times(delta, op, x)?)?).q)
}

/// op(Δ) x in f32.
fn times(delta: &Tensor, op: Op, x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = delta.dims2()?;
    let rows = match op {
        Op::Plain => rows,
        Op::Transposed => columns,
    };
    let mut out = Tensor::zeros((rows, x.dim(1)?), DType::F32, &Device::Cpu)?;
    gemm(&mut out, 0.0, 1.0, delta, op, x, Op::Plain)?;
    Ok(out)
}

/// As a tensor in f32.
fn single(basis: &Dense) -> Result<Tensor> {
    let transposed = basis.clone().into_transposed_tensor()?;
    Ok(transposed.to_dtype(DType::F32)?.t()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(rows: usize, columns: usize, name: &str) -> Tensor {
        let mut data = vec![0f32; rows * columns];
        Stream::new(5, name).normals(0, 1.0, &mut data);
        Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap()
    }

    fn product(a: &Tensor, b: &Tensor) -> Tensor {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        wide(b).matmul(&wide(a)).unwrap()
    }

    fn relative(found: &Tensor, wanted: &Tensor) -> f64 {
        let rest = (found - wanted).unwrap();
        (sum_of_squares(&rest).unwrap() / sum_of_squares(wanted).unwrap()).sqrt()
    }

    #[test]
    fn a_matrix_of_a_low_rank_comes_back() {
        for (rows, columns, rank) in [
            (123, 57, 5),
            (57, 123, 5),
            (9, 7, 3),
            (7, 40, 7),
            (300, 200, 1),
        ] {
            let (a, b) = (normal(rank, columns, "a"), normal(rows, rank, "b"));
            let wanted = product(&a, &b);
            let delta = wanted.to_dtype(DType::F32).unwrap();
            let found = of_matrix(&delta, rank, Stream::new(1, "x")).unwrap();
            assert!(
                1.0 - found.kept() / found.total < 1e-6,
                "({rows}, {columns})"
            );
            let (a, b) = found.factors(rank).unwrap();
            let error = relative(&product(&a, &b), &wanted);
            assert!(error < 1e-6, "({rows}, {columns}): {error:.1e}");
        }
    }

    /// A spectrum that falls off slowly, 1/√i. The error of the exact truncation is known; the randomized one must come
    /// close to it, and stay within the bound of Halko, Martinsson and Tropp's corollary 10.10 in the spectral norm,
    /// which is the largest singular value of the rest.
    #[test]
    fn a_slow_spectrum_is_found_within_the_bound() {
        let (rows, columns, rank) = (211, 173, 12);
        let u = thin_qr(Dense::of(&normal(rows, columns, "u")).unwrap()).q;
        let v = thin_qr(Dense::of(&normal(columns, columns, "v")).unwrap()).q;
        let values: Vec<f64> = (1..=columns).map(|i| (i as f64).powf(-0.5)).collect();
        let mut left = u;
        left.scale_columns(values.iter().copied());
        let wanted = left.times(&v.transposed()).unwrap();
        let wanted = wanted.into_transposed_tensor().unwrap().t().unwrap();
        let delta = wanted.contiguous().unwrap().to_dtype(DType::F32).unwrap();
        let found = of_matrix(&delta, rank, Stream::new(1, "x")).unwrap();
        let best: f64 = values[..rank].iter().map(|s| s * s).sum();
        let (kept, total) = (found.kept(), found.total);
        assert!(
            kept <= best * (1.0 + 1e-6) && kept > 0.995 * best,
            "{kept} of {best}"
        );
        assert!((total - values.iter().map(|s| s * s).sum::<f64>()).abs() < 1e-5 * total);
        let (a, b) = found.factors(rank).unwrap();
        let rest = (wanted - product(&a, &b)).unwrap();
        let error = svd(&Dense::of(&rest).unwrap()).s[0];
        let (k, p) = (rank as f64, OVERSAMPLING as f64);
        let n = (columns - rank) as f64;
        let factor =
            1.0 + (k / (p - 1.0)).sqrt() + std::f64::consts::E * (k + p).sqrt() / p * n.sqrt();
        let bound = factor.powf(1.0 / (2 * POWER_ITERATIONS + 1) as f64) * values[rank];
        assert!(
            error >= values[rank] * (1.0 - 1e-5) && error <= bound,
            "{error} {bound}"
        );
        // The energy told is that of what is written.
        let rest = sum_of_squares(&rest).unwrap();
        assert!(((total - kept) - rest).abs() < 1e-5 * total);
    }

    #[test]
    fn a_product_is_decomposed_without_forming_it() {
        for (rows, columns, rank) in [(123, 57, 5), (5, 123, 7), (9, 4, 6)] {
            let (a, b) = (normal(rank, columns, "a"), normal(rows, rank, "b"));
            let wanted = product(&a, &b);
            let exact = svd(&Dense::of(&wanted).unwrap());
            let found = of_product(&a, &b).unwrap();
            for (i, s) in found.s.iter().enumerate() {
                let other = exact.s.get(i).copied().unwrap_or(0.0);
                assert!((s - other).abs() < 1e-11 * exact.s[0], "{i}: {s} {other}");
            }
            for smaller in 1..rank {
                let best: f64 = exact.s.iter().skip(smaller).map(|s| s * s).sum();
                let cut = of_product(&a, &b).unwrap().into_rank(smaller);
                let (a, b) = cut.factors(smaller).unwrap();
                let rest = sum_of_squares(&(&wanted - product(&a, &b)).unwrap()).unwrap();
                assert!(
                    (rest - best).abs() < 1e-11 * exact.s[0].powi(2),
                    "{rest} {best}"
                );
            }
        }
    }

    #[test]
    fn what_the_rank_exceeds_is_zeros() {
        let found = of_product(&normal(2, 9, "a"), &normal(5, 2, "b")).unwrap();
        let (a, b) = found.factors(4).unwrap();
        assert_eq!((a.dims(), b.dims()), (&[4, 9][..], &[5, 4][..]));
        let beyond = sum_of_squares(&a.narrow(0, 2, 2).unwrap()).unwrap();
        assert_eq!(beyond, 0.0);
    }
}
