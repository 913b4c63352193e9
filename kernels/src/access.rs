//! A tensor's numbers as slices: the one place that touches candle's storage.

use crate::cuda::tensors as device;
use crate::real::{Real, Stored, accumulate_dtype, with_stored};
use crate::simd::wide;
use crate::{Error, Result};
use candle_core::{
    CpuStorage, DType, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor, WithDType,
};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Deref;

/// Elements a task of an elementwise loop takes: fixed, so sums do not depend on threads.
pub(crate) const CHUNK: usize = 16 * 1024;

/// A dense tensor's numbers, locked for reading.
pub(crate) struct Slice<'a, T> {
    guard: StorageRef<'a>,
    start: usize,
    end: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &*self.guard {
            // `read` has checked the type and the bounds.
            Storage::Cpu(storage) => storage
                .as_slice::<T>()
                .map_or(&[], |all| &all[self.start..self.end]),
            _ => &[],
        }
    }
}

/// The numbers of a dense CPU tensor of type `T`.
pub(crate) fn read<'a, T: WithDType>(op: &'static str, tensor: &'a Tensor) -> Result<Slice<'a, T>> {
    let (guard, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().ok_or(Error::Strided {
        op,
        what: "an operand",
    })?;
    match &*guard {
        Storage::Cpu(storage) => {
            storage.as_slice::<T>()?;
        }
        _ => return Err(off_device(op, tensor)),
    }
    Ok(Slice {
        guard,
        start,
        end,
        kind: std::marker::PhantomData,
    })
}

pub(crate) fn off_device(op: &'static str, tensor: &Tensor) -> Error {
    Error::Device {
        op,
        device: format!("{:?}", tensor.device().location()),
    }
}

/// The same tensor as one dense block, where it lies; a copy only if it is a view.
pub(crate) fn dense(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.contiguous()?.detach())
}

/// A tensor of numbers just computed, on the CPU.
pub(crate) fn tensor<T: WithDType>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    Ok(Tensor::from_storage(
        Storage::Cpu(T::to_cpu_storage_owned(data)),
        shape,
        candle_core::op::BackpropOp::none(),
        false,
    ))
}

struct Mutation<F, R> {
    op: &'static str,
    body: Cell<Option<F>>,
    result: Cell<Option<Result<R>>>,
}

impl<F, R> InplaceOp1 for Mutation<F, R>
where
    F: FnOnce(&mut CpuStorage, &Layout) -> Result<R>,
{
    fn name(&self) -> &'static str {
        self.op
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        if let Some(body) = self.body.take() {
            self.result.set(Some(body(storage, layout)));
        }
        Ok(())
    }
}

/// Runs `body` on the storage of a tensor, which its clones share.
pub(crate) fn mutate_storage<T: CpuNumbers, R>(
    op: &'static str,
    tensor: &Tensor,
    body: impl FnOnce(&mut [T], &Layout) -> Result<R>,
) -> Result<R> {
    if !tensor.device().is_cpu() {
        return Err(off_device(op, tensor));
    }
    if tensor.dtype() != T::DTYPE {
        return Err(Error::Type {
            op,
            found: tensor.dtype(),
            expected: "all operands of one type",
        });
    }
    let mutation = Mutation {
        op,
        body: Cell::new(Some(|storage: &mut CpuStorage, layout: &Layout| {
            let all = T::numbers_mut(storage).ok_or(Error::Type {
                op,
                found: T::DTYPE,
                expected: "a CPU storage of that type",
            })?;
            body(all, layout)
        })),
        result: Cell::new(None),
    };
    tensor.inplace_op1(&mutation)?;
    mutation.result.take().unwrap_or(Err(Error::Device {
        op,
        device: "an unknown device".into(),
    }))
}

/// Runs `body` on the numbers of a dense tensor.
pub(crate) fn mutate<T: CpuNumbers, R>(
    op: &'static str,
    tensor: &Tensor,
    body: impl FnOnce(&mut [T]) -> Result<R>,
) -> Result<R> {
    mutate_storage(op, tensor, |all: &mut [T], layout| {
        let (start, end) = layout.contiguous_offsets().ok_or(Error::Strided {
            op,
            what: "the tensor that is written",
        })?;
        body(&mut all[start..end])
    })
}

/// A tensor where `like` lies for a product ([`crate::gemm`]) to write, with beta = 0: of zeros on the processor, of whatever the memory held
/// on a GPU.
pub fn unwritten(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    match like.device().is_cuda() {
        true => device::uninit("gemm", shape, dtype, like),
        false => Ok(Tensor::zeros(shape, dtype, like.device())?),
    }
}

