//! What a step comes to: its loss and its gradients' norm, which a GPU may still be computing.

use adapters::Parameters;
use candle_core::Device;
use kernels::SquareSums;

use crate::decoder::{BatchLoss, PendingLoss};
use crate::{Error, Result};

/// Slots for the sum of squares of each gradient.
pub(super) fn slots(parameters: &Parameters) -> Result<SquareSums> {
    let first = parameters.0.first();
    let device = first.map_or(&Device::Cpu, |p| p.value.device());
    Ok(SquareSums::new(parameters.0.len(), device)?)
}

/// The gradients' sums of squares, with the step's losses behind them.
pub(super) struct Found {
    pub(super) sums: SquareSums,
    losses: Vec<PendingLoss>,
    step: u64,
}

impl Found {
    /// Where nothing has to be waited for, numbers that are not finite are an error: parameters are stepped after this. On a
    /// GPU the scale of all gradients is none then, which leaves every parameter as it is.
    pub(super) fn new(sums: SquareSums, losses: Vec<PendingLoss>, step: u64) -> Result<Self> {
        let found = Self::unchecked(sums, losses, step)?;
        if !found.sums.is_pending() {
            found.values()?;
        }
        Ok(found)
    }

    /// As [`Self::new`], of parameters that have been stepped.
    pub(super) fn unchecked(sums: SquareSums, losses: Vec<PendingLoss>, step: u64) -> Result<Self> {
        let sums = sums.with_losses(&losses.iter().map(|l| &l.loss_sum).collect::<Vec<_>>())?;
        Ok(Self { sums, losses, step })
    }

    /// The loss, and the gradients' global norm, both finite. Waits for a GPU, once.
    pub(super) fn values(&self) -> Result<(BatchLoss, f64)> {
        let (squares, loss) = self.squares_and_loss()?;
        self.finite("loss", loss.loss_sum, loss.mean())?;
        let norm = squares.iter().sum::<f64>().sqrt();
        Ok((loss, self.finite("gradient norm", norm, norm)?))
    }

    /// The sum of squares of each gradient that has come, and the loss. Waits for a GPU, once.
    pub(super) fn squares_and_loss(&self) -> Result<(Vec<f64>, BatchLoss)> {
        let (squares, sums) = self.sums.values()?;
        let mut loss = BatchLoss::default();
        for (part, sum) in self.losses.iter().zip(sums) {
            loss.loss_sum += sum;
            loss.target_tokens += part.target_tokens;
        }
        Ok((squares.into_iter().flatten().collect(), loss))
    }

    fn finite(&self, what: &'static str, number: f64, said: f64) -> Result<f64> {
        match number.is_finite() {
            true => Ok(number),
            false => Err(self.not_finite(what, said)),
        }
    }

    /// The error of a step that changes nothing.
    pub(super) fn not_finite(&self, what: &'static str, value: f64) -> Error {
        let step = self.step;
        Error::NotFinite { what, step, value }
    }
}
