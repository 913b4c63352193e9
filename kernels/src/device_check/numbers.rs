//! The numbers that cases are tried on: the same on both sides, different for each case and seed.

use crate::Result;
use candle_core::{DType, Device, Tensor};

/// Where a case computes: on the device in its types, or on the processor as the reference.
pub struct Side<'a> {
    device: &'a Device,
    /// Everything in f64.
    wide: bool,
    seed: u64,
}

/// A seed for what has this name.
pub(super) fn stream(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

/// SplitMix64's output function.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Below this are all numbers.
pub(super) const LARGEST: f64 = 1.5;

impl<'a> Side<'a> {
    pub(super) fn device(device: &'a Device, seed: u64) -> Self {
        Self {
            device,
            wide: false,
            seed,
        }
    }

    pub(super) fn reference(seed: u64, exact: bool) -> Side<'static> {
        Side {
            device: &Device::Cpu,
            wide: !exact,
            seed,
        }
    }

    /// Where tensors are to lie.
    pub(super) fn place(&self) -> &Device {
        self.device
    }

    /// The type that stands for `dtype` here.
    pub(super) fn dtype(&self, dtype: DType) -> DType {
        if self.wide { DType::F64 } else { dtype }
    }

    /// Numbers in (-1.5, 1.5), never near zero, as `dtype` holds them. Another `which`, other numbers.
    pub(super) fn numbers(&self, which: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.scaled(which, shape, dtype, 1.0)
    }

    /// As [`Side::numbers`], each multiplied by a factor.
    pub(super) fn scaled(
        &self,
        which: u64,
        shape: &[usize],
        dtype: DType,
        factor: f64,
    ) -> Result<Tensor> {
        let list = self.list(which, shape.iter().product(), factor);
        self.put(list, shape, dtype)
    }

    /// f32 numbers of that kind on the processor, for what is made from them there.
    pub(super) fn host(&self, which: u64, shape: &[usize]) -> Result<Tensor> {
        let list = self.list(which, shape.iter().product(), 1.0);
        Ok(Tensor::from_vec(list, shape, &Device::Cpu)?)
    }

    fn list(&self, which: u64, n: usize, factor: f64) -> Vec<f32> {
        let start = mix(self.seed ^ mix(which));
        (0..n as u64)
            .map(|i| {
                let unit = (mix(start.wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64;
                let value = LARGEST * (2.0 * unit - 1.0);
                let away = if value.abs() < 0.01 { 0.5 } else { value };
                (away * factor) as f32
            })
            .collect()
    }

    /// Not a number, everywhere: what is only written.
    pub(super) fn poison(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.put(vec![f32::NAN; shape.iter().product()], shape, dtype)
    }

    /// Zeros, without asking the device for a kernel.
    pub(super) fn zeros(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.put(vec![0.0; shape.iter().product()], shape, dtype)
    }

    /// Rounded on the processor, then brought to its place.
    fn put(&self, list: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let there = Tensor::from_vec(list, shape, &Device::Cpu)?.to_dtype(dtype)?;
        let there = there.to_dtype(self.dtype(dtype))?;
        Ok(there.to_device(self.device)?)
    }

    /// Numbers below `below`.
    pub(super) fn ids(&self, which: u64, n: usize, below: usize) -> Vec<u32> {
        let start = mix(self.seed ^ mix(which));
        (0..n as u64)
            .map(|i| (mix(start.wrapping_add(i)) % below.max(1) as u64) as u32)
            .collect()
    }
}
