//! Rounding numbers to a stored format: once, to nearest even.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// What a model's dtype may be, for messages.
pub(crate) const FLOATS: &str = "f32, bf16, f16, f64";

/// The safetensors type of a float dtype.
pub(crate) fn stored_dtype(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => {
            return Err(Error::Dtype {
                dtype: dtype.as_str().into(),
                choices: FLOATS,
            });
        }
    })
}

/// The `torch_dtype` of a `config.json`.
pub(crate) fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Rounds `values` of the tensor `name` to `dtype`, little-endian. A finite value that the format has no room for is
/// an error, not an infinity.
pub(crate) fn encode(name: &str, values: &[f32], dtype: DType, out: &mut [u8]) -> Result<()> {
    if let Some(at) = kernels::first_overflow(values, dtype) {
        return Err(Error::Overflow {
            name: name.into(),
            value: values[at],
            dtype: dtype.as_str().into(),
        });
    }
    if kernels::round_to_bytes(values, dtype, out) {
        return Ok(());
    }
    Err(Error::Dtype {
        dtype: dtype.as_str().into(),
        choices: FLOATS,
    })
}

/// The dtype of a stored float, or nothing for what is no float that is computed with.
pub(crate) fn float_dtype(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// The bytes of a tensor in its own dtype.
pub(crate) fn tensor_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => flat
            .to_vec1::<f64>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::F32 => flat
            .to_vec1::<f32>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::F16 => flat
            .to_vec1::<f16>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::BF16 => flat
            .to_vec1::<bf16>()?
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        other => {
            return Err(Error::Dtype {
                dtype: other.as_str().into(),
                choices: FLOATS,
            });
        }
    })
}
