//! The training loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use adapters::{GradSink, ParamId, Parameters};
use candle_core::Tensor;
use datasets::{Batch, Pack, Tokenized};
use kernels::Arena;

use crate::checkpoint::{Best, Checkpoints, Position, parameter_bytes, state_bytes};
use crate::decoder::{Decoder, DropoutState};
use crate::disk::{DiskInput, disk_need_bytes, free_disk_bytes};
use crate::memory::{MemoryUse, ResidentMemory};
use crate::optimizer::{Gradients, Optimizer};
use crate::plan::TrainPlan;
use crate::recipe::{GradientMode, TrainSection};
use crate::step_log::{StepLog, StepReport};
use crate::steps::Steps;
use crate::task_scores::{BestBy, Scores, TaskScorer};
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
    /// What is asked beside the held-out loss; its model is [`TrainJob::decoder`].
    pub tasks: Option<TaskScorer<'a>>,
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
    /// Scores of [`TrainOutcome::parameters`], by `TASK.METRIC`.
    pub scores: Scores,
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
    let mut log = StepLog::open(job.folder, position.logged())?;
    if job.plan.is_some() {
        job.rehearse(&steps)?;
    }
    let held_out = datasets::pack(job.validation, job.max_seq_len);
    let best_by = BestBy::of(settings);
    let mut outcome = TrainOutcome::new(&position, total_steps);
    outcome.eval_loss_before = evaluate(job.decoder, &held_out)?;

    let mut rest = steps.after(position.step);
    loop {
        let mut report = match position.unevaluated.take() {
            Some(report) => *report,
            None => {
                let Some(step) = rest.next() else { break };
                let report = job.step(&step, &mut position, &mut optimizer, total_steps)?;
                outcome.add(&report);
                report
            }
        };
        let last = position.step == total_steps;
        let due = |every: u64| every > 0 && position.step.is_multiple_of(every);
        let measured = match last || due(settings.eval_steps) {
            true => job.evaluate(&held_out)?,
            false => Some(Measured::default()),
        };
        let mut better = None;
        if let Some(measured) = measured {
            (report.eval_loss, report.scores) = (measured.eval_loss, measured.scores);
            outcome.evaluated(&report);
            log.write(&report)?;
            progress(&report, total_steps);
            better = position.better(&best_by, &report);
            outcome.stopped = !last && job.stop.load(Ordering::Relaxed);
        } else {
            position.unevaluated = Some(Box::new(report));
            outcome.stopped = true;
        }
        checkpoints.surface()?;

        let ends = last || outcome.stopped;
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
        answers: plan.answers_cache_bytes,
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
    let by_loss = BestBy::of(job.settings).is_loss();
    if job.settings.load_best_model_at_end && by_loss && job.validation.is_empty() {
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
            scores: Scores::new(),
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
        self.tokens += report.tokens as u64;
        self.target_tokens += report.target_tokens as u64;
        self.step_secs += report.tokens as f64 / report.tokens_per_sec;
    }

    fn evaluated(&mut self, report: &StepReport) {
        self.eval_loss = report.eval_loss.or(self.eval_loss);
        if !report.scores.is_empty() {
            self.scores = report.scores.clone();
        }
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
        let chosen = position
            .best
            .filter(|_| job.settings.load_best_model_at_end);
        match chosen {
            _ if self.stopped => {}
            Some(best) => {
                checkpoints.load_parameters(best.step, &mut job.parameters)?;
                self.eval_loss = best.eval_loss;
                self.scores = best.scores.clone();
                self.best = Some(best);
            }
            None if self.eval_loss.is_none() && self.scores.is_empty() => {
                // Resumed at the very end: what was measured is asked for again rather than left out.
                match job.evaluate(held_out)? {
                    Some(measured) => {
                        (self.eval_loss, self.scores) = (measured.eval_loss, measured.scores)
                    }
                    None => self.stopped = true,
                }
            }
            None => {}
        }
        self.parameters = job.parameters;
        Ok(self)
    }
}

/// What an evaluation measured.
#[derive(Default)]
struct Measured {
    eval_loss: Option<f64>,
    scores: Scores,
}

impl TrainJob<'_> {
    /// Measures the held-out loss, and asks the tasks; `None` where it was stopped meanwhile.
    fn evaluate(&mut self, held_out: &[Pack]) -> Result<Option<Measured>> {
        let eval_loss = evaluate(self.decoder, held_out)?;
        let scores = match &mut self.tasks {
            Some(tasks) => tasks.scores(self.stop)?,
            None => Some(Scores::new()),
        };
        Ok(scores.map(|scores| Measured { eval_loss, scores }))
    }

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
}

/// Takes gradients and lets go of them.
struct Discard;

impl GradSink for Discard {
    fn add(&mut self, _: ParamId, _: Tensor) -> adapters::Result<()> {
        Ok(())
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
