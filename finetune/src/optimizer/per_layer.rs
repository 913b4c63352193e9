//! Gradients that are consumed as the backward pass makes them ("Full Parameter Fine-tuning for Large Language Models
//! with Limited Resources", Lv et al. 2023, arXiv 2306.09782, there for SGD): never more than one layer's exist.
//!
//! A parameter may be stepped inside the backward pass once nothing below reads it any more. Each layer computes its dx
//! before it hands over a gradient; a tied embedding is read by the head at the start and is complete at the end.

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;

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

/// The sum of squares of each gradient, by parameter.
struct Squares(Vec<Option<f64>>);

impl Squares {
    fn new(parameters: &Parameters) -> Self {
        Self(vec![None; parameters.0.len()])
    }

    /// The global norm, added up in the parameters' order, whatever the order the gradients came in.
    fn norm(&self, parameters: &Parameters) -> Result<f64> {
        let mut sum = 0.0;
        for (squares, p) in self.0.iter().zip(&parameters.0) {
            sum += squares.ok_or_else(|| Error::MissingGradient {
                name: p.name.clone(),
            })?;
        }
        Ok(sum.sqrt())
    }
}

/// The pass that only measures the norm.
pub(super) struct Norms {
    completion: Completion,
    squares: Squares,
}

impl Norms {
    pub(super) fn new(parameters: &Parameters, twice: Option<ParamId>) -> Self {
        Self {
            completion: Completion::new(twice),
            squares: Squares::new(parameters),
        }
    }

    /// The global norm.
    pub(super) fn finish(self, parameters: &Parameters) -> Result<f64> {
        self.squares.norm(parameters)
    }
}

impl GradSink for Norms {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        if let Some(grad) = self.completion.add(param, grad)? {
            self.squares.0[param.0] = Some(kernels::sum_of_squares(&grad)?);
        }
        Ok(())
    }
}

/// The pass that applies each gradient as soon as it is complete.
pub(super) struct Apply<'a> {
    optimizer: &'a mut Optimizer,
    parameters: &'a mut Parameters,
    completion: Completion,
    squares: Squares,
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
    ) -> Self {
        Self {
            completion: Completion::new(twice),
            squares: Squares::new(parameters),
            optimizer,
            parameters,
            learning_rate,
            step,
            scale,
            changed: 0,
            failed: None,
        }
    }

    /// The global norm before clipping.
    pub(super) fn finish(self) -> Result<f64> {
        match self.failed {
            Some(error) => Err(error),
            None => self.squares.norm(self.parameters),
        }
    }

    fn apply(&mut self, param: ParamId, grad: Tensor) -> Result<()> {
        let i = param.0;
        let Some(grad) = self.completion.add(param, grad)? else {
            return Ok(());
        };
        let name = || self.parameters.0[i].name.clone();
        if self.squares.0[i].is_some() {
            return Err(Error::GradientAfterStep { name: name() });
        }
        let squares = kernels::sum_of_squares(&grad)?;
        if !squares.is_finite() {
            return Err(Error::NotFiniteInPass {
                name: name(),
                step: self.step,
                value: squares.sqrt(),
                changed: self.changed,
                of: self.parameters.0.len(),
            });
        }
        self.squares.0[i] = Some(squares);
        let scale = self.scale * self.optimizer.own_scale(squares);
        let p = &mut self.parameters.0[i];
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
