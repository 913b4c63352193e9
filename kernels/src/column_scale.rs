//! y = x ∘ f: each column of x (T, N) times a factor of its own (N).
//!
//! dx = dy ∘ f, which is the same operation, and df = Σ_T dy ∘ x. With f − 1 in f's place it is what the factors add.

use crate::access::{self, CHUNK, dense, dense_as, dims2, read, same_shape};
use crate::cuda::ops;
use crate::real::{Real, Stored, accumulate_dtype, with_real, with_stored};
use crate::simd::wide;
use crate::{OpCase, Result};
use candle_core::{Tensor, WithDType};
use rayon::prelude::*;

/// x (T, N) ∘ factors (N), in x's type.
pub fn scale_columns(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    scaled(x, factors, 0.0)
}

/// x (T, N) ∘ (factors (N) − 1), in x's type: by how much the scaled columns differ from x.
pub fn scale_columns_beyond_one(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    scaled(x, factors, 1.0)
}

/// x ∘ (factors − less).
fn scaled(x: &Tensor, factors: &Tensor, less: f64) -> Result<Tensor> {
    const OP: &str = "scale_columns";
    let (t, n) = dims2(OP, "x", x)?;
    if factors.dims() != [n] {
        let found = factors.dims();
        return Err(access::shape(OP, "x", x.dims(), "the factors", found));
    }
    let x = dense(x)?;
    if x.device().is_cuda() {
        return ops::scale_columns(&x, factors, (t, n), less);
    }
    with_stored!(OP, x.dtype(), S => {
        let factors = dense_as::<<S as Stored>::Acc>(factors)?;
        let factors = read::<<S as Stored>::Acc>(OP, &factors)?;
        let factors: &[_] = &factors;
        let less = <S as Stored>::Acc::of(less);
        let x = read::<S>(OP, &x)?;
        let x: &[S] = &x;
        let mut y = vec![<S as WithDType>::from_f64(0.0); t * n];
        let width = n.max(1);
        let some = width * (CHUNK / width).max(1);
        y.par_chunks_mut(some).zip(x.par_chunks(some)).for_each(|(y, x)| wide!({
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for ((y, x), f) in y.iter_mut().zip(x).zip(factors) {
                    *y = S::narrow(x.widen() * (*f - less));
                }
            }
        }));
        access::tensor(y, (t, n))
    })
}

/// (N), in the accumulate type of a: Σ_T a ∘ b of a and b (T, N); the factors' gradient in [`scale_columns`].
pub fn column_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "column_products";
    const ROWS: usize = 64;
    let (t, n) = dims2(OP, "a", a)?;
    same_shape(OP, "a", a, "b", b)?;
    if a.device().is_cuda() {
        return ops::column_products(a, b, (t, n));
    }
    with_real!(OP, accumulate_dtype(a.dtype()), T => {
        let (a, b) = (dense_as::<T>(a)?, dense_as::<T>(b)?);
        let (a, b) = (read::<T>(OP, &a)?, read::<T>(OP, &b)?);
        let (a, b): (&[T], &[T]) = (&a, &b);
        let width = n.max(1);
        let partial: Vec<Vec<T>> = a
            .par_chunks(ROWS * width)
            .zip(b.par_chunks(ROWS * width))
            .map(|(a, b)| {
                let mut sums = vec![T::ZERO; n];
                wide!({
                    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
                        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
                            *s += *a * *b;
                        }
                    }
                });
                sums
            })
            .collect();
        // Added in order: the same sum for any number of threads.
        let mut total = vec![T::ZERO; n];
        for sums in partial {
            for (t, s) in total.iter_mut().zip(sums) {
                *t += s;
            }
        }
        access::tensor(total, n)
    })
}

pub(crate) const CASE: OpCase = OpCase {
    name: "scale_columns and column_products",
    shapes: &[&[&[5, 123], &[123]], &[&[130, 300], &[300]]],
    run: |inputs, dy| {
        let (x, f) = (&inputs[0], &inputs[1]);
        let y = scale_columns(x, f)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        Ok((y, vec![scale_columns(dy, f)?, column_products(dy, x)?]))
    },
    reference: |inputs| inputs[0].broadcast_mul(&inputs[1]),
};
