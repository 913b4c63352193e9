//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467):
//! y = w · x / sqrt(mean(x²) + eps), along the last dimension.
//!
//! Backward, with r = 1/sqrt(mean(x²) + eps), n = x·r and g = w·dy:
//! dx = r · (g - n · mean(g·n)), dw = Σ_rows dy · n. Only r is saved beside x.

use crate::access::{self, dense, dense_as, read, same_shape};
use crate::cuda::ops;
use crate::real::{Real, Stored, with_stored};
use crate::simd::wide;
use crate::{OpCase, Result, simd};
use candle_core::{D, Tensor};
use rayon::prelude::*;

/// What the backward pass needs: x, the weight, and 1/rms of each row.
#[must_use]
#[derive(Debug)]
pub struct RmsNormSaved {
    x: Tensor,
    weight: Tensor,
    /// (rows), accumulate type.
    reciprocal: Tensor,
    eps: f64,
}

impl RmsNormSaved {
    /// Bytes held until the backward pass, x and the weight not counted.
    pub fn size_bytes(&self) -> usize {
        self.reciprocal.elem_count() * self.reciprocal.dtype().size_in_bytes()
    }

    /// y again, the same bits, for what did not keep it.
    pub fn output(&self) -> Result<Tensor> {
        const OP: &str = "rms_norm";
        let d = width(OP, &self.x, &self.weight)?;
        if self.x.device().is_cuda() {
            return Ok(ops::rms_norm(&self.x, &self.weight, d, self.eps)?.0);
        }
        with_stored!(OP, self.x.dtype(), S => {
            let (x, w) = (read::<S>(OP, &self.x)?, read::<<S as Stored>::Acc>(OP, &self.weight)?);
            let reciprocal = read::<<S as Stored>::Acc>(OP, &self.reciprocal)?;
            access::tensor(again::<S>(&x, &w, &reciprocal, d), self.x.shape())
        })
    }
}

/// Rows a task takes; fixed, as the weight's gradient is summed task by task.
const ROWS: usize = 32;

/// y of x (.., D) and weight (D), in x's type.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, RmsNormSaved)> {
    const OP: &str = "rms_norm";
    let d = width(OP, x, weight)?;
    if x.device().is_cuda() {
        let (x, weight) = (dense(x)?, dense(weight)?);
        let (y, reciprocal) = ops::rms_norm(&x, &weight, d, eps)?;
        return Ok((
            y,
            RmsNormSaved {
                x,
                weight,
                reciprocal,
                eps,
            },
        ));
    }
    with_stored!(OP, x.dtype(), S => {
        let x = dense(x)?;
        let wide_weight = dense_as::<<S as Stored>::Acc>(weight)?;
        let (y, reciprocal) = forward::<S>(&read(OP, &x)?, &read(OP, &wide_weight)?, d, eps);
        let y = access::tensor(y, x.shape())?;
        let rows = reciprocal.len();
        let reciprocal = access::tensor(reciprocal, rows)?;
        Ok((y, RmsNormSaved { x, weight: wide_weight, reciprocal, eps }))
    })
}

/// dx, in dy's type, and (if wanted) dweight (D), in the accumulate type.
pub fn rms_norm_backward(
    saved: RmsNormSaved,
    dy: &Tensor,
    want_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "rms_norm_backward";
    same_shape(OP, "dy", dy, "x", &saved.x)?;
    let d = width(OP, &saved.x, &saved.weight)?;
    if dy.device().is_cuda() {
        let inputs = [&saved.x, &saved.weight, &saved.reciprocal];
        return ops::rms_norm_backward(inputs, dy, d, want_weight);
    }
    with_stored!(OP, saved.x.dtype(), S => {
        let wide_dy = dense_as::<<S as Stored>::Acc>(dy)?;
        let (dx, dweight) = backward::<S>(
            &read(OP, &saved.x)?,
            &read(OP, &saved.weight)?,
            &read(OP, &saved.reciprocal)?,
            &read(OP, &wide_dy)?,
            d,
            want_weight,
        );
        let dx = access::narrow(&access::tensor(dx, dy.shape())?, dy.dtype())?;
        let dweight = dweight.map(|w| access::tensor(w, d)).transpose()?;
        Ok((dx, dweight))
    })
}