/// Types whose CPU storage can be written.
pub(crate) trait CpuNumbers: WithDType {
    fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! cpu_numbers {
    ($($type:ty => $variant:ident),*) => {$(
        impl CpuNumbers for $type {
            fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(data) => Some(data),
                    _ => None,
                }
            }
        }
    )*};
}
cpu_numbers!(f32 => F32, f64 => F64, half::bf16 => BF16, u8 => U8);

/// Refuses an operand that shares its storage with the one to be written: reading it would wait
/// for the write lock for ever.
pub(crate) fn not_aliased(
    op: &'static str,
    written: &Tensor,
    what: &'static str,
    other: &Tensor,
) -> Result<()> {
    let address = |t: &Tensor| std::ptr::from_ref::<Storage>(&t.storage_and_layout().0).addr();
    if address(written) == address(other) {
        Err(Error::Aliased { op, what })
    } else {
        Ok(())
    }
}

/// (rows, columns) of a 2-dimensional tensor.
pub(crate) fn dims2(op: &'static str, what: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match t.dims() {
        [rows, cols] => Ok((*rows, *cols)),
        _ => Err(Error::Rank {
            op,
            what,
            shape: t.dims().to_vec(),
        }),
    }
}

/// The error for two shapes that do not fit.
pub(crate) fn shape(
    op: &'static str,
    left: &'static str,
    left_shape: &[usize],
    right: &'static str,
    right_shape: &[usize],
) -> Error {
    Error::Shape {
        op,
        left,
        left_shape: left_shape.to_vec(),
        right,
        right_shape: right_shape.to_vec(),
    }
}

/// Fails unless the two shapes are the same.
pub(crate) fn same_shape(
    op: &'static str,
    left: &'static str,
    a: &Tensor,
    right: &'static str,
    b: &Tensor,
) -> Result<()> {
    if a.dims() == b.dims() {
        Ok(())
    } else {
        Err(shape(op, left, a.dims(), right, b.dims()))
    }
}

/// Widens a list in parallel.
pub(crate) fn widened<S: Stored>(from: &[S]) -> Vec<S::Acc> {
    let mut to = vec![S::Acc::ZERO; from.len()];
    to.par_chunks_mut(CHUNK)
        .zip(from.par_chunks(CHUNK))
        .for_each(|(to, from)| {
            wide!({
                for (t, f) in to.iter_mut().zip(from) {
                    *t = f.widen();
                }
            });
        });
    to
}

/// Narrows a list in parallel.
pub(crate) fn narrowed<S: Stored>(from: &[S::Acc]) -> Vec<S> {
    let mut to = vec![S::zero(); from.len()];
    to.par_chunks_mut(CHUNK)
        .zip(from.par_chunks(CHUNK))
        .for_each(|(to, from)| {
            wide!({
                for (t, f) in to.iter_mut().zip(from) {
                    *t = S::narrow(*f);
                }
            });
        });
    to
}

/// The tensor in its accumulate type: f32, or f64 for f64. No copy if it is already.
pub fn widen(tensor: &Tensor) -> Result<Tensor> {
    const OP: &str = "widen";
    let wide = accumulate_dtype(tensor.dtype());
    if tensor.dtype() == wide {
        return Ok(tensor.clone());
    }
    if tensor.device().is_cuda() {
        return device::dense_as(OP, tensor, wide);
    }
    with_stored!(OP, tensor.dtype(), S => {
        let tensor_in = dense(tensor)?;
        self::tensor(widened::<S>(&read::<S>(OP, &tensor_in)?), tensor.shape())
    })
}

/// The tensor in a storage type, rounded to nearest even. No copy if it is already.
pub fn narrow(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "narrow";
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    if tensor.device().is_cuda() {
        return device::dense_as(OP, tensor, dtype);
    }
    match (tensor.dtype(), dtype) {
        (DType::F32, DType::BF16) => {
            let input = dense(tensor)?;
            self::tensor(
                narrowed::<half::bf16>(&read::<f32>(OP, &input)?),
                tensor.shape(),
            )
        }
        (DType::BF16, DType::F32) => widen(tensor),
        (
            DType::F32 | DType::F64 | DType::BF16 | DType::F16,
            DType::F32 | DType::F64 | DType::BF16,
        ) => Ok(tensor.to_dtype(dtype)?.detach()),
        (found, _) => Err(Error::Type {
            op: OP,
            found,
            expected: "f32, bf16 or f64",
        }),
    }
}

/// The tensor as a dense one of type `T`: widened or rounded if it is another float.
pub(crate) fn dense_as<T: Real>(tensor: &Tensor) -> Result<Tensor> {
    dense(&narrow(tensor, T::DTYPE)?)
}
