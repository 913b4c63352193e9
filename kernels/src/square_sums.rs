//! Sums of squares of gradients, which a GPU may still be computing.

use crate::cuda::ops;
use crate::{Result, sum_of_squares};
use candle_core::{DType, Device, Tensor};

/// Σ x² of several tensors, a slot each, in f64. On a GPU nothing is waited for until the numbers are asked for.
#[derive(Debug)]
pub struct SquareSums {
    /// What is there; on a GPU NaN where the device will have it.
    here: Vec<Option<f64>>,
    /// (slots) f64.
    there: Option<Tensor>,
}

/// What an optimizer multiplies a gradient by, beside the settings' own scale.
#[derive(Clone, Debug)]
pub enum GradientScale {
    /// A number.
    Here(f64),
    /// (1) f32 in a GPU's memory. NaN leaves the parameter and its moments as they are.
    There(Tensor),
}

impl SquareSums {
    /// Empty slots, for tensors on that device.
    pub fn new(slots: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros(slots.max(1), DType::F64, device);
        Ok(Self {
            here: vec![None; slots],
            there: device.is_cuda().then(zeros).transpose()?,
        })
    }

    /// Whether a slot is filled.
    pub fn has(&self, slot: usize) -> bool {
        self.here[slot].is_some()
    }

    /// Fills a slot. Answers the number where nothing has to be waited for.
    pub fn put(&mut self, slot: usize, x: &Tensor) -> Result<Option<f64>> {
        let Some(there) = &self.there else {
            let squares = sum_of_squares(x)?;
            self.here[slot] = Some(squares);
            return Ok(Some(squares));
        };
        ops::sum_of_squares(x, &there.narrow(0, slot, 1)?)?;
        self.here[slot] = Some(f64::NAN);
        Ok(None)
    }

    /// All numbers, `None` for an empty slot. Waits for a GPU, once.
    pub fn values(&self) -> Result<Vec<Option<f64>>> {
        let Some(there) = &self.there else {
            return Ok(self.here.clone());
        };
        let there = there.to_vec1::<f64>()?;
        let filled = self.here.iter().zip(there);
        Ok(filled.map(|(here, there)| here.map(|_| there)).collect())
    }

    /// What clips the tensor of a filled slot to a norm of `limit`, or to none if that is 0: torch's `clip_grad_norm_`.
    pub fn clip(&self, slot: usize, limit: f64) -> Result<GradientScale> {
        let Some(there) = &self.there else {
            let norm = self.here[slot].unwrap_or(0.0).sqrt();
            return Ok(GradientScale::Here(match limit > 0.0 {
                true => (limit / (norm + 1e-6)).min(1.0),
                false => 1.0,
            }));
        };
        let scale = ops::clip_scale(&there.narrow(0, slot, 1)?, limit)?;
        Ok(GradientScale::There(scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_sums_and_clip_by_them() {
        let x = Tensor::new(&[3f32, -4.0, 0.0], &Device::Cpu).unwrap();
        let mut sums = SquareSums::new(3, &Device::Cpu).unwrap();
        assert_eq!(sums.put(1, &x).unwrap(), Some(25.0));
        assert!(sums.has(1) && !sums.has(0));
        assert_eq!(sums.values().unwrap(), [None, Some(25.0), None]);
        let clip = |limit| match sums.clip(1, limit).unwrap() {
            GradientScale::Here(scale) => scale,
            GradientScale::There(_) => unreachable!(),
        };
        assert_eq!(clip(2.0), 2.0 / (5.0 + 1e-6));
        assert_eq!((clip(7.0), clip(0.0)), (1.0, 1.0));
    }
}