fn width(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<usize> {
    match (x.dims().last(), weight.dims()) {
        (Some(d), [w]) if d == w && *d > 0 => Ok(*d),
        _ => Err(access::shape(
            op,
            "x",
            x.dims(),
            "the weight",
            weight.dims(),
        )),
    }
}

fn forward<S: Stored>(x: &[S], w: &[S::Acc], d: usize, eps: f64) -> (Vec<S>, Vec<S::Acc>) {
    let mut y = vec![S::zero(); x.len()];
    let mut reciprocal = vec![S::Acc::ZERO; x.len() / d];
    let tasks = y
        .par_chunks_mut(ROWS * d)
        .zip(reciprocal.par_chunks_mut(ROWS));
    tasks
        .zip(x.par_chunks(ROWS * d))
        .for_each(|((y, reciprocal), x)| {
            let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(reciprocal);
            for ((y, x), r) in rows {
                *r = wide!(forward_row(y, x, w, S::Acc::of(eps)));
            }
        });
    (y, reciprocal)
}

#[inline(always)]
fn forward_row<S: Stored>(y: &mut [S], x: &[S], w: &[S::Acc], eps: S::Acc) -> S::Acc {
    let squares = simd::sum_over(
        x,
        #[inline(always)]
        |sum: S::Acc, x| x.widen().fma(x.widen(), sum),
    );
    let r = S::Acc::ONE / (squares / S::Acc::of(x.len() as f64) + eps).sqrt();
    scale_row(y, x, w, r);
    r
}

#[inline(always)]
fn scale_row<S: Stored>(y: &mut [S], x: &[S], w: &[S::Acc], r: S::Acc) {
    for i in 0..y.len().min(x.len()).min(w.len()) {
        y[i] = S::narrow(x[i].widen() * r * w[i]);
    }
}

/// [`forward`]'s y, where the reciprocals are known.
fn again<S: Stored>(x: &[S], w: &[S::Acc], reciprocal: &[S::Acc], d: usize) -> Vec<S> {
    let mut y = vec![S::zero(); x.len()];
    let tasks = y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
    tasks
        .zip(reciprocal.par_chunks(ROWS))
        .for_each(|((y, x), r)| {
            let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(r);
            for ((y, x), r) in rows {
                wide!(scale_row(y, x, w, *r));
            }
        });
    y
}

fn backward<S: Stored>(
    x: &[S],
    w: &[S::Acc],
    reciprocal: &[S::Acc],
    dy: &[S::Acc],
    d: usize,
    want_weight: bool,
) -> (Vec<S::Acc>, Option<Vec<S::Acc>>) {
    let mut dx = vec![S::Acc::ZERO; x.len()];
    let tasks = dx.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
    let tasks = tasks
        .zip(dy.par_chunks(ROWS * d))
        .zip(reciprocal.par_chunks(ROWS));
    let partial: Vec<Vec<S::Acc>> = tasks
        .map(|(((dx, x), dy), r)| {
            let mut dw = vec![S::Acc::ZERO; if want_weight { d } else { 0 }];
            let rows = dx
                .chunks_exact_mut(d)
                .zip(x.chunks_exact(d))
                .zip(dy.chunks_exact(d));
            for (((dx, x), dy), r) in rows.zip(r) {
                wide!(backward_row(dx, &mut dw, x, w, dy, *r));
            }
            dw
        })
        .collect();
    (dx, want_weight.then(|| sum_lists(partial, d)))
}

/// Adds up lists in their order.
fn sum_lists<T: Real>(lists: Vec<Vec<T>>, len: usize) -> Vec<T> {
    let mut total = vec![T::ZERO; len];
    for list in lists {
        for (t, x) in total.iter_mut().zip(list) {
            *t += x;
        }
    }
    total
}

#[inline(always)]
fn backward_row<S: Stored>(
    dx: &mut [S::Acc],
    dw: &mut [S::Acc],
    x: &[S],
    w: &[S::Acc],
    dy: &[S::Acc],
    r: S::Acc,
) {
    let d = dx.len();
    let (x, w, dy) = (&x[..d], &w[..d], &dy[..d]);
    let along = simd::sum_over3(
        x,
        w,
        dy,
        #[inline(always)]
        |sum: S::Acc, x, w: S::Acc, dy| (w * dy).fma(x.widen(), sum),
    );
    let mean = along * r / S::Acc::of(d as f64);
    for i in 0..d {
        dx[i] = r * (dy[i] * w[i] - x[i].widen() * r * mean);
    }
    for i in 0..dw.len() {
        dw[i] += dy[i] * x[i].widen() * r;
    }
}

pub(crate) const CASE: OpCase = OpCase {
    name: "rms_norm",
    shapes: &[
        &[&[5, 123], &[123]],
        &[&[5, 3, 7], &[7]],
        &[&[130, 300], &[300]],
    ],
    run: |inputs, dy| {
        let (y, saved) = rms_norm(&inputs[0], &inputs[1], 1e-5)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let (dx, dweight) = rms_norm_backward(saved, dy, true)?;
        Ok((y, std::iter::once(dx).chain(dweight).collect()))
    },
    reference: |inputs| {
        let mean = inputs[0].sqr()?.mean_keepdim(D::Minus1)?;
        inputs[0]
            .broadcast_div(&(mean + 1e-5)?.sqrt()?)?
            .broadcast_mul(&inputs[1])
    },
};
