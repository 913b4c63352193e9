//! The training loop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;
use datasets::{Batch, Pack, Tokenized};
use kernels::Arena;

use crate::checkpoint::{Best, Checkpoints, Position, parameter_bytes, state_bytes};
use crate::decoder::{BatchLoss, Decoder, DropoutState};
use crate::disk::{DiskInput, disk_need_bytes, free_disk_bytes};
use crate::memory::{MemoryUse, ResidentMemory};
use crate::optimizer::{Gradients, Optimizer};
use crate::plan::TrainPlan;
use crate::recipe::{GradientMode, OnNonfinite, TrainSection};
use crate::schedule::learning_rate;
use crate::step_log::{StepLog, StepReport};
use crate::steps::{Step, Steps};
use crate::{Error, Result};

/// What to train, on what, and where to put the state.
pub struct TrainJob<'a> {
    /// The model, built with [`adapters::Method::Lora`] or [`adapters::Method::Full`].
    pub decoder: &'a Decoder,
    /// Its trained parameters.
    pub parameters: Parameters,
    /// Training samples.
    pub train: &'a [Tokenized],
    /// Held-out samples; may be empty.
    pub validation: &'a [Tokenized],
    /// The `[train]` table.
    pub settings: &'a TrainSection,
    /// Longest pack, in tokens.
    pub max_seq_len: usize,
    /// Several samples a pack, or one.
    pub packing: bool,
    /// Seed of data order and dropout.
    pub seed: u64,
    /// Folder of logs and checkpoints.
    pub folder: &'a Path,
    /// What makes this run this run: settings and data hashes by dotted key.
    pub run: BTreeMap<String, String>,
    /// Set from a signal handler: the step is finished, a checkpoint written, and training stops.
    pub stop: &'a AtomicBool,
    /// What the training needs. With it, memory is reserved, the largest micro-batch is tried before the first step, and
    /// what was taken is measured.
    pub plan: Option<&'a TrainPlan>,
}

/// How a training ended.
pub struct TrainOutcome {
    /// The trained values.
    pub parameters: Parameters,
    /// Optimizer steps done, resumed ones included.
    pub steps: u64,
    /// Steps the whole training has.
    pub total_steps: u64,
    /// The step a checkpoint let this run go on from; 0 for a fresh start.
    pub resumed_from: u64,
    /// True where [`TrainJob::stop`] ended it before the last step.
    pub stopped: bool,
    /// Loss of the last step that was not left out, in nats a target token.
    pub final_loss: Option<f64>,
    /// Held-out loss before the first step of this process.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss of [`TrainOutcome::parameters`].
    pub eval_loss: Option<f64>,
    /// The step whose parameters these are, where the best and not the last were asked for.
    pub best: Option<Best>,
    /// Steps left out because their loss or gradient was not finite, in all processes.
    pub skipped_steps: u64,
    /// Tokens read by this process.
    pub tokens: u64,
    /// Targets learned from by this process.
    pub target_tokens: u64,
    /// Seconds this process spent in steps.
    pub step_secs: f64,
    /// What the training took, where it had a plan.
    pub memory: Option<MemoryUse>,
}

/// Steps in a row that `on_nonfinite = "skip"` leaves out before it ends the training: more is not a bad sample.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;

/// Trains, resuming from the newest checkpoint of the same run. `progress` sees each step's report and the total.
pub fn train(
    mut job: TrainJob,
    progress: &mut dyn FnMut(&StepReport, u64),
) -> Result<TrainOutcome> {
    let settings = job.settings;
    check(&job)?;
    ledger::files::create_dir_all(job.folder)?;
    let steps = Steps::new(job.train, settings, job.max_seq_len, job.packing, job.seed)?;
    let total_steps = steps.total();
    let resident = ResidentMemory::start();
    // Blocks leave gaps between them; a range of addresses costs nothing where it is not used.
    let arena = job
        .plan
        .and_then(|plan| Arena::reserve((plan.arena_bytes + plan.arena_bytes / 2) as usize));
    let mut optimizer = Optimizer::new(&job.parameters, settings, job.seed)?;
    let mut checkpoints = Checkpoints::new(
        job.folder.join("checkpoints"),
        std::mem::take(&mut job.run),
        settings.save_total_limit,
    );
    let mut position = checkpoints.restore(&mut job.parameters, &mut optimizer)?;
    job.check_disk(&checkpoints, &optimizer, total_steps)?;
    let mut log = StepLog::open(job.folder, position.step)?;
    if job.plan.is_some() {
        job.rehearse(&steps)?;
    }
    let held_out = datasets::pack(job.validation, job.max_seq_len);
    let mut outcome = TrainOutcome::new(&position, total_steps);
    outcome.eval_loss_before = evaluate(job.decoder, &held_out)?;

    for step in steps.after(position.step) {
        let mut report = job.step(&step, &mut position, &mut optimizer, total_steps)?;
        let last = position.step == total_steps;
        let due = |every: u64| every > 0 && position.step.is_multiple_of(every);
        if last || due(settings.eval_steps) {
            report.eval_loss = evaluate(job.decoder, &held_out)?;
        }
        outcome.add(&report);
        log.write(&report)?;
        progress(&report, total_steps);
        checkpoints.surface()?;

        outcome.stopped = !last && job.stop.load(Ordering::Relaxed);
        let ends = last || outcome.stopped;
        let better = position.better(report.eval_loss);
        if ends || due(settings.save_steps) || (settings.load_best_model_at_end && better.is_some())
        {
            position.best = better.or(position.best);
            log.sync()?;
            checkpoints.save(&position, &job.parameters, &optimizer, !ends)?;
        }
        if outcome.stopped {
            break;
        }
    }
    checkpoints.finish()?;
    outcome.memory = job.plan.map(|plan| MemoryUse {
        planned: plan.arena_bytes,
        in_use: arena.is_some().then(|| Arena::used().peak as u64),
        touched: arena.is_some().then(|| Arena::used().touched as u64),
        resident_growth: resident.largest_growth(),
    });
    outcome.end(job, position, &checkpoints, &held_out)
}

