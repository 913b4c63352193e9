//! The head's product and its loss in one: loss = Σ (log Σ_v exp(z_v) - z_target), z = x Wᵀ.
//!
//! Rows are taken a chunk at a time, so that the logits (rows, V) exist for one chunk only; their
//! gradient, softmax(z) - onehot(target), takes their place, and goes into dx and dW at once
//! (the scheme of Liger's fused linear cross-entropy, arXiv 2410.10989).

use crate::access::{self, dense_as, dims2, read};
use crate::gemm::{ALL, Mat, MatMut, matmul};
use crate::linear::{product, product_dx};
use crate::matrix::Rows;
use crate::real::{Real, accumulate_dtype, with_real};
use crate::simd::wide;
use crate::{Error, Matrix, OpCase, Result, simd};
use candle_core::Tensor;
use rayon::prelude::*;

/// Bytes of logits that exist at a time.
pub const LOGITS_BYTES: usize = 64 << 20;

/// A loss and its gradients.
#[must_use]
#[derive(Debug)]
pub struct HeadLoss {
    /// Σ over rows, natural logarithm, not scaled.
    pub loss_sum: f64,
    /// (N, D), accumulate type.
    pub dx: Option<Tensor>,
    /// (V, D), accumulate type.
    pub dweight: Option<Tensor>,
}

/// How a model rates one target token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub log_prob: f64,
    /// Whether it is the most probable token (the first of equals).
    pub greedy: bool,
}

/// The loss of x (N, D) through the head w (V, D) against N targets, and the gradients of
/// grad_scale · loss that are wanted.
pub fn linear_cross_entropy(
    x: &Tensor,
    w: &Matrix,
    targets: &[u32],
    grad_scale: f64,
    want_dx: bool,
    want_dweight: bool,
) -> Result<HeadLoss> {
    const OP: &str = "linear_cross_entropy";
    let (n, d) = check(OP, x, w, targets)?;
    let v = w.rows();
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let x = dense_as::<T>(OP, x)?;
        let x = read::<T>(OP, &x)?;
        let hold = w.hold(OP)?;
        let mut dx = want_dx.then(|| vec![T::ZERO; n * d]);
        let mut dweight = want_dweight.then(|| vec![T::ZERO; v * d]);
        let mut loss_sum = 0.0;
        for_chunks(&x, hold.rows(), targets, (d, v), |first, x, targets, logits| {
            let scale = (want_dx || want_dweight).then(|| T::of(grad_scale));
            let losses: Vec<f64> = logits
                .par_chunks_mut(v)
                .zip(targets)
                .map(|(z, target)| wide!(loss_row(z, *target as usize, scale)))
                .collect();
            loss_sum += losses.iter().sum::<f64>();
            let rows = targets.len();
            if let Some(dx) = &mut dx {
                product_dx(&mut dx[first * d..][..rows * d], logits, hold.rows(), (rows, v, d));
            }
            if let Some(dweight) = &mut dweight {
                let (dz, x) = (Mat::new(logits, rows, v).t(), Mat::new(x, rows, d));
                matmul(MatMut::new(dweight, v, d), T::ONE, T::ONE, dz, x, ALL);
            }
        });
        Ok(HeadLoss {
            loss_sum,
            dx: dx.map(|dx| access::tensor(dx, (n, d))).transpose()?,
            dweight: dweight.map(|dw| access::tensor(dw, (v, d))).transpose()?,
        })
    })
}

/// The log-probability of each target, and whether it would be the model's own choice.
pub fn linear_token_scores(x: &Tensor, w: &Matrix, targets: &[u32]) -> Result<Vec<TokenScore>> {
    const OP: &str = "linear_token_scores";
    let (_, d) = check(OP, x, w, targets)?;
    let v = w.rows();
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let x = dense_as::<T>(OP, x)?;
        let x = read::<T>(OP, &x)?;
        let hold = w.hold(OP)?;
        let mut scores = Vec::with_capacity(targets.len());
        for_chunks(&x, hold.rows(), targets, (d, v), |_, _, targets, logits| {
            let rows = logits.par_chunks_mut(v).zip(targets);
            scores.par_extend(rows.map(|(z, target)| wide!(score_row(z, *target as usize))));
        });
        Ok(scores)
    })
}

