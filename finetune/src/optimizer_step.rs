//! One optimizer step of a training: its micro-batches' gradients, the update, or leaving it out.

use std::collections::BTreeSet;
use std::time::Instant;

use adapters::GradSink;
use datasets::{Batch, Pack};

use crate::checkpoint::Position;
use crate::decoder::{BatchLoss, Decoder, DropoutState, PendingLoss, Prepared};
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

/// The first micro-batch of a step, made ready while a GPU computed the step before it.
pub(crate) struct Ahead {
    /// The steps done before that step.
    done: u64,
    first: Prepared,
}

impl TrainJob<'_> {
    /// Does one optimizer step, or leaves it out where its loss or gradient is not finite and the settings say so.
    pub(crate) fn step(
        &mut self,
        step: &Step,
        next: Option<&Step>,
        ahead: &mut Option<Ahead>,
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
        let first = ahead.take().filter(|ahead| ahead.done == position.step);
        let batches = Batches::new(self.decoder, &step.micro_batches, first)?;
        position.step += 1;
        // AdamW's bias correction counts the updates, not the steps.
        let update = position.step - position.skipped_steps;
        let (decoder, number) = (self.decoder, position.step);
        let mut losses = Vec::new();
        let backward = |sink: &mut dyn GradSink| {
            let parts = batches.gradients(decoder, dropout, sink)?;
            // A GPU has been asked for nearly all of it now: what comes next is made ready before its answer is waited for.
            if ahead.is_none()
                && let Some(packs) = next.and_then(|next| next.micro_batches.first())
            {
                // What is wrong with it will be said when its turn comes.
                let first = decoder.prepare(Batch::from_packs(packs)).ok();
                *ahead = first.map(|first| Ahead {
                    done: number,
                    first,
                });
            }
            losses.clone_from(&parts);
            Ok(parts)
        };
        let tied = decoder.tied_parameter();
        let done = optimizer.take_step(&mut self.parameters, tied, learning_rate, update, backward);
        let (loss, grad_norm, skipped_samples) = match done {
            Ok((loss, norm)) => {
                position.loss = Some(loss.mean());
                position.skipped_in_a_row = 0;
                (loss, norm, Vec::new())
            }
            Err(Error::NotFinite { what, value, .. }) => {
                let samples = self.sample_ids(&step.micro_batches);
                let skipped = self.skip(position, what, value, samples)?;
                (total(&losses)?, f64::NAN, skipped)
            }
            Err(error) => return Err(error),
        };
        Ok(StepReport {
            step: position.step,
            epoch: step.epoch,
            loss: loss.mean(),
            learning_rate,
            grad_norm,
            tokens: batches.tokens(),
            target_tokens: loss.target_tokens,
            tokens_per_sec: batches.tokens() as f64 / started.elapsed().as_secs_f64(),
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

/// The micro-batches of a step.
struct Batches {
    first: Prepared,
    others: Vec<Batch>,
}

impl Batches {
    fn new(decoder: &Decoder, micro_batches: &[Vec<Pack>], ahead: Option<Ahead>) -> Result<Self> {
        let (first, others) = micro_batches.split_first().ok_or(Error::NoTargets)?;
        Ok(Self {
            first: match ahead {
                Some(ahead) => ahead.first,
                None => decoder.prepare(Batch::from_packs(first))?,
            },
            others: others.iter().map(Batch::from_packs).collect(),
        })
    }

    fn all(&self) -> impl Iterator<Item = &Batch> {
        std::iter::once(self.first.batch()).chain(&self.others)
    }

    /// Tokens that are read.
    fn tokens(&self) -> usize {
        self.all().map(|batch| batch.input_ids.len()).sum()
    }

    /// Hands the gradients of the step's mean loss a target token to `sink`. Answers each micro-batch's loss, for which
    /// nothing has been waited.
    fn gradients(
        &self,
        decoder: &Decoder,
        dropout: DropoutState,
        sink: &mut dyn GradSink,
    ) -> Result<Vec<PendingLoss>> {
        let targets: usize = self.all().map(Batch::target_tokens).sum();
        let scale = 1.0 / targets as f64;
        let mut losses = vec![decoder.gradients(&self.first, dropout, scale, sink)?];
        for batch in &self.others {
            let batch = decoder.prepare(batch.clone())?;
            losses.push(decoder.gradients(&batch, dropout, scale, sink)?);
        }
        Ok(losses)
    }
}

/// The loss of a step that has been left out.
fn total(parts: &[PendingLoss]) -> Result<BatchLoss> {
    let mut loss = BatchLoss::default();
    for part in parts {
        let part = part.value()?;
        loss.loss_sum += part.loss_sum;
        loss.target_tokens += part.target_tokens;
    }
    Ok(loss)
}
