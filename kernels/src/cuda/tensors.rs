//! Tensors in a device's memory, as the operations use them: given out, filled, and handed to kernels.
//!
//! In a build without the feature `cuda` no tensor lies there, and every function here says so.

use super::launch::{Float, Launches};
use crate::{Error, Result, access};
use candle_core::{DType, Shape, Tensor};

/// How a device's kernels see the numbers of a tensor.
pub(crate) fn float(op: &'static str, tensor: &Tensor) -> Result<Float> {
    match tensor.dtype() {
        DType::F32 => Ok(Float::F32),
        DType::BF16 => Ok(Float::Bf16),
        found => Err(Error::Type {
            op,
            found,
            expected: "f32 or bf16 on a GPU",
        }),
    }
}

/// Asks for an operation's kernels over these tensors, in the order that its launch function names them. Does not wait.
#[cfg(feature = "cuda")]
pub(crate) fn run(
    op: &'static str,
    launches: impl Into<Launches>,
    tensors: &[&Tensor],
) -> Result<()> {
    let buffers = tensors.iter().map(|t| super::Buffer::strided(op, t));
    let buffers = buffers.collect::<Result<Vec<_>>>()?;
    match buffers.first() {
        Some(first) => first.gpu().clone().run(&launches.into(), &buffers),
        None => Ok(()),
    }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn run(
    op: &'static str,
    launches: impl Into<Launches>,
    tensors: &[&Tensor],
) -> Result<()> {
    let _: Launches = launches.into();
    match tensors.first() {
        Some(tensor) => Err(access::off_device(op, tensor)),
        None => Ok(()),
    }
}

/// A tensor where `like` lies, whose numbers are whatever the memory held: kernels write it before it is read.
#[cfg(feature = "cuda")]
pub(crate) fn uninit(
    op: &'static str,
    shape: impl Into<Shape>,
    dtype: DType,
    like: &Tensor,
) -> Result<Tensor> {
    use candle_core::Storage;
    use candle_core::backend::BackendDevice;
    let shape = shape.into();
    let Ok(device) = like.device().as_cuda_device() else {
        return Err(access::off_device(op, like));
    };
    // SAFETY: the caller's kernels write every number before anything reads it.
    let storage = unsafe { device.alloc_uninit(&shape, dtype)? };
    let none = candle_core::op::BackpropOp::none();
    Ok(Tensor::from_storage(
        Storage::Cuda(storage),
        shape,
        none,
        false,
    ))
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn uninit(
    op: &'static str,
    shape: impl Into<Shape>,
    dtype: DType,
    like: &Tensor,
) -> Result<Tensor> {
    let _ = (shape.into(), dtype);
    Err(access::off_device(op, like))
}

/// out = beta·out + alpha·op(a)·op(b), by the device's matrix products. Those are of one type: where one operand is
/// narrower, the other is rounded to it, as in autocast.
#[cfg(feature = "cuda")]
pub(crate) fn gemm(
    out: &mut Tensor,
    beta: f64,
    alpha: f64,
    a: &Tensor,
    ta: crate::Op,
    b: &Tensor,
    tb: crate::Op,
) -> Result<()> {
    const OP: &str = "gemm";
    match (a.dtype(), b.dtype()) {
        (DType::BF16, DType::F32) => {
            super::gemm(out, beta, alpha, a, ta, &dense_as(OP, b, DType::BF16)?, tb)
        }
        (DType::F32, DType::BF16) => {
            super::gemm(out, beta, alpha, &dense_as(OP, a, DType::BF16)?, ta, b, tb)
        }
        _ => super::gemm(out, beta, alpha, a, ta, b, tb),
    }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn gemm(
    out: &mut Tensor,
    _: f64,
    _: f64,
    _: &Tensor,
    _: crate::Op,
    _: &Tensor,
    _: crate::Op,
) -> Result<()> {
    Err(access::off_device("gemm", out))
}

/// A list where `like` lies, by way of pinned memory. Does not wait.
#[cfg(feature = "cuda")]
pub(crate) fn upload<T: candle_core::WithDType>(list: &[T], like: &Tensor) -> Result<Tensor> {
    const OP: &str = "upload";
    let there = uninit(OP, list.len(), T::DTYPE, like)?;
    if !list.is_empty() {
        let buffer = super::Buffer::dense(OP, "the list", &there)?;
        buffer.gpu().send(list, buffer.address())?;
    }
    Ok(there)
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn upload<T: candle_core::WithDType>(_: &[T], like: &Tensor) -> Result<Tensor> {
    Err(access::off_device("upload", like))
}

/// Where a dense tensor starts in the device's memory. It holds for as long as the tensor lives.
#[cfg(feature = "cuda")]
pub(crate) fn address(op: &'static str, what: &'static str, tensor: &Tensor) -> Result<u64> {
    Ok(super::Buffer::dense(op, what, tensor)?.address())
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn address(op: &'static str, _: &'static str, tensor: &Tensor) -> Result<u64> {
    Err(access::off_device(op, tensor))
}

/// A launch's table where `like` lies, by way of pinned memory. Does not wait.
#[cfg(feature = "cuda")]
pub(crate) fn upload_table(op: &'static str, table: &[u64], like: &Tensor) -> Result<Tensor> {
    let there = uninit(op, table.len(), DType::I64, like)?;
    let buffer = super::Buffer::dense(op, "the table", &there)?;
    buffer.gpu().send(table, buffer.address())?;
    drop(buffer);
    Ok(there)
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn upload_table(op: &'static str, _: &[u64], like: &Tensor) -> Result<Tensor> {
    Err(access::off_device(op, like))
}

/// The tensor as a dense one of that type, where it lies; a copy only if it is not.
pub(crate) fn dense_as(op: &'static str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let tensor = access::dense(tensor)?;
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    let to = uninit(op, tensor.shape(), dtype, &tensor)?;
    let launch = super::launch::convert(float(op, &tensor)?, float(op, &to)?, tensor.elem_count());
    run(op, launch, &[&tensor, &to])?;
    Ok(to)
}
