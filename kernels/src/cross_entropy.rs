//! The head's product and its loss in one: loss = Σ (log Σ_v exp(z_v) - z_target), z = x Wᵀ.
//!
//! Rows are taken a chunk at a time, so that the logits (rows, V) exist for one chunk only; their
//! gradient, softmax(z) - onehot(target), takes their place, and goes into dx and dW at once
//! (the scheme of Liger's fused linear cross-entropy, arXiv 2410.10989).
//!
//! With x in bf16 and a processor that multiplies bf16, the logits' gradient is rounded to bf16 for
//! dx = dz W, as x is for z; the logits, the loss and dW stay in f32.

use crate::access::{self, Slice, dense_as, dims2, read};
use crate::cuda::ops;
use crate::gemm::{ALL, Mat, MatMut, matmul};
use crate::linear::{product, product_dx};
use crate::matrix::Rows;
use crate::real::{Real, accumulate_dtype, with_real};
use crate::simd::wide;
use crate::{Bf16Dot, Error, Indices, Matrix, OpCase, Result, simd};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Bytes of logits that exist at a time.
pub const LOGITS_BYTES: usize = 64 << 20;

/// A loss and its gradients.
#[must_use]
#[derive(Debug)]
pub struct HeadLoss {
    /// Σ over rows, natural logarithm, not scaled.
    pub loss_sum: LossSum,
    /// (N, D), accumulate type.
    pub dx: Option<Tensor>,
    /// (V, D), accumulate type.
    pub dweight: Option<Tensor>,
}

/// A loss that has been asked for.
#[derive(Clone, Debug)]
pub struct LossSum(Sum);

#[derive(Clone, Debug)]
enum Sum {
    Here(f64),
    /// (1) f64 in a device's memory.
    There(Tensor),
}

impl From<f64> for LossSum {
    fn from(sum: f64) -> Self {
        Self(Sum::Here(sum))
    }
}

impl LossSum {
    pub(crate) fn on_device(sum: Tensor) -> Self {
        Self(Sum::There(sum))
    }

    /// The tensor of it (1) f64 where a device computes it.
    pub(crate) fn there(&self) -> Option<&Tensor> {
        match &self.0 {
            Sum::Here(_) => None,
            Sum::There(sum) => Some(sum),
        }
    }

    /// The number. On a device this waits for what was asked of it, so a step calls it once it has asked for everything.
    pub fn value(&self) -> Result<f64> {
        match &self.0 {
            Sum::Here(sum) => Ok(*sum),
            Sum::There(sum) => Ok(sum.to_vec1::<f64>()?.iter().sum()),
        }
    }
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
    targets: impl Into<Indices>,
    grad_scale: f64,
    want_dx: bool,
    want_dweight: bool,
) -> Result<HeadLoss> {
    let targets = &targets.into();
    let dot = Bf16Dot::pays(x.dtype(), targets.len());
    head_loss(dot, x, w, targets, grad_scale, want_dx, want_dweight)
}

impl Bf16Dot {
    /// [`linear_cross_entropy()`] with z = x Wᵀ and dx = dz W computed from x and dz in bf16.
    pub fn linear_cross_entropy(
        self,
        x: &Tensor,
        w: &Matrix,
        targets: impl Into<Indices>,
        grad_scale: f64,
        want_dx: bool,
        want_dweight: bool,
    ) -> Result<HeadLoss> {
        let targets = &targets.into();
        head_loss(Some(self), x, w, targets, grad_scale, want_dx, want_dweight)
    }
}

fn head_loss(
    dot: Option<Bf16Dot>,
    x: &Tensor,
    w: &Matrix,
    targets: &Indices,
    grad_scale: f64,
    want_dx: bool,
    want_dweight: bool,
) -> Result<HeadLoss> {
    const OP: &str = "linear_cross_entropy";
    let (n, d) = check(OP, x, w, targets.as_slice())?;
    if let Some(w) = w.on_device() {
        let want = [want_dx, want_dweight];
        return ops::cross_entropy(
            &access::dense(x)?,
            w,
            targets,
            grad_scale,
            want,
            LOGITS_BYTES,
        );
    }
    let v = w.rows();
    let dot = dot.filter(|_| x.dtype() != DType::F64);
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let narrow = Narrow::new(OP, dot, x)?;
        let narrow = narrow.as_ref().map(Narrow::read).transpose()?;
        let x = dense_as::<T>(x)?;
        let x = read::<T>(OP, &x)?;
        let hold = w.hold(OP)?;
        let head = Head { x: &x, w: hold.rows(), narrow, d, v };
        let mut dx = want_dx.then(|| vec![T::ZERO; n * d]);
        let mut dweight = want_dweight.then(|| vec![T::ZERO; v * d]);
        let mut loss_sum = 0.0;
        head.for_chunks(targets.as_slice(), |first, targets, logits| {
            let scale = (want_dx || want_dweight).then(|| T::of(grad_scale));
            let losses: Vec<f64> = logits
                .par_chunks_mut(v)
                .zip(targets)
                .map(|(z, target)| wide!(loss_row(z, *target as usize, scale)))
                .collect();
            loss_sum += losses.iter().sum::<f64>();
            let rows = targets.len();
            if let Some(dweight) = &mut dweight {
                let x = &x[first * d..][..rows * d];
                let (dz, x) = (Mat::new(logits, rows, v).t(), Mat::new(x, rows, d));
                matmul(MatMut::new(dweight, v, d), T::ONE, T::ONE, dz, x, ALL);
            }
            if let Some(dx) = &mut dx {
                head.backward(&mut dx[first * d..][..rows * d], logits);
            }
        });
        Ok(HeadLoss {
            loss_sum: LossSum(Sum::Here(loss_sum)),
            dx: dx.map(|dx| access::tensor(dx, (n, d))).transpose()?,
            dweight: dweight.map(|dw| access::tensor(dw, (v, d))).transpose()?,
        })
    })
}

