//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467):
//! y = w · x / sqrt(mean(x²) + eps), along the last dimension.
//!
//! Backward, with r = 1/sqrt(mean(x²) + eps), n = x·r and g = w·dy:
//! dx = r · (g - n · mean(g·n)), dw = Σ_rows dy · n. Only r is saved beside x.
//!
//! Around a norm is a residual: what is normalised is the sum with it, and dx is added to its gradient. Either is one pass
//! over the rows together with the norm, with the bits of the two apart.

use crate::access::{self, dense, dense_as, mutate, not_aliased, read, same_shape};
use crate::cuda::ops;
use crate::real::{Real, Stored, accumulate_dtype, with_stored};
use crate::simd::wide;
use crate::{Error, OpCase, Result, simd};
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

/// sum ← sum + x, and [`rms_norm`] of that sum, which is saved: it must not be changed before the backward pass.
pub fn rms_norm_of_sum(
    sum: &mut Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, RmsNormSaved)> {
    const OP: &str = "rms_norm_of_sum";
    same_shape(OP, "the sum", sum, "x", x)?;
    let d = width(OP, sum, weight)?;
    not_aliased(OP, sum, "x", x)?;
    not_aliased(OP, sum, "the weight", weight)?;
    is_dense(OP, "the sum", sum)?;
    if sum.dtype() != x.dtype() {
        crate::add_assign(sum, x)?;
        return rms_norm(sum, weight, eps);
    }
    let x = dense(x)?;
    if sum.device().is_cuda() {
        let weight = dense(weight)?;
        let (y, reciprocal) = ops::rms_norm_of_sum(sum, &x, &weight, d, eps)?;
        let x = sum.clone();
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
        let weight = dense_as::<<S as Stored>::Acc>(weight)?;
        let (y, reciprocal) = {
            let (x, w) = (read::<S>(OP, &x)?, read::<<S as Stored>::Acc>(OP, &weight)?);
            mutate(OP, sum, |sum: &mut [S]| Ok(forward_of_sum(sum, &x, &w, d, eps)))?
        };
        let y = access::tensor(y, x.shape())?;
        let rows = reciprocal.len();
        let reciprocal = access::tensor(reciprocal, rows)?;
        Ok((y, RmsNormSaved { x: sum.clone(), weight, reciprocal, eps }))
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
        return ops::rms_norm_backward(inputs, dy, d, want_weight, None);
    }
    with_stored!(OP, saved.x.dtype(), S => {
        let wide_dy = dense_as::<<S as Stored>::Acc>(dy)?;
        let mut dx = vec![<S as Stored>::Acc::ZERO; dy.elem_count()];
        let inputs = Inputs::<S> {
            x: &read(OP, &saved.x)?,
            w: &read(OP, &saved.weight)?,
            reciprocal: &read(OP, &saved.reciprocal)?,
            dy: &read(OP, &wide_dy)?,
        };
        let dweight = inputs.backward::<false>(&mut dx, d, want_weight);
        let dx = access::narrow(&access::tensor(dx, dy.shape())?, dy.dtype())?;
        let dweight = dweight.map(|w| access::tensor(w, d)).transpose()?;
        Ok((dx, dweight))
    })
}

/// dx ← dx + what [`rms_norm_backward`] gives, and dweight likewise.
pub fn rms_norm_backward_onto(
    saved: RmsNormSaved,
    dy: &Tensor,
    dx: &mut Tensor,
    want_weight: bool,
) -> Result<Option<Tensor>> {
    const OP: &str = "rms_norm_backward";
    same_shape(OP, "dx", dx, "x", &saved.x)?;
    not_aliased(OP, dx, "dy", dy)?;
    not_aliased(OP, dx, "x", &saved.x)?;
    is_dense(OP, "dx", dx)?;
    let wide = accumulate_dtype(saved.x.dtype());
    if dy.dtype() != wide || dx.dtype() != wide {
        // Rounded before it is added.
        let (part, dweight) = rms_norm_backward(saved, dy, want_weight)?;
        crate::add_assign(dx, &part)?;
        return Ok(dweight);
    }
    same_shape(OP, "dy", dy, "x", &saved.x)?;
    let d = width(OP, &saved.x, &saved.weight)?;
    if dy.device().is_cuda() {
        let inputs = [&saved.x, &saved.weight, &saved.reciprocal];
        return Ok(ops::rms_norm_backward(inputs, dy, d, want_weight, Some(dx))?.1);
    }
    with_stored!(OP, saved.x.dtype(), S => {
        let dy = dense(dy)?;
        let inputs = Inputs::<S> {
            x: &read(OP, &saved.x)?,
            w: &read(OP, &saved.weight)?,
            reciprocal: &read(OP, &saved.reciprocal)?,
            dy: &read(OP, &dy)?,
        };
        let dweight = mutate(OP, dx, |dx| Ok(inputs.backward::<true>(dx, d, want_weight)))?;
        dweight.map(|w| access::tensor(w, d)).transpose()
    })
}

