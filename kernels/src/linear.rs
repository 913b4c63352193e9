//! y = x Wᵀ and dx = dy W for weights in any stored form.
//!
//! A weight stored in the arithmetic's type goes to the matrix product as it is. Any other is
//! widened a panel of rows at a time, into a buffer that stays in the cache, and each panel is
//! multiplied before the next is read.
//!
//! The products are the gemm crate's, which chooses its code at run time: AVX-512 where the processor
//! has it (the crate's feature `x86-v4`), AVX2 with fused multiply-adds, NEON, or plain code. bf16
//! inputs of more than a few rows go to [`crate::Bf16Dot`] where the processor has AVX-512 BF16.

use crate::access::{self, dense_as, dims2, read};
use crate::cuda::ops;
use crate::gemm::{ALL, Mat, MatMut, matmul};
use crate::matrix::Rows;
use crate::real::{Real, accumulate_dtype, with_real};
use crate::simd::wide;
use crate::{Bf16Dot, Matrix, Op, OpCase, Result, gemm, simd, widen};
use candle_core::Tensor;
use rayon::prelude::*;

/// Bytes of a panel of widened rows.
const PANEL_BYTES: usize = 1 << 20;
/// Up to here the weight is read once, row by row: a product this thin waits for memory.
pub(crate) const FEW_TOKENS: usize = 4;
/// Rows of the weight that a task of the thin product takes.
const FEW_ROWS: usize = 32;

/// y (T, N) = x (T, K) Wᵀ, in the accumulate type of x.
pub fn linear(x: &Tensor, w: &Matrix) -> Result<Tensor> {
    const OP: &str = "linear";
    let (t, k) = dims2(OP, "x", x)?;
    if k != w.cols() {
        return Err(access::shape(
            OP,
            "x",
            x.dims(),
            "the weight",
            &[w.rows(), w.cols()],
        ));
    }
    if let Some(w) = w.on_device() {
        return ops::linear(x, w);
    }
    if let Some(dot) = Bf16Dot::pays(x.dtype(), t) {
        return dot.linear(x, w);
    }
    with_real!(OP, accumulate_dtype(x.dtype()), T => {
        let x = dense_as::<T>(x)?;
        let x = read::<T>(OP, &x)?;
        let hold = w.hold(OP)?;
        let mut y = vec![T::ZERO; t * w.rows()];
        product(&mut y, &x, hold.rows(), (t, w.rows(), k));
        access::tensor(y, (t, w.rows()))
    })
}

/// dx (T, K) = dy (T, N) W, in the accumulate type of dy.
pub fn linear_dx(dy: &Tensor, w: &Matrix) -> Result<Tensor> {
    const OP: &str = "linear_dx";
    let (t, n) = dims2(OP, "dy", dy)?;
    if n != w.rows() {
        return Err(access::shape(
            OP,
            "dy",
            dy.dims(),
            "the weight",
            &[w.rows(), w.cols()],
        ));
    }
    if let Some(device) = w.on_device() {
        return ops::linear_dx(dy, device, dy.dtype());
    }
    if let Some(dot) = Bf16Dot::pays(dy.dtype(), t) {
        return dot.linear_dx(dy, w);
    }
    with_real!(OP, accumulate_dtype(dy.dtype()), T => {
        let dy = dense_as::<T>(dy)?;
        let dy = read::<T>(OP, &dy)?;
        let hold = w.hold(OP)?;
        let mut dx = vec![T::ZERO; t * w.cols()];
        product_dx(&mut dx, &dy, hold.rows(), (t, n, w.cols()));
        access::tensor(dx, (t, w.cols()))
    })
}

/// Rows of a panel: as many as fit its bytes, in eights.
fn panel_rows<T>(cols: usize) -> usize {
    (PANEL_BYTES / (cols.max(1) * size_of::<T>()) / 8 * 8).max(8)
}