fn check(op: &'static str, x: &Tensor, w: &Matrix, targets: &[u32]) -> Result<(usize, usize)> {
    let (n, d) = dims2(op, "x", x)?;
    if d != w.cols() {
        return Err(access::shape(
            op,
            "x",
            x.dims(),
            "the weight",
            &[w.rows(), w.cols()],
        ));
    }
    if targets.len() != n {
        return Err(Error::Length {
            op,
            what: "targets",
            expected: n,
            found: targets.len(),
        });
    }
    match targets.iter().position(|id| *id as usize >= w.rows()) {
        Some(position) => Err(Error::TokenId {
            id: targets[position],
            rows: w.rows(),
            position,
        }),
        None => Ok((n, d)),
    }
}

/// Calls `each` with the first row, x, targets and logits of one chunk of rows after another.
fn for_chunks<T: Real>(
    x: &[T],
    w: Rows,
    targets: &[u32],
    (d, v): (usize, usize),
    mut each: impl FnMut(usize, &[T], &[u32], &mut [T]),
) {
    let chunk = (LOGITS_BYTES / (v.max(1) * size_of::<T>()))
        .max(1)
        .min(targets.len());
    let mut buffer = vec![T::ZERO; chunk * v];
    for (i, targets) in targets.chunks(chunk.max(1)).enumerate() {
        let first = i * chunk;
        let x = &x[first * d..][..targets.len() * d];
        let logits = &mut buffer[..targets.len() * v];
        product(logits, x, w, (targets.len(), v, d));
        each(first, x, targets, logits);
    }
}

/// Numbers added up in the accumulate type before the sum goes on in f64.
const PIECE: usize = 4096;

/// Σ exp(z - max).
#[inline(always)]
fn exp_sum<T: Real>(z: &[T], max: T) -> f64 {
    let mut total = 0.0;
    for z in z.chunks(PIECE) {
        let sum: T = simd::sum_over(
            z,
            #[inline(always)]
            |sum, z| sum + (z - max).exp(),
        );
        total += sum.f64();
    }
    total
}

/// The row's loss; with a scale its logits become the gradient of scale · loss.
#[inline(always)]
fn loss_row<T: Real>(z: &mut [T], target: usize, scale: Option<T>) -> f64 {
    let max = simd::largest(z);
    let at_target = z[target];
    let Some(scale) = scale else {
        return exp_sum(z, max).ln() + (max.f64() - at_target.f64());
    };
    let mut total = 0.0;
    for z in z.chunks_mut(PIECE) {
        for z in z.iter_mut() {
            *z = (*z - max).exp();
        }
        total += simd::sum(z).f64();
    }
    let factor = T::of(scale.f64() / total);
    z.iter_mut().for_each(|z| *z *= factor);
    z[target] -= scale;
    total.ln() + (max.f64() - at_target.f64())
}

#[inline(always)]
fn score_row<T: Real>(z: &[T], target: usize) -> TokenScore {
    let max = simd::largest(z);
    let log_prob = z[target].f64() - max.f64() - exp_sum(z, max).ln();
    // The first of equals, as argmax has it.
    let greedy = z[target] == max && z[..target].iter().all(|x| *x != max);
    TokenScore { log_prob, greedy }
}

fn case_targets(n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 5 + 2) % v) as u32).collect()
}

/// y is the loss (1), so dy is the scale of the gradients.
pub(crate) const CASE: OpCase = OpCase {
    name: "linear_cross_entropy",
    shapes: &[
        &[&[5, 123], &[7, 123]],
        &[&[3, 12], &[17, 12]],
        &[&[130, 30], &[210, 30]],
    ],
    run: |inputs, dy| {
        let (x, w) = (&inputs[0], Matrix::dense(inputs[1].contiguous()?));
        let targets = case_targets(x.dim(0)?, w.rows());
        let scale = match dy {
            Some(dy) => dy.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?[0],
            None => 0.0,
        };
        let want = dy.is_some();
        let loss = linear_cross_entropy(x, &w, &targets, scale, want, want)?;
        let y = access::tensor(vec![loss.loss_sum], 1)?;
        Ok((y, loss.dx.into_iter().chain(loss.dweight).collect()))
    },
    reference: |inputs| {
        let logits = inputs[0].matmul(&inputs[1].t()?)?;
        let targets = case_targets(inputs[0].dim(0)?, inputs[1].dim(0)?);
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        let at_target = logits.gather(&targets, 1)?.squeeze(1)?;
        (logits.log_sum_exp(1)? - at_target)?.sum_all()?.reshape(1)
    },
};