/// The log-probability of each target, and whether it would be the model's own choice.
pub fn linear_token_scores(
    x: &Tensor,
    w: &Matrix,
    targets: impl Into<Indices>,
) -> Result<Vec<TokenScore>> {
    const OP: &str = "linear_token_scores";
    let targets = &targets.into();
    let (_, d) = check(OP, x, w, targets.as_slice())?;
    if let Some(w) = w.on_device() {
        return ops::token_scores(&access::dense(x)?, w, targets, LOGITS_BYTES);
    }
    let v = w.rows();
    let dot = Bf16Dot::pays(x.dtype(), targets.len());
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let narrow = Narrow::new(OP, dot, x)?;
        let narrow = narrow.as_ref().map(Narrow::read).transpose()?;
        let x = dense_as::<T>(x)?;
        let x = read::<T>(OP, &x)?;
        let hold = w.hold(OP)?;
        let head = Head { x: &x, w: hold.rows(), narrow, d, v };
        let mut scores = Vec::with_capacity(targets.len());
        head.for_chunks(targets.as_slice(), |_, targets, logits| {
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

/// x in bf16, for the processor's dot products.
struct Narrow {
    op: &'static str,
    dot: Bf16Dot,
    x: Tensor,
}

impl Narrow {
    fn new(op: &'static str, dot: Option<Bf16Dot>, x: &Tensor) -> Result<Option<Self>> {
        dot.map(|dot| {
            let x = access::dense(&crate::narrow(x, DType::BF16)?)?;
            Ok(Self { op, dot, x })
        })
        .transpose()
    }

    fn read(&self) -> Result<(Bf16Dot, Slice<'_, bf16>)> {
        Ok((self.dot, read(self.op, &self.x)?))
    }
}

/// The head's two products, over x (N, D) and W (V, D).
struct Head<'a, T> {
    x: &'a [T],
    w: Rows<'a>,
    narrow: Option<(Bf16Dot, Slice<'a, bf16>)>,
    d: usize,
    v: usize,
}

impl<T: Real> Head<'_, T> {
    /// Calls `each` with the first row, targets and logits of one chunk of rows after another.
    fn for_chunks(&self, targets: &[u32], mut each: impl FnMut(usize, &[u32], &mut [T])) {
        let chunk = (LOGITS_BYTES / (self.v.max(1) * size_of::<T>()))
            .max(1)
            .min(targets.len());
        let mut buffer = vec![T::ZERO; chunk * self.v];
        for (i, targets) in targets.chunks(chunk.max(1)).enumerate() {
            let logits = &mut buffer[..targets.len() * self.v];
            self.forward(logits, i * chunk, targets.len());
            each(i * chunk, targets, logits);
        }
    }

    /// z = x Wᵀ of some rows.
    fn forward(&self, z: &mut [T], first: usize, rows: usize) {
        let range = first * self.d..(first + rows) * self.d;
        let shape = (rows, self.v, self.d);
        if let (Some((dot, x)), Some(z)) = (&self.narrow, T::as_f32_mut(z)) {
            return dot.product(z, &x[range], self.w, shape);
        }
        product(z, &self.x[range], self.w, shape);
    }

    /// dx = dz W.
    fn backward(&self, dx: &mut [T], dz: &mut [T]) {
        let shape = (dz.len() / self.v.max(1), self.v, self.d);
        if let Some((dot, _)) = &self.narrow
            && let (Some(dx), Some(dz)) = (T::as_f32_mut(dx), T::as_f32_mut(dz))
        {
            return dot.product_dx(dx, &access::narrowed::<bf16>(dz), self.w, shape);
        }
        product_dx(dx, dz, self.w, shape);
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
            Some(dy) => dy.to_dtype(DType::F64)?.to_vec1::<f64>()?[0],
            None => 0.0,
        };
        let want = dy.is_some();
        let loss = linear_cross_entropy(x, &w, &targets, scale, want, want)?;
        let y = access::tensor(vec![loss.loss_sum.value()?], 1)?;
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
