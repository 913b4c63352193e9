//! Gradients that are added up over the micro-batches of a step.

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;

use crate::{Error, Result};

/// Adds up the gradients of one optimizer step, a slot a parameter.
pub struct Gradients {
    slots: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Empty slots for `parameters`.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            slots: vec![None; parameters.0.len()],
        }
    }

    /// The gradient of a parameter, if one came.
    pub fn get(&self, param: ParamId) -> Option<&Tensor> {
        self.slots[param.0].as_ref()
    }

    /// Takes a parameter's gradient, so that it is freed after use. [`Self::squares`] has seen that it is there.
    pub(super) fn take(&mut self, index: usize) -> Tensor {
        self.slots[index]
            .take()
            .expect("squares() found every gradient")
    }

    /// The sum of squares of each gradient, in the parameters' order. A parameter without one is an error: it would
    /// silently not learn.
    pub(super) fn squares(&self, parameters: &Parameters) -> Result<Vec<f64>> {
        let slots = self.slots.iter().zip(&parameters.0);
        let gradients = slots.map(|(slot, p)| {
            slot.as_ref().ok_or_else(|| Error::MissingGradient {
                name: p.name.clone(),
            })
        });
        Ok(kernels::sums_of_squares(
            &gradients.collect::<Result<Vec<_>>>()?,
        )?)
    }

    /// Global L2 norm over all gradients, added up in f64 in the parameters' order.
    pub fn norm(&self, parameters: &Parameters) -> Result<f64> {
        Ok(self.squares(parameters)?.iter().sum::<f64>().sqrt())
    }
}

impl GradSink for Gradients {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        match &mut self.slots[param.0] {
            Some(sum) => kernels::add_assign(sum, &grad)?,
            slot => *slot = Some(grad),
        }
        Ok(())
    }
}