/// Refuses what would be written beside its own numbers.
fn is_dense(op: &'static str, what: &'static str, written: &Tensor) -> Result<()> {
    match written.is_contiguous() {
        true => Ok(()),
        false => Err(Error::Strided { op, what }),
    }
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

/// [`forward`] of sum ← sum + x.
fn forward_of_sum<S: Stored>(
    sum: &mut [S],
    x: &[S],
    w: &[S::Acc],
    d: usize,
    eps: f64,
) -> (Vec<S>, Vec<S::Acc>) {
    let mut y = vec![S::zero(); x.len()];
    let mut reciprocal = vec![S::Acc::ZERO; x.len() / d];
    let tasks = y
        .par_chunks_mut(ROWS * d)
        .zip(reciprocal.par_chunks_mut(ROWS));
    let tasks = tasks.zip(sum.par_chunks_mut(ROWS * d));
    tasks
        .zip(x.par_chunks(ROWS * d))
        .for_each(|(((y, reciprocal), sum), x)| {
            let rows = y.chunks_exact_mut(d).zip(sum.chunks_exact_mut(d));
            for (((y, sum), x), r) in rows.zip(x.chunks_exact(d)).zip(reciprocal) {
                wide!({
                    for (sum, x) in sum.iter_mut().zip(x) {
                        *sum = S::narrow(sum.widen() + x.widen());
                    }
                });
                *r = wide!(forward_row(y, sum, w, S::Acc::of(eps)));
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

/// What a backward pass reads: the forward pass's, and dy.
struct Inputs<'a, S: Stored> {
    x: &'a [S],
    w: &'a [S::Acc],
    reciprocal: &'a [S::Acc],
    dy: &'a [S::Acc],
}

impl<S: Stored> Inputs<'_, S> {
    /// dx, added to what is there where `ONTO`, and dweight if it is wanted.
    fn backward<const ONTO: bool>(
        &self,
        dx: &mut [S::Acc],
        d: usize,
        want_weight: bool,
    ) -> Option<Vec<S::Acc>> {
        let tasks = dx.par_chunks_mut(ROWS * d).zip(self.x.par_chunks(ROWS * d));
        let tasks = tasks
            .zip(self.dy.par_chunks(ROWS * d))
            .zip(self.reciprocal.par_chunks(ROWS));
        let partial: Vec<Vec<S::Acc>> = tasks
            .map(|(((dx, x), dy), r)| {
                let mut dw = vec![S::Acc::ZERO; if want_weight { d } else { 0 }];
                let rows = dx
                    .chunks_exact_mut(d)
                    .zip(x.chunks_exact(d))
                    .zip(dy.chunks_exact(d));
                for (((dx, x), dy), r) in rows.zip(r) {
                    wide!(backward_row::<S, ONTO>(dx, &mut dw, x, self.w, dy, *r));
                }
                dw
            })
            .collect();
        want_weight.then(|| sum_lists(partial, d))
    }
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
fn backward_row<S: Stored, const ONTO: bool>(
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
        let part = r * (dy[i] * w[i] - x[i].widen() * r * mean);
        dx[i] = if ONTO { part + dx[i] } else { part };
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
    reference: norm_by_candle,
};

/// x + residual, normalised: y and the sum are both read on, the sum as the residual of what follows.
pub(crate) const OF_SUM: OpCase = OpCase {
    name: "rms_norm_of_sum",
    shapes: &[
        &[&[5, 123], &[123], &[5, 123]],
        &[&[130, 300], &[300], &[130, 300]],
    ],
    run: |inputs, dy| {
        let mut sum = inputs[2].force_contiguous()?;
        let (mut y, saved) = rms_norm_of_sum(&mut sum, &inputs[0], &inputs[1], 1e-5)?;
        crate::add_assign(&mut y, &sum)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let mut dx = dy.force_contiguous()?;
        let dweight = rms_norm_backward_onto(saved, dy, &mut dx, true)?;
        let mut gradients = vec![dx.clone()];
        gradients.extend(dweight);
        gradients.push(dx);
        Ok((y, gradients))
    },
    reference: |inputs| {
        let sum = (&inputs[0] + &inputs[2])?;
        norm_by_candle(&[sum.clone(), inputs[1].clone()])? + sum
    },
};

fn norm_by_candle(inputs: &[Tensor]) -> candle_core::Result<Tensor> {
    let mean = inputs[0].sqr()?.mean_keepdim(D::Minus1)?;
    inputs[0]
        .broadcast_div(&(mean + 1e-5)?.sqrt()?)?
        .broadcast_mul(&inputs[1])
}
