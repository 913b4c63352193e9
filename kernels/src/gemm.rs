//! Matrix products in place: out = beta·out + alpha·op(a)·op(b), through the gemm crate.
//!
//! Each element is one chain of fused multiply-adds along the inner dimension, cut at lengths that
//! depend on the shapes alone, so the bits do not depend on the number of threads.

use crate::access::{self, CpuNumbers};
use crate::real::{Real, with_real};
use crate::{Error, OpCase, Result, widen};
use candle_core::{Layout, Storage, Tensor};
pub(crate) use gemm::Parallelism;

/// How an operand of [`gemm()`] is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// As it is.
    Plain,
    /// Transposed.
    Transposed,
}

/// A strided matrix that is read.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// (rows, cols), row after row.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }

    pub(crate) fn strided(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        let fits = rows == 0
            || cols == 0
            || (rows - 1) * row_stride + (cols - 1) * col_stride < data.len();
        assert!(
            fits,
            "a ({rows}, {cols}) view leaves its {} numbers",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix that is written; its columns lie next to each other.
pub(crate) struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// (rows, cols), row after row.
    pub(crate) fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub(crate) fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let fits = rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len();
        assert!(
            fits && (rows < 2 || row_stride >= cols),
            "a ({rows}, {cols}) view leaves its numbers"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

/// All threads, or the one that calls.
pub(crate) const ALL: Parallelism = Parallelism::Rayon(0);
pub(crate) const ONE: Parallelism = Parallelism::None;

/// out = beta·out + alpha·a·b; with beta = 0 `out` is not read.
pub(crate) fn matmul<T: Real>(
    out: MatMut<T>,
    beta: T,
    alpha: T,
    a: Mat<T>,
    b: Mat<T>,
    parallelism: Parallelism,
) {
    assert!(
        a.rows == out.rows && a.cols == b.rows && b.cols == out.cols,
        "({}, {}) x ({}, {}) into ({}, {})",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        out.rows,
        out.cols
    );
    // SAFETY: the views' constructors have checked that every element lies in its slice, the rows of
    // `out` do not overlap, and `&mut` keeps the operands apart. The crate names the factor of
    // `dst` alpha and that of the product beta.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            beta != T::ZERO,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

const OP: &str = "gemm";

/// out = beta·out + alpha·op(a)·op(b), in place; with beta = 0 what `out` holds is not read.
///
/// All three are f32 or all f64. `a` and `b` may be views of any strides, `out` a dense tensor or a
/// range of columns of one. On a GPU, cuBLASLt multiplies: bf16 too, see `cuda::gemm`.
pub fn gemm(
    out: &mut Tensor,
    beta: f64,
    alpha: f64,
    a: &Tensor,
    ta: Op,
    b: &Tensor,
    tb: Op,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if out.device().is_cuda() {
        return crate::cuda::gemm(out, beta, alpha, a, ta, b, tb);
    }
    let (m, n) = access::dims2(OP, "out", out)?;
    let orient = |t: &Tensor, op: Op, what| {
        let (rows, cols) = access::dims2(OP, what, t)?;
        Ok::<_, Error>(if op == Op::Plain {
            (rows, cols)
        } else {
            (cols, rows)
        })
    };
    let ((am, ak), (bk, bn)) = (orient(a, ta, "a")?, orient(b, tb, "b")?);
    if ak != bk {
        return Err(access::shape(OP, "op(a)", &[am, ak], "op(b)", &[bk, bn]));
    }
    if (am, bn) != (m, n) {
        return Err(access::shape(OP, "out", &[m, n], "the product", &[am, bn]));
    }
    for (t, what) in [(a, "a"), (b, "b")] {
        access::not_aliased(OP, out, what, t)?;
    }
    with_real!(OP, out.dtype(), T => gemm_typed::<T>(out, beta, alpha, (a, ta), (b, tb)))
}

fn gemm_typed<T: Real + CpuNumbers>(
    out: &Tensor,
    beta: f64,
    alpha: f64,
    (a, ta): (&Tensor, Op),
    (b, tb): (&Tensor, Op),
) -> Result<()> {
    let ((a_hold, a_layout), (b_hold, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let a_view = view::<T>(&a_hold, a_layout, ta)?;
    let b_view = view::<T>(&b_hold, b_layout, tb)?;
    access::mutate_storage(OP, out, |all: &mut [T], layout| {
        let [rows, cols] = layout.dims() else {
            return Ok(());
        };
        let [row_stride, col_stride] = layout.stride() else {
            return Ok(());
        };
        if (*cols > 1 && *col_stride != 1) || (*rows > 1 && row_stride < cols) {
            return Err(Error::Strided {
                op: OP,
                what: "out",
            });
        }
        let data = &mut all[layout.start_offset()..];
        let stride = if *rows > 1 { *row_stride } else { *cols };
        let out = MatMut::strided(data, *rows, *cols, stride);
        matmul(out, T::of(beta), T::of(alpha), a_view, b_view, ALL);
        Ok(())
    })
}

fn view<'a, T: Real>(storage: &'a Storage, layout: &Layout, op: Op) -> Result<Mat<'a, T>> {
    let Storage::Cpu(storage) = storage else {
        return Err(Error::Device {
            op: OP,
            device: "an accelerator".into(),
        });
    };
    let data = &storage.as_slice::<T>()?[layout.start_offset()..];
    let ([rows, cols], [rs, cs]) = (layout.dims(), layout.stride()) else {
        let shape = layout.dims().to_vec();
        return Err(Error::Rank {
            op: OP,
            what: "an operand",
            shape,
        });
    };
    let view = Mat::strided(data, *rows, *cols, *rs, *cs);
    Ok(if op == Op::Plain { view } else { view.t() })
}

/// out = 0.5·out - 1.5·aᵀ·b.
pub(crate) const CASE: OpCase = OpCase {
    name: "gemm",
    shapes: &[
        &[&[5, 7], &[123, 5], &[123, 7]],
        &[&[130, 210], &[300, 130], &[300, 210]],
    ],
    run: |inputs, dy| {
        let [out, a, b] = inputs else {
            return Ok((inputs[0].clone(), vec![]));
        };
        let mut y = widen(out)?.force_contiguous()?;
        let (a, b) = (&widen(a)?, &widen(b)?);
        gemm(&mut y, 0.5, -1.5, a, Op::Transposed, b, Op::Plain)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let dy = &widen(dy)?;
        let mut d_out = dy.force_contiguous()?;
        crate::scale_assign(&mut d_out, 0.5)?;
        let (mut da, mut db) = (a.zeros_like()?, b.zeros_like()?);
        gemm(&mut da, 0.0, -1.5, b, Op::Plain, dy, Op::Transposed)?;
        gemm(&mut db, 0.0, -1.5, a, Op::Plain, dy, Op::Plain)?;
        Ok((y, vec![d_out, da, db]))
    },
    reference: |inputs| {
        let product = inputs[1].t()?.matmul(&inputs[2])?;
        (&inputs[0] * 0.5)? - (product * 1.5)?
    },
};
