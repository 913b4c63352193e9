//! The training loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;
use datasets::{Batch, Pack, Tokenized};
use kernels::Arena;

use crate::checkpoint::Checkpoints;
use crate::decoder::{BatchLoss, Decoder, DropoutState};
use crate::memory::{MemoryUse, ResidentMemory};
use crate::optimizer::{Gradients, Optimizer};
use crate::plan::TrainPlan;
use crate::recipe::{GradientMode, TrainSection};
use crate::schedule::learning_rate;
use crate::step_log::{StepLog, StepReport};
use crate::steps::Steps;
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
    /// Loss of the last step, in nats a target token.
    pub final_loss: Option<f64>,
    /// Held-out loss before the first step of this process.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss at the end.
    pub eval_loss: Option<f64>,
    /// Tokens read by this process.
    pub tokens: u64,
    /// Targets learned from by this process.
    pub target_tokens: u64,
    /// Seconds this process spent in steps.
    pub step_secs: f64,
    /// What the training took, where it had a plan.
    pub memory: Option<MemoryUse>,
}

/// Trains, resuming from the newest checkpoint of the same run. `progress` sees each step's report and the total.
pub fn train(
    mut job: TrainJob,
    progress: &mut dyn FnMut(&StepReport, u64),
) -> Result<TrainOutcome> {
    if job.train.is_empty() {
        return Err(Error::NoSamples);
    }
    if job.parameters.0.is_empty() {
        return Err(Error::NothingTrained);
    }
    std::fs::create_dir_all(job.folder).map_err(|source| Error::Io {
        path: job.folder.to_owned(),
        source,
    })?;
    let steps = Steps::new(
        job.train,
        job.settings,
        job.max_seq_len,
        job.packing,
        job.seed,
    )?;
    let resident = ResidentMemory::start();
    // Blocks leave gaps between them; a range of addresses costs nothing where it is not used.
    let arena = job
        .plan
        .and_then(|plan| Arena::reserve((plan.arena_bytes + plan.arena_bytes / 2) as usize));
    let mut optimizer = Optimizer::new(&job.parameters, job.settings, job.seed)?;
    let checkpoints = Checkpoints::new(
        job.folder.join("checkpoints"),
        std::mem::take(&mut job.run),
        job.settings.save_total_limit,
    );
    let resumed_from = checkpoints.restore(&mut job.parameters, &mut optimizer)?;
    let mut log = StepLog::open(job.folder, resumed_from)?;
    if job.plan.is_some() {
        job.rehearse(&steps)?;
    }
    let held_out = datasets::pack(job.validation, job.max_seq_len);
    let total_steps = steps.total();
    let mut outcome = TrainOutcome {
        parameters: Parameters(Vec::new()),
        steps: resumed_from,
        total_steps,
        resumed_from,
        stopped: false,
        final_loss: None,
        eval_loss_before: evaluate(job.decoder, &held_out)?,
        eval_loss: None,
        tokens: 0,
        target_tokens: 0,
        step_secs: 0.0,
        memory: None,
    };

    for step in steps.after(resumed_from) {
        let started = Instant::now();
        let number = outcome.steps + 1;
        let rate = learning_rate(job.settings, outcome.steps, total_steps);
        let (decoder, samples) = (job.decoder, job.train);
        let dropout = DropoutState {
            seed: job.seed,
            step: outcome.steps,
        };
        let backward = |sink: &mut dyn GradSink| {
            let (loss, tokens) = gradients(decoder, &step.micro_batches, dropout, sink)?;
            let mean = loss.loss_sum / loss.target_tokens as f64;
            if !mean.is_finite() {
                return Err(loss_not_finite(number, mean, samples, &step.micro_batches));
            }
            Ok((mean, loss.target_tokens, tokens))
        };
        let ((mean, target_tokens, tokens), grad_norm) = optimizer.take_step(
            &mut job.parameters,
            decoder.tied_parameter(),
            rate,
            number,
            backward,
        )?;
        let secs = started.elapsed().as_secs_f64();
        outcome.steps = number;
        outcome.final_loss = Some(mean);
        outcome.tokens += tokens as u64;
        outcome.target_tokens += target_tokens as u64;
        outcome.step_secs += secs;

        let last = number == total_steps;
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        let eval_loss = if last || due(job.settings.eval_steps) {
            evaluate(job.decoder, &held_out)?
        } else {
            None
        };
        outcome.eval_loss = eval_loss.or(outcome.eval_loss);
        let report = StepReport {
            step: number,
            epoch: step.epoch,
            loss: mean,
            learning_rate: rate,
            grad_norm,
            tokens,
            target_tokens,
            tokens_per_sec: tokens as f64 / secs,
            eval_loss,
        };
        log.write(&report)?;
        progress(&report, total_steps);
        outcome.stopped = !last && job.stop.load(Ordering::Relaxed);
        if last || outcome.stopped || due(job.settings.save_steps) {
            checkpoints.save(number, &job.parameters, &optimizer)?;
        }
        if outcome.stopped {
            break;
        }
    }
    if outcome.eval_loss.is_none() {
        // Resumed at the very end: the loss is asked for again rather than left out.
        outcome.eval_loss = evaluate(job.decoder, &held_out)?;
    }
    outcome.memory = job.plan.map(|plan| MemoryUse {
        planned: plan.arena_bytes,
        in_use: arena.is_some().then(|| Arena::used().peak as u64),
        touched: arena.is_some().then(|| Arena::used().touched as u64),
        resident_growth: resident.largest_growth(),
    });
    outcome.parameters = job.parameters;
    Ok(outcome)
}

/// Takes gradients and lets go of them.
struct Discard;

impl GradSink for Discard {
    fn add(&mut self, _: ParamId, _: Tensor) -> adapters::Result<()> {
        Ok(())
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

fn loss_not_finite(
    step: u64,
    value: f64,
    samples: &[Tokenized],
    micro_batches: &[Vec<Pack>],
) -> Error {
    let in_step: Vec<u64> = micro_batches
        .iter()
        .flatten()
        .flat_map(|p| p.segments.iter().map(|s| s.sample))
        .collect();
    let samples = samples
        .iter()
        .filter(|t| in_step.contains(&t.sample))
        .map(|t| t.id.clone())
        .collect();
    Error::LossNotFinite {
        step,
        value,
        samples,
    }
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
