//! Gradient accumulation, clipping by global norm, and AdamW over the trained parameters.

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;

use crate::recipe::TrainSection;
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

    /// All gradients in the parameters' order. A parameter without one is an error: it would silently not learn.
    fn complete<'a>(&'a self, parameters: &'a Parameters) -> Result<Vec<&'a Tensor>> {
        self.slots
            .iter()
            .zip(&parameters.0)
            .map(|(slot, p)| {
                slot.as_ref().ok_or_else(|| Error::MissingGradient {
                    name: p.name.clone(),
                })
            })
            .collect()
    }

    /// Global L2 norm over all gradients, added up in f64 in the parameters' order.
    pub fn norm(&self, parameters: &Parameters) -> Result<f64> {
        let mut sum = 0.0;
        for g in self.complete(parameters)? {
            sum += kernels::sum_of_squares(g)?;
        }
        Ok(sum.sqrt())
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

/// AdamW's moments, a pair a parameter, in the parameters' dtype.
pub struct Optimizer {
    names: Vec<String>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    settings: TrainSection,
}

impl Optimizer {
    /// Zero moments.
    pub fn new(parameters: &Parameters, settings: &TrainSection) -> Result<Self> {
        let zeros = || {
            parameters
                .0
                .iter()
                .map(|p| Ok(p.value.zeros_like()?))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            names: parameters.0.iter().map(|p| p.name.clone()).collect(),
            first: zeros()?,
            second: zeros()?,
            settings: settings.clone(),
        })
    }

    /// Everything the next step depends on besides the parameters, as named tensors of any dtype: what a checkpoint holds.
    /// The tensors share the optimizer's storage, so they change with the next step.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for (name, (first, second)) in self.names.iter().zip(self.first.iter().zip(&self.second)) {
            tensors.push((format!("adamw.first.{name}"), first.clone()));
            tensors.push((format!("adamw.second.{name}"), second.clone()));
        }
        tensors
    }

    /// Takes a state back. `stored` answers the tensor of that name; it must refuse one whose shape or dtype is not that
    /// of its second argument. What it answers is copied into the optimizer's own storage.
    pub fn load_state(
        &mut self,
        mut stored: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        for (name, tensor) in self.state() {
            tensor.slice_set(&stored(&name, &tensor)?, 0, 0)?;
        }
        Ok(())
    }

    /// Clips to `max_grad_norm` as torch's `clip_grad_norm_` does, then steps every parameter.
    ///
    /// `step` counts from 1. Answers the norm before clipping; a norm that is not finite is an error and changes nothing.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        mut gradients: Gradients,
        learning_rate: f64,
        step: u64,
    ) -> Result<f64> {
        let norm = gradients.norm(parameters)?;
        if !norm.is_finite() {
            return Err(Error::NotFinite {
                what: "gradient norm",
                step,
                value: norm,
            });
        }
        let limit = self.settings.max_grad_norm;
        let clip = if limit > 0.0 {
            (limit / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        for (i, p) in parameters.0.iter_mut().enumerate() {
            let mut g = gradients.slots[i]
                .take()
                .expect("norm() found every gradient");
            if clip < 1.0 {
                kernels::scale_assign(&mut g, clip)?;
            }
            let adamw = kernels::AdamW {
                learning_rate,
                beta1: self.settings.adam_beta1,
                beta2: self.settings.adam_beta2,
                epsilon: self.settings.adam_epsilon,
                weight_decay: if p.decay {
                    self.settings.weight_decay
                } else {
                    0.0
                },
            };
            kernels::adamw_step(
                &mut p.value,
                &g,
                &mut self.first[i],
                &mut self.second[i],
                &adamw,
                step,
            )?;
        }
        Ok(norm)
    }
}
