//! Gradients that are consumed as the backward pass makes them ("Full Parameter Fine-tuning for Large Language Models
//! with Limited Resources", Lv et al. 2023, arXiv 2306.09782, there for SGD): never more than one layer's exist.
//!
//! A parameter may be stepped inside the backward pass once nothing below reads it any more. Each layer computes its dx
//! before it hands over a gradient; a tied embedding is read by the head at the start and is complete at the end.

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;
use kernels::{GradientScale, SquareSums};

use super::Optimizer;
use super::found::{Found, slots};
use super::gradients::missing;
use crate::decoder::{BatchLoss, PendingLoss};
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

    /// Each parameter's sum of squares, in their order, whatever the order the gradients came in.
    pub(super) fn finish(self, parameters: &Parameters) -> Result<SquareSums> {
        let mut all = parameters.0.iter().enumerate();
        match all.find(|(i, _)| !self.squares.has(*i)) {
            None => Ok(self.squares),
            Some((_, parameter)) => Err(missing(parameter)),
        }
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

/// What gradients are multiplied by as they come.
pub(super) enum Scales {
    /// Each parameter's: a pass before has measured all norms.
    Known(Vec<GradientScale>),
    /// Clipped to a limit by the gradient's own norm, which is measured first.
    Own { squares: SquareSums, limit: f64 },
}

impl Scales {
    pub(super) fn own(parameters: &Parameters, limit: f64) -> Result<Self> {
        let squares = slots(parameters)?;
        Ok(Self::Own { squares, limit })
    }
}

/// The pass that applies each gradient as soon as it is complete.
pub(super) struct Apply<'a> {
    optimizer: &'a mut Optimizer,
    parameters: &'a mut Parameters,
    completion: Completion,
    scales: Scales,
    learning_rate: f64,
    step: u64,
    stepped: Vec<bool>,
    /// What went wrong: gradients that come after it are dropped.
    failed: Option<Error>,
}

impl<'a> Apply<'a> {
    pub(super) fn new(
        optimizer: &'a mut Optimizer,
        parameters: &'a mut Parameters,
        twice: Option<ParamId>,
        learning_rate: f64,
        step: u64,
        scales: Scales,
    ) -> Self {
        Self {
            completion: Completion::new(twice),
            stepped: vec![false; parameters.0.len()],
            optimizer,
            parameters,
            scales,
            learning_rate,
            step,
            failed: None,
        }
    }

    /// Says what went wrong on the way, if something did.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut all = self.parameters.0.iter().zip(&self.stepped);
        match all.find(|(_, stepped)| !**stepped) {
            None => Ok(()),
            Some((parameter, _)) => Err(missing(parameter)),
        }
    }

    /// As [`Self::finish`]; answers the loss, and the global norm before clipping. Waits for a GPU, once.
    pub(super) fn finish_with(mut self, losses: Vec<PendingLoss>) -> Result<(BatchLoss, f64)> {
        let (finished, names) = (self.finish(), self.parameters.0.iter().map(|p| &p.name));
        let Scales::Own { squares, .. } = self.scales else {
            unreachable!("norms that a pass before has measured are read there");
        };
        let found = Found::unchecked(squares, losses, self.step)?;
        let (squares, loss) = found.squares_and_loss()?;
        // Parameters whose gradient is not finite have been left as they were, others have been stepped.
        let changed = squares.iter().filter(|s| s.is_finite()).count();
        let of = self.parameters.0.len();
        // It is why gradients are not finite, where they are not.
        if let Ok(()) | Err(Error::NotFiniteInPass { .. }) = &finished
            && !loss.loss_sum.is_finite()
        {
            let (step, value) = (self.step, loss.mean());
            return Err(match changed {
                0 => found.not_finite("loss", value),
                _ => Error::LossNotFiniteInPass {
                    step,
                    value,
                    changed,
                    of,
                },
            });
        }
        finished?;
        let not_finite = squares.iter().zip(names).find(|(s, _)| !s.is_finite());
        match not_finite {
            None => Ok((loss, squares.iter().sum::<f64>().sqrt())),
            Some((square, name)) => Err(Error::NotFiniteInPass {
                name: name.clone(),
                step: self.step,
                value: square.sqrt(),
                changed,
                of,
            }),
        }
    }

    fn apply(&mut self, param: ParamId, grad: Tensor) -> Result<()> {
        let i = param.0;
        let Some(grad) = self.completion.add(param, grad)? else {
            return Ok(());
        };
        let name = || self.parameters.0[i].name.clone();
        if self.stepped[i] {
            return Err(Error::GradientAfterStep { name: name() });
        }
        let scale = match &mut self.scales {
            Scales::Known(scales) => scales[i].clone(),
            Scales::Own { squares, limit } => {
                if let Some(squares) = squares.put(i, &grad)?
                    && !squares.is_finite()
                {
                    return Err(Error::NotFiniteInPass {
                        name: name(),
                        step: self.step,
                        value: squares.sqrt(),
                        changed: self.stepped.iter().filter(|stepped| **stepped).count(),
                        of: self.stepped.len(),
                    });
                }
                squares.clip(i, *limit)?
            }
        };
        let (p, rate) = (&mut self.parameters.0[i], self.learning_rate);
        self.optimizer.apply(i, p, grad, scale, rate, self.step)?;
        self.stepped[i] = true;
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
