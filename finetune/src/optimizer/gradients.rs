//! Gradients that are added up over the micro-batches of a step.

use adapters::{GradSink, ParamId, Parameter, Parameters};
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

    /// Every gradient, in the parameters' order. A parameter without one is an error: it would silently not learn.
    pub(super) fn all(self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let slots = self.slots.into_iter().zip(&parameters.0);
        let gradients = slots.map(|(slot, p)| slot.ok_or_else(|| missing(p)));
        gradients.collect()
    }

    /// Global L2 norm over all gradients, added up in f64 in the parameters' order.
    pub fn norm(&self, parameters: &Parameters) -> Result<f64> {
        let slots = self.slots.iter().zip(&parameters.0);
        let gradients = slots.map(|(slot, p)| slot.as_ref().ok_or_else(|| missing(p)));
        let squares = kernels::sums_of_squares(&gradients.collect::<Result<Vec<_>>>()?)?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }
}

pub(super) fn missing(parameter: &Parameter) -> Error {
    Error::MissingGradient {
        name: parameter.name.clone(),
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