/// y (t, n) = x (t, k) Wᵀ.
pub(crate) fn product<T: Real>(y: &mut [T], x: &[T], w: Rows, (t, n, k): (usize, usize, usize)) {
    if t <= FEW_TOKENS {
        return thin_product(y, x, w, (t, n, k));
    }
    let x = Mat::new(x, t, k);
    if let Some(w) = w.as_slice::<T>() {
        return matmul(
            MatMut::new(y, t, n),
            T::ZERO,
            T::ONE,
            x,
            Mat::new(w, n, k).t(),
            ALL,
        );
    }
    let panel = panel_rows::<T>(k).min(n.max(1));
    let mut buffer = vec![T::ZERO; panel * k];
    for first in (0..n).step_by(panel) {
        let rows = panel.min(n - first);
        let buffer = &mut buffer[..rows * k];
        w.read_parallel(first..first + rows, buffer);
        let out = MatMut::strided(&mut y[first..], t, rows, n);
        matmul(out, T::ZERO, T::ONE, x, Mat::new(buffer, rows, k).t(), ALL);
    }
}

/// dx (t, k) = dy (t, n) W.
pub(crate) fn product_dx<T: Real>(
    dx: &mut [T],
    dy: &[T],
    w: Rows,
    (t, n, k): (usize, usize, usize),
) {
    if let Some(w) = w.as_slice::<T>() {
        let (dy, w) = (Mat::new(dy, t, n), Mat::new(w, n, k));
        return matmul(MatMut::new(dx, t, k), T::ZERO, T::ONE, dy, w, ALL);
    }
    let panel = panel_rows::<T>(k).min(n.max(1));
    let mut buffer = vec![T::ZERO; panel * k];
    for first in (0..n).step_by(panel) {
        let rows = panel.min(n - first);
        let buffer = &mut buffer[..rows * k];
        w.read_parallel(first..first + rows, buffer);
        let dy = Mat::strided(&dy[first.min(dy.len())..], t, rows, n, 1);
        let beta = if first == 0 { T::ZERO } else { T::ONE };
        matmul(
            MatMut::new(dx, t, k),
            beta,
            T::ONE,
            dy,
            Mat::new(buffer, rows, k),
            ALL,
        );
    }
}

/// The product for a few tokens: each row of the weight is read once and meets every token.
fn thin_product<T: Real>(y: &mut [T], x: &[T], w: Rows, (t, n, k): (usize, usize, usize)) {
    if t == 0 || n == 0 {
        return;
    }
    let mut transposed = vec![T::ZERO; n * t];
    transposed
        .par_chunks_mut(FEW_ROWS * t)
        .enumerate()
        .for_each(|(i, out)| {
            let direct = w.as_slice::<T>();
            let mut buffer = if direct.is_some() {
                vec![]
            } else {
                vec![T::ZERO; k]
            };
            for (j, out) in out.chunks_exact_mut(t).enumerate() {
                let row = i * FEW_ROWS + j;
                let weights = match direct {
                    Some(w) => &w[row * k..][..k],
                    None => {
                        w.read(row..row + 1, &mut buffer);
                        &buffer
                    }
                };
                for (token, out) in out.iter_mut().enumerate() {
                    *out = wide!(simd::dot(&x[token * k..][..k], weights));
                }
            }
        });
    for (row, values) in transposed.chunks_exact(t).enumerate() {
        for (token, value) in values.iter().enumerate() {
            y[token * n + row] = *value;
        }
    }
}

/// A trainable weight: its gradient is dyᵀ x.
pub(crate) const CASE: OpCase = OpCase {
    name: "linear",
    shapes: &[
        &[&[5, 123], &[7, 123]],
        &[&[3, 123], &[7, 123]],
        &[&[1, 33], &[130, 33]],
        &[&[130, 300], &[210, 300]],
    ],
    run: |inputs, dy| {
        let (x, w) = (&inputs[0], Matrix::dense(inputs[1].contiguous()?));
        let y = linear(x, &w)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let mut dw = widen(&inputs[1].zeros_like()?)?;
        gemm(
            &mut dw,
            0.0,
            1.0,
            &widen(dy)?,
            Op::Transposed,
            &widen(x)?,
            Op::Plain,
        )?;
        Ok((y, vec![linear_dx(dy, &w)?, dw]))
    },
    reference: |inputs| inputs[0].matmul(&inputs[1].t()?),
};