fn check(job: &TrainJob) -> Result<()> {
    if job.train.is_empty() {
        return Err(Error::NoSamples);
    }
    if job.parameters.0.is_empty() {
        return Err(Error::NothingTrained);
    }
    if job.settings.load_best_model_at_end && job.validation.is_empty() {
        return Err(Error::NothingHeldOut);
    }
    Ok(())
}

impl TrainOutcome {
    fn new(position: &Position, total_steps: u64) -> Self {
        Self {
            parameters: Parameters(Vec::new()),
            steps: position.step,
            total_steps,
            resumed_from: position.step,
            stopped: false,
            final_loss: None,
            eval_loss_before: None,
            eval_loss: None,
            best: None,
            skipped_steps: 0,
            tokens: 0,
            target_tokens: 0,
            step_secs: 0.0,
            memory: None,
        }
    }

    fn add(&mut self, report: &StepReport) {
        self.steps = report.step;
        self.eval_loss = report.eval_loss.or(self.eval_loss);
        self.tokens += report.tokens as u64;
        self.target_tokens += report.target_tokens as u64;
        self.step_secs += report.tokens as f64 / report.tokens_per_sec;
    }

    /// What the training ends with: the same whether it was one process or many.
    fn end(
        mut self,
        mut job: TrainJob,
        position: Position,
        checkpoints: &Checkpoints,
        held_out: &[Pack],
    ) -> Result<Self> {
        self.final_loss = position.loss;
        self.skipped_steps = position.skipped_steps;
        if !self.stopped {
            if self.eval_loss.is_none() {
                // Resumed at the very end: the loss is asked for again rather than left out.
                self.eval_loss = evaluate(job.decoder, held_out)?;
            }
            if let Some(best) = position
                .best
                .filter(|_| job.settings.load_best_model_at_end)
            {
                checkpoints.load_parameters(best.step, &mut job.parameters)?;
                self.eval_loss = Some(best.eval_loss);
                self.best = Some(best);
            }
        }
        self.parameters = job.parameters;
        Ok(self)
    }
}

impl TrainJob<'_> {
    /// Runs the largest micro-batch and throws its gradients away, so that a lack of memory shows now and not hours
    /// later. Nothing is drawn, no parameter changes and the order of the data stays.
    fn rehearse(&self, steps: &Steps) -> Result<()> {
        let batch = Batch::from_packs(&steps.largest_micro_batch());
        let dropout = DropoutState {
            seed: self.seed,
            step: 0,
        };
        let mut kept = Gradients::new(&self.parameters);
        let sink: &mut dyn GradSink = match self.settings.gradients {
            GradientMode::Accumulate => &mut kept,
            GradientMode::PerLayer => &mut Discard,
        };
        match self.decoder.loss_and_gradients(&batch, dropout, 1.0, sink) {
            // The step that meets it will say whose it is.
            Ok(_) | Err(Error::NoTargets) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Refuses to start where the disk has no room for what is still to be written.
    fn check_disk(
        &self,
        checkpoints: &Checkpoints,
        optimizer: &Optimizer,
        total_steps: u64,
    ) -> Result<()> {
        let state_bytes = state_bytes(&self.parameters, optimizer);
        let need = disk_need_bytes(&DiskInput {
            settings: self.settings,
            total_steps,
            state_bytes,
            result_bytes: parameter_bytes(&self.parameters),
        });
        let need_bytes = need.saturating_sub(checkpoints.count().saturating_mul(state_bytes));
        match free_disk_bytes(self.folder) {
            Some(free_bytes) if free_bytes < need_bytes => Err(Error::DiskSpace {
                path: self.folder.to_owned(),
                need_bytes,
                free_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// Does one optimizer step, or leaves it out where its loss or gradient is not finite and the settings say so.
    fn step(
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

/// Takes gradients and lets go of them.
struct Discard;

impl GradSink for Discard {
    fn add(&mut self, _: ParamId, _: Tensor) -> adapters::Result<()> {
        Ok(())
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

/// Mean negative log-likelihood a target token, in nats; `None` without samples.
pub fn evaluate(decoder: &Decoder, packs: &[Pack]) -> Result<Option<f64>> {
    if packs.is_empty() {
        return Ok(None);
    }
    let (mut loss_sum, mut targets) = (0.0, 0usize);
    for pack in packs {
        let batch = Batch::from_packs([pack]);
        for score in decoder.token_scores(&batch)? {
            loss_sum -= score.log_prob;
            targets += 1;
        }
    }
    Ok(Some(loss_sum / targets as f64))
}
