//! Sums of squares of gradients, and the losses beside them, which a GPU may still be computing.

use crate::cuda::ops;
use crate::{Error, LossSum, Result, sum_of_squares};
use candle_core::{DType, Device, Tensor};

/// Σ x² of several tensors, a slot each, in f64, and then losses. On a GPU nothing is waited for until the numbers are asked
/// for.
#[derive(Debug)]
pub struct SquareSums {
    /// What is there; on a GPU NaN where the device will have it.
    here: Vec<Option<f64>>,
    losses: Vec<f64>,
    /// (slots + losses) f64.
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

/// The norm that gradients are scaled down to if theirs is larger: torch's `clip_grad_norm_`. At 0 they stay as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Of all together.
    Together(f64),
    /// Of each on its own.
    Own(f64),
}

impl SquareSums {
    /// Empty slots, for tensors on that device.
    pub fn new(slots: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros(slots.max(1), DType::F64, device);
        Ok(Self {
            here: vec![None; slots],
            losses: Vec::new(),
            there: device.is_cuda().then(zeros).transpose()?,
        })
    }

    /// Whether the numbers are a GPU's, and have to be waited for.
    pub fn is_pending(&self) -> bool {
        self.there.is_some()
    }

    /// Whether a slot is filled.
    pub fn has(&self, slot: usize) -> bool {
        self.here[slot].is_some()
    }

    /// Fills a slot. Answers the number where nothing has to be waited for.
    pub fn put(&mut self, slot: usize, x: &Tensor) -> Result<Option<f64>> {
        self.put_from(slot, &[x])?;
        Ok(self.here[slot].filter(|_| !self.is_pending()))
    }

    /// Fills every slot, at once.
    pub fn put_all(&mut self, tensors: &[&Tensor]) -> Result<()> {
        if tensors.len() != self.here.len() {
            return Err(Error::Length {
                op: "sum_of_squares",
                what: "the tensors",
                found: tensors.len(),
                expected: self.here.len(),
            });
        }
        self.put_from(0, tensors)
    }

    fn put_from(&mut self, first: usize, tensors: &[&Tensor]) -> Result<()> {
        let slots = self.here[first..].iter_mut().zip(tensors);
        match &self.there {
            None => {
                for (slot, x) in slots {
                    *slot = Some(sum_of_squares(x)?);
                }
            }
            Some(there) => {
                ops::square_into(tensors, &there.narrow(0, first, tensors.len())?)?;
                slots.for_each(|(slot, _)| *slot = Some(f64::NAN));
            }
        }
        Ok(())
    }

    /// The sums with these losses behind them: they are read together, and clipping looks at all.
    pub fn with_losses(mut self, losses: &[&LossSum]) -> Result<Self> {
        let Some(there) = self.there.take() else {
            let losses = losses.iter().map(|loss| loss.value());
            self.losses = losses.collect::<Result<_>>()?;
            return Ok(self);
        };
        let device = there.device().clone();
        let mut all = vec![there.narrow(0, 0, self.here.len())?];
        for loss in losses {
            all.push(match loss.there() {
                Some(sum) => sum.clone(),
                None => Tensor::new(&[loss.value()?], &device)?,
            });
        }
        self.losses = vec![f64::NAN; losses.len()];
        self.there = Some(Tensor::cat(&all, 0)?);
        Ok(self)
    }

    /// All sums, `None` for an empty slot, and the losses. Waits for a GPU, once.
    pub fn values(&self) -> Result<(Vec<Option<f64>>, Vec<f64>)> {
        let Some(there) = &self.there else {
            return Ok((self.here.clone(), self.losses.clone()));
        };
        let mut sums = there.to_vec1::<f64>()?;
        let losses = sums.split_off(self.here.len())[..self.losses.len()].to_vec();
        let filled = self.here.iter().zip(sums);
        let sums = filled.map(|(here, there)| here.map(|_| there)).collect();
        Ok((sums, losses))
    }

    /// What clips the tensor of each slot. On a GPU it is NaN for all where one of the numbers, or the sum of the sums, is not
    /// finite; on the processor those are known, and what is done about them is the caller's.
    pub fn scales(&self, clip: Clip) -> Result<Vec<GradientScale>> {
        let slots = self.here.len();
        let (limit, own) = match clip {
            Clip::Together(limit) => (limit, false),
            Clip::Own(limit) => (limit, true),
        };
        if let Some(there) = &self.there {
            let all = there.narrow(0, 0, slots + self.losses.len())?;
            let scales = ops::clip_scales(&all, slots, limit, own)?;
            let of = |slot| scales.narrow(0, if own { slot } else { 0 }, 1);
            let of = (0..slots).map(|slot| Ok(GradientScale::There(of(slot)?)));
            return of.collect();
        }
        let squares = self.here.iter().map(|squares| squares.unwrap_or(0.0));
        let together: f64 = squares.clone().sum();
        let scale = |squares: f64| GradientScale::Here(clip_to(limit, squares.sqrt()));
        let of = squares.map(|squares| scale(if own { squares } else { together }));
        Ok(of.collect())
    }

    /// What clips the tensor of a filled slot on its own; on a GPU NaN where its sum is not finite.
    pub fn clip(&self, slot: usize, limit: f64) -> Result<GradientScale> {
        let Some(there) = &self.there else {
            let norm = self.here[slot].unwrap_or(0.0).sqrt();
            return Ok(GradientScale::Here(clip_to(limit, norm)));
        };
        let scale = ops::clip_scales(&there.narrow(0, slot, 1)?, 1, limit, true)?;
        Ok(GradientScale::There(scale))
    }
}

fn clip_to(limit: f64, norm: f64) -> f64 {
    match limit > 0.0 {
        true => (limit / (norm + 1e-6)).min(1.0),
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(scale: &GradientScale) -> f64 {
        match scale {
            GradientScale::Here(scale) => *scale,
            GradientScale::There(_) => unreachable!(),
        }
    }

    #[test]
    fn slots_hold_sums_and_clip_by_them() {
        let x = Tensor::new(&[3f32, -4.0, 0.0], &Device::Cpu).unwrap();
        let mut sums = SquareSums::new(3, &Device::Cpu).unwrap();
        assert_eq!(sums.put(1, &x).unwrap(), Some(25.0));
        assert!(sums.has(1) && !sums.has(0));
        let sums = sums.with_losses(&[&LossSum::from(0.5)]).unwrap();
        let expected = (vec![None, Some(25.0), None], vec![0.5]);
        assert_eq!(sums.values().unwrap(), expected);
        let clip = |limit| here(&sums.clip(1, limit).unwrap());
        assert_eq!(clip(2.0), 2.0 / (5.0 + 1e-6));
        assert_eq!((clip(7.0), clip(0.0)), (1.0, 1.0));
    }

    #[test]
    fn gradients_are_clipped_together_or_each_on_its_own() {
        let of = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
        let (a, b) = (of(&[3.0, 4.0]), of(&[12.0]));
        let mut sums = SquareSums::new(2, &Device::Cpu).unwrap();
        sums.put_all(&[&a, &b]).unwrap();
        let scales = |clip| {
            sums.scales(clip)
                .unwrap()
                .iter()
                .map(here)
                .collect::<Vec<_>>()
        };
        let to_6 = |norm: f64| 6.0 / (norm + 1e-6);
        assert_eq!(scales(Clip::Together(6.0)), [to_6(13.0); 2]);
        assert_eq!(scales(Clip::Own(6.0)), [1.0, to_6(12.0)]);
        assert_eq!(scales(Clip::Together(0.0)), [1.0; 2]);
    }
}
