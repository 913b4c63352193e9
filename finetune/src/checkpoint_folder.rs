//! The folder of a run's checkpoints: which there are, whether one is whole, and which go.
//!
//! ```text
//! checkpoints/step-00000012/  parameters.safetensors  by PEFT's keys, or the checkpoint's names
//!                             optimizer.safetensors   what the optimizer keeps of earlier steps
//!                             state.json              the position, and what makes the run this run
//!                             SHA256SUMS              of these three, as `sha256sum -c` reads it
//! ```
//!
//! A folder gets its name once everything in it is on the disk, and loses it before anything in it is removed, so
//! one that has its name is whole unless the disk or somebody changed it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use ledger::files::StagedDir;
use ledger::hash::sha256_file;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Position;
use crate::{Error, Result};

pub(crate) const PARAMETERS: &str = "parameters.safetensors";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
const PARTIAL: &str = ".partial";

/// `state.json`: all of a checkpoint that is not a tensor.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub position: Position,
    pub run: BTreeMap<String, String>,
}

/// Everything that is written.
pub(crate) struct Snapshot {
    pub state: State,
    pub parameters: HashMap<String, Tensor>,
    pub optimizer: HashMap<String, Tensor>,
}

/// Where the checkpoints of a run are.
#[derive(Clone)]
pub(crate) struct CheckpointFolder {
    pub path: PathBuf,
    /// How many of the newest are kept.
    pub keep: usize,
}

impl CheckpointFolder {
    /// Writes one whole, and removes those that are no longer kept. `newest` is the one that a failure leaves to go on
    /// from.
    pub fn write(&self, snapshot: &Snapshot, newest: Option<u64>) -> Result<()> {
        let path = self.of_step(snapshot.state.position.step);
        write_files(&path, snapshot).map_err(|source| Error::CheckpointWrite {
            path,
            source,
            newest,
        })?;
        self.prune().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// The finished ones, oldest first, by step.
    pub fn steps(&self) -> io::Result<Vec<u64>> {
        let mut steps: Vec<u64> = self
            .names()?
            .iter()
            .filter_map(|name| step_of(name))
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The folder of the checkpoint after `step`.
    pub fn of_step(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step:08}"))
    }

    /// Removes what a killed process was writing or removing.
    pub fn clear_partial(&self) -> io::Result<()> {
        for name in self.names()? {
            if name.strip_suffix(PARTIAL).and_then(step_of).is_some() {
                remove(&self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// `state.json`, if it is what was written.
    pub fn state(&self, step: u64) -> Result<State> {
        let bad = |problem| self.damaged(step, problem);
        self.hold_sum(step, STATE)?;
        let text = fs::read(self.of_step(step).join(STATE))
            .map_err(|error| bad(format!("{STATE}: {error}")))?;
        let state: State = serde_json::from_slice(&text)
            .map_err(|error| bad(format!("{STATE} is not one of this version: {error}")))?;
        if state.position.step != step {
            return Err(bad(format!(
                "its folder says step {step}, its state step {}",
                state.position.step
            )));
        }
        Ok(state)
    }

    /// The tensors of a file, if they are what was written.
    pub fn tensors(&self, step: u64, file: &str) -> Result<HashMap<String, Tensor>> {
        self.hold_sum(step, file)?;
        let path = self.of_step(step).join(file);
        Ok(candle_core::safetensors::load(
            path,
            &candle_core::Device::Cpu,
        )?)
    }

    /// The error of a checkpoint that cannot be used, with the one that can be used instead.
    pub fn damaged(&self, step: u64, problem: String) -> Error {
        let steps = self.steps().unwrap_or_default();
        let older = steps.into_iter().rev().find(|&older| {
            older < step
                && [STATE, PARAMETERS, OPTIMIZER]
                    .iter()
                    .all(|file| self.sum_holds(older, file).is_ok())
        });
        Error::Checkpoint {
            path: self.of_step(step),
            problem,
            older,
        }
    }

    fn hold_sum(&self, step: u64, file: &str) -> Result<()> {
        self.sum_holds(step, file)
            .map_err(|problem| self.damaged(step, problem))
    }

    /// Compares a file with its line in `SHA256SUMS`; else says what is wrong.
    fn sum_holds(&self, step: u64, file: &str) -> std::result::Result<(), String> {
        let folder = self.of_step(step);
        let sums =
            fs::read_to_string(folder.join(SUMS)).map_err(|error| format!("{SUMS}: {error}"))?;
        let written = sums
            .lines()
            .find_map(|line| line.strip_suffix(file)?.strip_suffix("  "))
            .ok_or_else(|| format!("{SUMS} has no line for {file}"))?;
        let found = match sha256_file(&folder.join(file)) {
            Ok(found) => found,
            Err(ledger::Error::Read { source, .. }) => return Err(format!("{file}: {source}")),
            Err(error) => return Err(error.to_string()),
        };
        if found == written {
            Ok(())
        } else {
            Err(format!(
                "{file} has changed since it was written (SHA-256 differs)"
            ))
        }
    }

    /// Removes all but the newest `keep`, and the best that each of these names: should the newest be damaged, the
    /// one before it still finds its own best.
    fn prune(&self) -> io::Result<()> {
        let steps = self.steps()?;
        let (old, kept) = steps.split_at(steps.len().saturating_sub(self.keep));
        let best: BTreeSet<u64> = kept
            .iter()
            .filter_map(|step| Some(self.state(*step).ok()?.position.best?.step))
            .collect();
        for step in old.iter().filter(|step| !best.contains(step)) {
            let folder = self.of_step(*step);
            let mut partial = folder.clone().into_os_string();
            partial.push(PARTIAL);
            fs::rename(&folder, &partial)?;
            remove(Path::new(&partial))?;
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // A name that is not UTF-8 is not one of ours.
        entries
            .filter_map(|entry| {
                entry
                    .map(|entry| entry.file_name().into_string().ok())
                    .transpose()
            })
            .collect()
    }
}

/// The step in a checkpoint's name; `None` for any other name.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (format!("step-{step:08}") == name).then_some(step)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn write_files(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let staged = StagedDir::create(path).map_err(io_error)?;
    let at = |file: &str| staged.path().join(file);
    for (file, tensors) in [
        (PARAMETERS, &snapshot.parameters),
        (OPTIMIZER, &snapshot.optimizer),
    ] {
        candle_core::safetensors::save(tensors, at(file)).map_err(io_error)?;
    }
    let json = serde_json::to_vec_pretty(&snapshot.state).map_err(io::Error::other)?;
    fs::write(at(STATE), json)?;
    let mut sums = String::new();
    for file in [OPTIMIZER, PARAMETERS, STATE] {
        let sum = sha256_file(&at(file)).map_err(io_error)?;
        sums.push_str(&format!("{sum}  {file}\n"));
    }
    fs::write(at(SUMS), sums)?;
    staged.commit().map_err(io_error)
}

/// What the system said, out of an error that wraps it; the error itself where there is no more to it.
fn io_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            };
        }
        cause = inner.source();
    }
    io::Error::other(error)
}
