//! Checkpoints of a run: written in the background where that costs little memory, and refused where they belong to
//! another run.
//!
//! Dropout, data order and learning rate are pure functions of the seed, the settings and the step. So the step's
//! number is the position of the random numbers, of the data and of the schedule alike, and with the parameters and the
//! optimizer's state it is the whole state of a run. What the settings and the data were is kept by value and by hash,
//! and held against those of the run that goes on.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::thread::JoinHandle;

use adapters::Parameters;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::checkpoint_folder::{CheckpointFolder, OPTIMIZER, PARAMETERS, Snapshot, State};
use crate::optimizer::Optimizer;
use crate::step_log::StepReport;
use crate::task_scores::{BestBy, Scores, scores_or_null};
use crate::{Error, Result};

/// A state up to this size is copied and written while training goes on. A larger one, of full fine-tuning, is
/// written before the next step: a second copy of it is memory that the training may need.
const SNAPSHOT_LIMIT_BYTES: u64 = 1 << 30;

/// Where a training is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// Optimizer steps done, those left out included.
    pub step: u64,
    /// Loss of the last step that was not left out.
    pub loss: Option<f64>,
    /// Steps left out because their loss or gradient was not finite.
    pub skipped_steps: u64,
    /// How many of them were the last ones.
    pub skipped_in_a_row: u64,
    /// The best checkpoint, which is this one or an older one.
    pub best: Option<Best>,
    /// What the last step did, where the evaluation after it was stopped: whoever goes on evaluates first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Box<StepReport>>,
}

impl Position {
    /// The last step whose line is to stay in the log: that of a step that is evaluated again comes again.
    pub fn logged(&self) -> u64 {
        self.step - u64::from(self.unevaluated.is_some())
    }

    /// This place as the new best, where what was measured after its step is better than at every checkpoint so far. NaN
    /// never is.
    pub fn better(&self, by: &BestBy, report: &StepReport) -> Option<Best> {
        let value = by.value(report.eval_loss, &report.scores)?;
        let best = self.best.as_ref();
        let best = best.and_then(|best| by.value(best.eval_loss, &best.scores));
        by.is_better(value, best).then(|| Best {
            step: self.step,
            eval_loss: report.eval_loss,
            scores: report.scores.clone(),
        })
    }
}

/// The best checkpoint, with what was measured after its step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// Its held-out loss, in nats a target token.
    pub eval_loss: Option<f64>,
    /// Its scores, by `TASK.METRIC`.
    #[serde(
        default,
        deserialize_with = "scores_or_null",
        skip_serializing_if = "Scores::is_empty"
    )]
    pub scores: Scores,
}

/// Memory that a checkpoint takes while it is written in the background, for a state (trained parameters and what the
/// optimizer keeps) of `state_bytes`: a copy, or nothing where it is written before the next step instead.
pub fn snapshot_bytes(state_bytes: u64) -> u64 {
    if state_bytes <= SNAPSHOT_LIMIT_BYTES {
        state_bytes
    } else {
        0
    }
}

/// A run's checkpoints, and what makes the run this run.
pub(crate) struct Checkpoints {
    folder: CheckpointFolder,
    /// Settings and data hashes by dotted key: a checkpoint that differs in any is refused.
    run: BTreeMap<String, String>,
    /// The step of the newest one that is known to be whole.
    newest: Option<u64>,
    /// The one being written, by step.
    writing: Option<(u64, JoinHandle<Result<()>>)>,
}

impl Checkpoints {
    /// Checkpoints under `path`, the newest `keep` of them kept.
    pub fn new(path: PathBuf, run: BTreeMap<String, String>, keep: usize) -> Self {
        Self {
            folder: CheckpointFolder { path, keep },
            run,
            newest: None,
            writing: None,
        }
    }

