//! Sums, scalings and rows picked out or put back.

use crate::access::{self, CHUNK, dense, dense_as, dims2, mutate, read, same_shape};
use crate::cuda::ops;
use crate::real::{Real, Stored, accumulate_dtype, with_real, with_stored};
use crate::simd::wide;
use crate::{Error, Indices, OpCase, Result, simd};
use candle_core::Tensor;
use rayon::prelude::*;

/// Σ x² of each, in f64: tensors that all lie on one device, which is waited for once.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    if tensors.iter().any(|x| x.device().is_cuda()) {
        return ops::sums_of_squares(tensors);
    }
    tensors.iter().map(|x| sum_of_squares(x)).collect()
}

/// Σ x², in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    const OP: &str = "sum_of_squares";
    if x.device().is_cuda() {
        return Ok(ops::sums_of_squares(&[x])?.iter().sum());
    }
    let x = dense(x)?;
    with_stored!(OP, x.dtype(), S => {
        let x = read::<S>(OP, &x)?;
        let x: &[S] = &x;
        let partial: Vec<f64> = x.par_chunks(CHUNK).map(|x| wide!(squares(x))).collect();
        Ok(partial.iter().sum())
    })
}

#[inline(always)]
fn squares<S: Stored>(x: &[S]) -> f64 {
    simd::sum_over(
        x,
        #[inline(always)]
        |sum: f64, x| x.widen().f64().mul_add(x.widen().f64(), sum),
    )
}

/// a ← a + b.
pub fn add_assign(a: &mut Tensor, b: &Tensor) -> Result<()> {
    const OP: &str = "add_assign";
    same_shape(OP, "a", a, "b", b)?;
    access::not_aliased(OP, a, "b", b)?;
    if a.device().is_cuda() {
        return ops::add_assign(a, b);
    }
    with_stored!(OP, a.dtype(), S => {
        let b = dense_as::<<S as Stored>::Acc>(b)?;
        let b = read::<<S as Stored>::Acc>(OP, &b)?;
        let b: &[_] = &b;
        mutate::<S, _>(OP, a, |a| {
            a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| wide!({
                for (a, b) in a.iter_mut().zip(b) {
                    *a = S::narrow(a.widen() + *b);
                }
            }));
            Ok(())
        })
    })
}

/// a ← factor · a.
pub fn scale_assign(a: &mut Tensor, factor: f64) -> Result<()> {
    const OP: &str = "scale_assign";
    if a.device().is_cuda() {
        return ops::scale_assign(a, factor);
    }
    with_stored!(OP, a.dtype(), S => mutate::<S, _>(OP, a, |a| {
        let factor = <S as Stored>::Acc::of(factor);
        a.par_chunks_mut(CHUNK).for_each(|a| wide!({
            for a in a {
                *a = S::narrow(a.widen() * factor);
            }
        }));
        Ok(())
    }))
}

/// a / b, of one shape, in a's accumulate type.
pub fn divide(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "divide";
    same_shape(OP, "a", a, "b", b)?;
    if a.device().is_cuda() {
        return ops::divide(a, b);
    }
    with_real!(OP, accumulate_dtype(a.dtype()), T => {
        let shape = a.shape();
        let (a, b) = (dense_as::<T>(a)?, dense_as::<T>(b)?);
        let (a, b) = (read::<T>(OP, &a)?, read::<T>(OP, &b)?);
        let y: Vec<T> = a.iter().zip(b.iter()).map(|(a, b)| *a / *b).collect();
        access::tensor(y, shape)
    })
}

/// y (T, N) ← y + bias (N).
pub fn add_bias(y: &mut Tensor, bias: &Tensor) -> Result<()> {
    const OP: &str = "add_bias";
    let (t, n) = dims2(OP, "y", y)?;
    if bias.dims() != [n] {
        return Err(access::shape(OP, "y", y.dims(), "the bias", bias.dims()));
    }
    access::not_aliased(OP, y, "the bias", bias)?;
    if n == 0 {
        return Ok(());
    }
    if y.device().is_cuda() {
        return ops::add_bias(y, bias, (t, n));
    }
    with_stored!(OP, y.dtype(), S => {
        let bias = dense_as::<<S as Stored>::Acc>(bias)?;
        let bias = read::<<S as Stored>::Acc>(OP, &bias)?;
        let bias: &[_] = &bias;
        mutate::<S, _>(OP, y, |y| {
            y.par_chunks_mut(n * (CHUNK / n).max(1)).for_each(|y| wide!({
                for y in y.chunks_exact_mut(n) {
                    for (y, b) in y.iter_mut().zip(bias) {
                        *y = S::narrow(y.widen() + *b);
                    }
                }
            }));
            Ok(())
        })
    })
}

