//! One optimizer step of a training: its micro-batches' gradients, the update, or leaving it out.

use std::collections::BTreeSet;
use std::time::Instant;

use adapters::GradSink;
use datasets::{Batch, Pack};

use crate::checkpoint::Position;
use crate::decoder::{BatchLoss, Decoder, DropoutState};
use crate::optimizer::Optimizer;
use crate::recipe::OnNonfinite;
use crate::schedule::learning_rate;
use crate::step_log::StepReport;
use crate::steps::Step;
use crate::task_scores::Scores;
use crate::train::TrainJob;
use crate::{Error, Result};

/// Steps in a row that `on_nonfinite = "skip"` leaves out before it ends the training: more is not a bad sample.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

impl TrainJob<'_> {
    /// Does one optimizer step, or leaves it out where its loss or gradient is not finite and the settings say so.
    pub(crate) fn step(
        &mut self,
        step: &Step,
        position: &mut Position,
        optimizer: &mut Optimizer,
        total_steps: u64,
    ) -> Result<StepReport> {
        let started = Instant::now();
        let learning_rate = learning_rate(self.settings, position.step, total_steps);
        let dropout = DropoutState {
            seed: self.seed,
            step: position.step,
        };
        position.step += 1;
        // AdamW's bias correction counts the updates, not the steps.
        let update = position.step - position.skipped_steps;
        let (decoder, number) = (self.decoder, position.step);
        let (mut loss, mut tokens) = (BatchLoss::default(), 0);
        let backward = |sink: &mut dyn GradSink| {
            (loss, tokens) = gradients(decoder, &step.micro_batches, dropout, sink)?;
            let mean = loss.mean();
            if !mean.is_finite() {
                return Err(Error::NotFinite {
                    what: "loss",
                    step: number,
                    value: mean,
                });
            }
            Ok(())
        };
        let tied = decoder.tied_parameter();
        let done = optimizer.take_step(&mut self.parameters, tied, learning_rate, update, backward);
        let mean = loss.mean();
        let (grad_norm, skipped_samples) = match done {
            Ok(((), norm)) => {
                position.loss = Some(mean);
                position.skipped_in_a_row = 0;
                (norm, Vec::new())
            }
            Err(Error::NotFinite { what, value, .. }) => {
                let samples = self.sample_ids(&step.micro_batches);
                (f64::NAN, self.skip(position, what, value, samples)?)
            }
            Err(error) => return Err(error),
        };
        Ok(StepReport {
            step: position.step,
            epoch: step.epoch,
            loss: mean,
            learning_rate,
            grad_norm,
            tokens,
            target_tokens: loss.target_tokens,
            tokens_per_sec: tokens as f64 / started.elapsed().as_secs_f64(),
            eval_loss: None,
            scores: Scores::new(),
            skipped_samples,
        })
    }

    /// Counts a step that is left out, or refuses to.
    fn skip(
        &self,
        position: &mut Position,
        what: &'static str,
        value: f64,
        samples: Vec<String>,
    ) -> Result<Vec<String>> {
        let step = position.step;
        if self.settings.on_nonfinite == OnNonfinite::Stop {
            return Err(Error::StepNotFinite {
                what,
                step,
                value,
                samples,
            });
        }
        position.skipped_steps += 1;
        position.skipped_in_a_row += 1;
        if position.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
            return Err(Error::TooManySkipped {
                in_a_row: position.skipped_in_a_row,
                what,
                step,
                value,
                samples,
            });
        }
        Ok(samples)
    }

    /// Ids of the samples of a step.
    fn sample_ids(&self, micro_batches: &[Vec<Pack>]) -> Vec<String> {
        let in_step: BTreeSet<u64> = micro_batches
            .iter()
            .flatten()
            .flat_map(|pack| pack.segments.iter().map(|segment| segment.sample))
            .collect();
        let samples = self.train.iter();
        samples
            .filter(|sample| in_step.contains(&sample.sample))
            .map(|sample| sample.id.clone())
            .collect()
    }
}

/// Hands the gradients of one step's mean loss a target token to `sink`, over all its micro-batches. Answers the loss
/// and the tokens read.
fn gradients(
    decoder: &Decoder,
    micro_batches: &[Vec<Pack>],
    dropout: DropoutState,
    sink: &mut dyn GradSink,
) -> Result<(BatchLoss, usize)> {
    let batches: Vec<Batch> = micro_batches.iter().map(Batch::from_packs).collect();
    let targets: usize = batches.iter().map(Batch::target_tokens).sum();
    let (mut loss, mut tokens) = (BatchLoss::default(), 0);
    for batch in &batches {
        let part = decoder.loss_and_gradients(batch, dropout, 1.0 / targets as f64, sink)?;
        loss.loss_sum += part.loss_sum;
        loss.target_tokens += part.target_tokens;
        tokens += batch.input_ids.len();
    }
    Ok((loss, tokens))
}