    /// Writes the state at `position`. Where more steps follow and a copy is small this answers at once, and what goes
    /// wrong is answered by the next call of this, [`Checkpoints::surface`] or [`Checkpoints::finish`].
    pub fn save(
        &mut self,
        position: &Position,
        parameters: &Parameters,
        optimizer: &Optimizer,
        more_steps: bool,
    ) -> Result<()> {
        self.finish()?;
        let mut snapshot = Snapshot {
            state: State {
                position: position.clone(),
                run: self.run.clone(),
            },
            parameters: named(parameters),
            optimizer: optimizer.state().into_iter().collect(),
        };
        if !more_steps || snapshot_bytes(state_bytes(parameters, optimizer)) == 0 {
            self.folder.write(&snapshot, self.newest)?;
            self.newest = Some(position.step);
            return Ok(());
        }
        for tensor in snapshot
            .parameters
            .values_mut()
            .chain(snapshot.optimizer.values_mut())
        {
            *tensor = own_copy(tensor)?;
        }
        let (folder, newest) = (self.folder.clone(), self.newest);
        let spawned = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || folder.write(&snapshot, newest));
        let writing = spawned.map_err(|source| Error::Io {
            path: self.folder.path.clone(),
            source,
        })?;
        self.writing = Some((position.step, writing));
        Ok(())
    }

    /// The error of a write that has ended meanwhile; does not wait for one that goes on.
    pub fn surface(&mut self) -> Result<()> {
        match &self.writing {
            Some((_, writing)) if writing.is_finished() => self.finish(),
            _ => Ok(()),
        }
    }

    /// Waits for the write under way.
    pub fn finish(&mut self) -> Result<()> {
        let Some((step, writing)) = self.writing.take() else {
            return Ok(());
        };
        match writing.join() {
            Ok(written) => written?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        self.newest = Some(step);
        Ok(())
    }

    /// Restores the newest checkpoint into `parameters` and `optimizer`; where there is none, changes nothing and answers
    /// the start. Clears away what a killed process left half-written.
    pub fn restore(
        &mut self,
        parameters: &mut Parameters,
        optimizer: &mut Optimizer,
    ) -> Result<Position> {
        let folder = &self.folder;
        let io = |source| Error::Io {
            path: folder.path.clone(),
            source,
        };
        folder.clear_partial().map_err(io)?;
        let Some(step) = folder.steps().map_err(io)?.pop() else {
            return Ok(Position::default());
        };
        let state = folder.state(step)?;
        self.refuse_other_run(step, &state.run)?;
        let optimizer_state = folder.tensors(step, OPTIMIZER)?;
        self.load_parameters(step, parameters)?;
        optimizer.load_state(|name, like| self.tensor(step, &optimizer_state, name, like))?;
        self.newest = Some(step);
        Ok(state.position)
    }

    /// Puts the values that the trained parameters had after `step` into `parameters`.
    pub fn load_parameters(&self, step: u64, parameters: &mut Parameters) -> Result<()> {
        let stored = self.folder.tensors(step, PARAMETERS)?;
        for p in &parameters.0 {
            // In place: the layers hold clones of this tensor and must see the restored value.
            p.value
                .slice_set(&self.tensor(step, &stored, &p.name, &p.value)?, 0, 0)?;
        }
        Ok(())
    }

    /// How many checkpoints are there.
    pub fn count(&self) -> u64 {
        self.folder.steps().map_or(0, |steps| steps.len() as u64)
    }

    fn tensor(
        &self,
        step: u64,
        stored: &HashMap<String, Tensor>,
        name: &str,
        like: &Tensor,
    ) -> Result<Tensor> {
        let Some(tensor) = stored.get(name) else {
            return Err(self
                .folder
                .damaged(step, format!("tensor {name} is missing")));
        };
        if tensor.shape() != like.shape() || tensor.dtype() != like.dtype() {
            let problem = format!(
                "tensor {name} is {:?} {:?}, and {:?} {:?} is needed",
                tensor.dtype(),
                tensor.shape(),
                like.dtype(),
                like.shape()
            );
            return Err(self.folder.damaged(step, problem));
        }
        Ok(tensor.to_device(like.device())?)
    }

    fn refuse_other_run(&self, step: u64, theirs: &BTreeMap<String, String>) -> Result<()> {
        let value = |map: &BTreeMap<String, String>, key: &String| {
            map.get(key).cloned().unwrap_or_else(|| "absent".into())
        };
        let differing: BTreeMap<_, _> = theirs
            .keys()
            .chain(self.run.keys())
            .filter(|key| theirs.get(*key) != self.run.get(*key))
            .map(|key| (key.clone(), (value(theirs, key), value(&self.run, key))))
            .collect();
        if differing.is_empty() {
            Ok(())
        } else {
            Err(Error::OtherRun {
                path: self.folder.of_step(step),
                differing,
            })
        }
    }
}

impl Drop for Checkpoints {
    /// A training that fails for another reason still gets the checkpoint that it had begun to write.
    fn drop(&mut self) {
        if let Some((_, writing)) = self.writing.take() {
            let _ = writing.join();
        }
    }
}

/// Size of the tensors that a checkpoint holds.
pub(crate) fn state_bytes(parameters: &Parameters, optimizer: &Optimizer) -> u64 {
    let state = optimizer.state();
    parameter_bytes(parameters) + state.iter().map(|(_, tensor)| bytes(tensor)).sum::<u64>()
}

/// Size of the trained parameters.
pub(crate) fn parameter_bytes(parameters: &Parameters) -> u64 {
    parameters.0.iter().map(|p| bytes(&p.value)).sum()
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

fn named(parameters: &Parameters) -> HashMap<String, Tensor> {
    let values = parameters.0.iter();
    values.map(|p| (p.name.clone(), p.value.clone())).collect()
}

/// The value as it is now, whatever the optimizer does to the original's storage.
fn own_copy(tensor: &Tensor) -> Result<Tensor> {
    if tensor.device().is_cpu() {
        Ok(tensor.copy()?)
    } else {
        Ok(tensor.to_device(&candle_core::Device::Cpu)?)
    }
}
