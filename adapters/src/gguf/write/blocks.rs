//! Numbers to the bytes of a ggml type, by rows and with all threads. A block depends on its own numbers only, so the
//! bytes are the same for any number of threads.

use crate::{Error, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use kernels::GgmlType;
use rayon::prelude::*;

/// Elements that one task quantizes.
const PIECE: usize = 1 << 15;

/// The dtype of a type without blocks.
pub(super) fn float_dtype(kind: GgmlType) -> Option<DType> {
    match kind {
        GgmlType::F32 => Some(DType::F32),
        GgmlType::F16 => Some(DType::F16),
        GgmlType::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// The bytes of whole rows of the tensor `name`, the first of whose elements is its element `first`.
pub(super) fn encode(
    name: &str,
    values: &[f32],
    columns: usize,
    first: usize,
    kind: GgmlType,
) -> Result<Vec<u8>> {
    if let Some(dtype) = float_dtype(kind) {
        let width = dtype.size_in_bytes();
        let mut out = vec![0u8; values.len() * width];
        out.par_chunks_mut(PIECE * width)
            .zip(values.par_chunks(PIECE))
            .try_for_each(|(out, values)| crate::encode::encode(name, values, dtype, out))?;
        return Ok(out);
    }
    refuse_unscalable(name, values, first)?;
    let piece = (PIECE / columns).max(1) * columns;
    let bytes = |elements: usize| elements / kind.block_size() * kind.block_bytes();
    let mut out = vec![0u8; bytes(values.len())];
    out.par_chunks_mut(bytes(piece))
        .zip(values.par_chunks(piece))
        .try_for_each(|(out, values)| quantize(values, columns, kind, out))?;
    Ok(out)
}

/// A block of a number that is not finite, or has no f16 scale, would come out as something else without a word.
fn refuse_unscalable(name: &str, values: &[f32], first: usize) -> Result<()> {
    let largest = half::f16::MAX.to_f32();
    // Most tensors have none: a first look for any, a second for the first.
    let bad = |x: &f32| !x.is_finite() || x.abs() > largest;
    match values.par_iter().position_first(bad) {
        None => Ok(()),
        Some(at) if values[at].is_finite() => Err(Error::Overflow {
            name: name.into(),
            value: values[at],
            dtype: "f16".into(),
        }),
        Some(at) => Err(Error::NotFinite {
            name: name.into(),
            element: first + at,
        }),
    }
}

/// candle's quantizers, which follow ggml's. Of the two for Q4_K and Q5_K, the one for weighted numbers is taken, all
/// weights one: the other is ggml's of 2023, which has larger errors and makes zeros of a group of equal numbers.
fn quantize(values: &[f32], columns: usize, kind: GgmlType, out: &mut [u8]) -> Result<()> {
    let rows = Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu)?;
    let blocks = match kind {
        GgmlType::Q4K => QTensor::quantize_imatrix(&rows, &vec![1.0; columns], GgmlDType::Q4K)?,
        GgmlType::Q5K => QTensor::quantize_imatrix(&rows, &vec![1.0; columns], GgmlDType::Q5K)?,
        GgmlType::Q6K => QTensor::quantize(&rows, GgmlDType::Q6K)?,
        GgmlType::Q8_0 => QTensor::quantize(&rows, GgmlDType::Q8_0)?,
        GgmlType::Q5_0 => QTensor::quantize(&rows, GgmlDType::Q5_0)?,
        GgmlType::Q5_1 => QTensor::quantize(&rows, GgmlDType::Q5_1)?,
        other => {
            return Err(Error::Dtype {
                dtype: other.name().into(),
                choices: "F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q5_1, Q5_0",
            });
        }
    };
    out.copy_from_slice(&blocks.data()?);
    Ok(())
}