/// (N), in the accumulate type: the sum of x's rows (T, N); a bias's gradient.
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum_rows";
    const ROWS: usize = 64;
    let (t, n) = dims2(OP, "x", x)?;
    if x.device().is_cuda() {
        return ops::sum_rows(x, (t, n));
    }
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let x = dense_as::<T>(x)?;
        let x = read::<T>(OP, &x)?;
        let x: &[T] = &x;
        let add = |mut total: Vec<T>, row: &[T]| {
            wide!({
                for (t, x) in total.iter_mut().zip(row) {
                    *t += *x;
                }
            });
            total
        };
        let width = n.max(1);
        let partial: Vec<Vec<T>> = x
            .par_chunks(ROWS * width)
            .map(|rows| rows.chunks_exact(width).fold(vec![T::ZERO; n], add))
            .collect();
        let total = partial.iter().fold(vec![T::ZERO; n], |total, row| add(total, row));
        access::tensor(total, n)
    })
}

/// (indices.len(), D): those rows of x (T, D), in x's type.
pub fn gather_rows(x: &Tensor, indices: impl Into<Indices>) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let (t, d) = dims2(OP, "x", x)?;
    let indices = indices.into();
    check_rows(OP, &indices, t)?;
    let x = dense(x)?;
    if x.device().is_cuda() {
        return ops::gather_rows(&x, &indices, d);
    }
    with_stored!(OP, x.dtype(), S => {
        let x = read::<S>(OP, &x)?;
        let mut y = Vec::with_capacity(indices.len() * d);
        for i in indices.as_slice() {
            y.extend_from_slice(&x[*i as usize * d..][..d]);
        }
        access::tensor(y, (indices.len(), d))
    })
}

/// (rows, D), in x's type: row i of x (N, D) is added to row `indices[i]` of zeros. The backward
/// pass of [`gather_rows`].
pub fn scatter_rows(x: &Tensor, indices: impl Into<Indices>, rows: usize) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let indices = indices.into();
    let (n, d) = dims2(OP, "x", x)?;
    if indices.len() != n {
        return Err(Error::Length {
            op: OP,
            what: "indices",
            expected: n,
            found: indices.len(),
        });
    }
    check_rows(OP, &indices, rows)?;
    let x = dense(x)?;
    if x.device().is_cuda() {
        return ops::scatter_rows(&x, &indices, rows, d);
    }
    with_stored!(OP, x.dtype(), S => {
        let x = read::<S>(OP, &x)?;
        let mut y = vec![<S as candle_core::WithDType>::from_f64(0.0); rows * d];
        for (i, x) in indices.as_slice().iter().zip(x.chunks_exact(d.max(1))) {
            for (y, x) in y[*i as usize * d..][..d].iter_mut().zip(x) {
                *y = <S as Stored>::narrow(y.widen() + x.widen());
            }
        }
        access::tensor(y, (rows, d))
    })
}

fn check_rows(op: &'static str, indices: &Indices, rows: usize) -> Result<()> {
    let indices = indices.as_slice();
    match indices.iter().position(|i| *i as usize >= rows) {
        Some(position) => Err(Error::Row {
            op,
            row: indices[position] as usize,
            rows,
            position,
        }),
        None => Ok(()),
    }
}

pub(crate) const BIAS: OpCase = OpCase {
    name: "add_bias and sum_rows",
    shapes: &[&[&[5, 123], &[123]], &[&[130, 300], &[300]]],
    run: |inputs, dy| {
        let mut y = inputs[0].force_contiguous()?;
        add_bias(&mut y, &inputs[1])?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        Ok((y, vec![dy.clone(), sum_rows(dy)?]))
    },
    reference: |inputs| inputs[0].broadcast_add(&inputs[1]),
};

/// 0.75 · (a + b).
pub(crate) const SUM: OpCase = OpCase {
    name: "add_assign and scale_assign",
    shapes: &[&[&[5, 123], &[5, 123]], &[&[130, 300], &[130, 300]]],
    run: |inputs, dy| {
        let mut y = inputs[0].force_contiguous()?;
        add_assign(&mut y, &inputs[1])?;
        scale_assign(&mut y, 0.75)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let mut d = dy.force_contiguous()?;
        scale_assign(&mut d, 0.75)?;
        Ok((y, vec![d.clone(), d]))
    },
    reference: |inputs| (&inputs[0] + &inputs[1])? * 0.75,
};

fn case_rows(t: usize) -> Vec<usize> {
    (0..9).map(|i| (i * i) % t).collect()
}

/// Nine rows, some more than once.
pub(crate) const ROWS: OpCase = OpCase {
    name: "gather_rows and scatter_rows",
    shapes: &[&[&[5, 123]], &[&[130, 300]]],
    run: |inputs, dy| {
        let t = inputs[0].dim(0)?;
        let y = gather_rows(&inputs[0], &case_rows(t))?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        Ok((y, vec![scatter_rows(dy, &case_rows(t), t)?]))
    },
    reference: |inputs| {
        let rows: Vec<u32> = case_rows(inputs[0].dim(0)?)
            .iter()
            .map(|i| *i as u32)
            .collect();
        inputs[0].index_select(&Tensor::new(rows, inputs[0].device())?, 0)
    },
};
