//! Gradients that are consumed as the backward pass makes them ("Full Parameter Fine-tuning for Large Language Models
//! with Limited Resources", Lv et al. 2023, arXiv 2306.09782, there for SGD): never more than one layer's exist.
//!
//! A parameter may be stepped inside the backward pass once nothing below reads it any more. Each layer computes its dx
//! before it hands over a gradient; a tied embedding is read by the head at the start and is complete at the end.

use adapters::{GradSink, ParamId, Parameters};
use candle_core::{Device, Tensor};
use kernels::SquareSums;

use super::Optimizer;
use crate::{Error, Result};

/// Waits for the last contribution to each gradient.
struct Completion {
    twice: Option<ParamId>,
    /// The first contribution of the parameter that gets two.
    half: Option<Tensor>,
}

impl Completion {
    fn new(twice: Option<ParamId>) -> Self {
        Self { twice, half: None }
    }

    /// The whole gradient, once it is whole; added up as [`super::Gradients`] adds.
    fn add(&mut self, param: ParamId, grad: Tensor) -> kernels::Result<Option<Tensor>> {
        if self.twice != Some(param) {
            return Ok(Some(grad));
        }
        match self.half.take() {
            None => {
                self.half = Some(grad);
                Ok(None)
            }
            Some(mut sum) => {
                kernels::add_assign(&mut sum, &grad)?;
                Ok(Some(sum))
            }
        }
    }
}

/// Slots for the sum of squares of each gradient.
fn slots(parameters: &Parameters) -> Result<SquareSums> {
    let device = parameters
        .0
        .first()
        .map_or(&Device::Cpu, |p| p.value.device());
    Ok(SquareSums::new(parameters.0.len(), device)?)
}

/// Each parameter's sum of squares, in their order, whatever the order the gradients came in. Waits for a GPU.
fn all_squares(sums: &SquareSums, parameters: &Parameters) -> Result<Vec<f64>> {
    let found = sums.values()?.into_iter().zip(&parameters.0);
    found
        .map(|(squares, p)| {
            squares.ok_or_else(|| Error::MissingGradient {
                name: p.name.clone(),
            })
        })
        .collect()
}

/// The pass that only measures the norm.
pub(super) struct Norms {
    completion: Completion,
    squares: SquareSums,
}

impl Norms {
    pub(super) fn new(parameters: &Parameters, twice: Option<ParamId>) -> Result<Self> {
        Ok(Self {
            completion: Completion::new(twice),
            squares: slots(parameters)?,
        })
    }

    /// The global norm.
    pub(super) fn finish(self, parameters: &Parameters) -> Result<f64> {
        let squares = all_squares(&self.squares, parameters)?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }
}

impl GradSink for Norms {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        if let Some(grad) = self.completion.add(param, grad)? {
            self.squares.put(param.0, &grad)?;
        }
        Ok(())
    }
}

/// The pass that applies each gradient as soon as it is complete.
pub(super) struct Apply<'a> {
    optimizer: &'a mut Optimizer,
    parameters: &'a mut Parameters,
    completion: Completion,
    squares: SquareSums,
    learning_rate: f64,
    step: u64,
    scale: f64,
    changed: usize,
    /// What went wrong: gradients that come after it are dropped.
    failed: Option<Error>,
}

impl<'a> Apply<'a> {
    /// `scale` multiplies every gradient: clipping by a global norm that is already known.
    pub(super) fn new(
        optimizer: &'a mut Optimizer,
        parameters: &'a mut Parameters,
        twice: Option<ParamId>,
        learning_rate: f64,
        step: u64,
        scale: f64,
    ) -> Result<Self> {
        Ok(Self {
            completion: Completion::new(twice),
            squares: slots(parameters)?,
            optimizer,
            parameters,
            learning_rate,
            step,
            scale,
            changed: 0,
            failed: None,
        })
    }

    /// The global norm before clipping.
    pub(super) fn finish(self) -> Result<f64> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let squares = all_squares(&self.squares, self.parameters)?;
        // A GPU has left such parameters as they were, and has stepped the others.
        match squares.iter().position(|squares| !squares.is_finite()) {
            None => Ok(squares.iter().sum::<f64>().sqrt()),
            Some(i) => Err(Error::NotFiniteInPass {
                name: self.parameters.0[i].name.clone(),
                step: self.step,
                value: squares[i].sqrt(),
                changed: squares.iter().filter(|squares| squares.is_finite()).count(),
                of: squares.len(),
            }),
        }
    }

    fn apply(&mut self, param: ParamId, grad: Tensor) -> Result<()> {
        let i = param.0;
        let Some(grad) = self.completion.add(param, grad)? else {
            return Ok(());
        };
        let name = || self.parameters.0[i].name.clone();
        if self.squares.has(i) {
            return Err(Error::GradientAfterStep { name: name() });
        }
        if let Some(squares) = self.squares.put(i, &grad)?
            && !squares.is_finite()
        {
            return Err(Error::NotFiniteInPass {
                name: name(),
                step: self.step,
                value: squares.sqrt(),
                changed: self.changed,
                of: self.parameters.0.len(),
            });
        }
        let clip = self.squares.clip(i, self.optimizer.own_limit())?;
        let p = &mut self.parameters.0[i];
        let scale = (self.scale, &clip);
        self.optimizer
            .apply(i, p, &grad, scale, self.learning_rate, self.step)?;
        self.changed += 1;
        Ok(())
    }
}

impl GradSink for Apply<'_> {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        if self.failed.is_none() {
            self.failed = self.apply(param, grad).err();
        }
        Ok(())
    }
}
