//! Step checkpoints: written whole or not at all, and refused where they belong to another run.
//!
//! Dropout and data order are pure functions of seed, step and sample, so parameters, AdamW's moments and the step
//! number are the whole state of a run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use adapters::Parameters;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::optimizer::Optimizer;
use crate::{Error, Result};

const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    run: BTreeMap<String, String>,
    sha256: String,
}

/// Folder of a run's checkpoints and what makes the run this run.
pub struct Checkpoints {
    folder: PathBuf,
    /// Settings and data hashes by dotted key: a checkpoint that differs in any is refused.
    run: BTreeMap<String, String>,
    keep: usize,
}

impl Checkpoints {
    /// Checkpoints under `folder`, the newest `keep` of them kept.
    pub fn new(folder: PathBuf, run: BTreeMap<String, String>, keep: usize) -> Self {
        Self { folder, run, keep }
    }

    /// Writes the state after `step` (counted from 1) and removes checkpoints beyond `keep`.
    pub fn save(&self, step: u64, parameters: &Parameters, optimizer: &Optimizer) -> Result<()> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(io(&self.folder))?;
        let staged = ledger::files::StagedDir::create(&self.folder.join(name(step)))?;
        let values = parameters
            .0
            .iter()
            .map(|p| (p.name.clone(), p.value.clone()));
        let tensors: HashMap<String, Tensor> = values.chain(optimizer.state()).collect();
        let file = staged.path().join(TENSORS);
        candle_core::safetensors::save(&tensors, &file)?;
        let state = State {
            step,
            run: self.run.clone(),
            sha256: ledger::hash::sha256_file(&file)?,
        };
        let json = serde_json::to_vec_pretty(&state).expect("a map of strings is JSON");
        let file = staged.path().join(STATE);
        std::fs::write(&file, json).map_err(io(&file))?;
        staged.commit()?;
        for (_, old) in self.list()?.iter().rev().skip(self.keep) {
            std::fs::remove_dir_all(old).map_err(io(old))?;
        }
        Ok(())
    }

    /// Restores the newest checkpoint into `parameters` and `optimizer`; answers its step, 0 where there is none.
    pub fn restore(&self, parameters: &mut Parameters, optimizer: &mut Optimizer) -> Result<u64> {
        let Some((step, path)) = self.list()?.pop() else {
            return Ok(0);
        };
        let bad = |problem: String| Error::Checkpoint {
            path: path.clone(),
            problem,
        };
        let text = std::fs::read(path.join(STATE)).map_err(|e| bad(format!("{STATE}: {e}")))?;
        let state: State =
            serde_json::from_slice(&text).map_err(|e| bad(format!("{STATE}: {e}")))?;
        if state.step != step {
            return Err(bad(format!(
                "its folder says step {step}, its state step {}",
                state.step
            )));
        }
        self.refuse_other_run(&path, &state.run)?;
        let file = path.join(TENSORS);
        if ledger::hash::sha256_file(&file)? != state.sha256 {
            return Err(bad(format!(
                "{TENSORS} has changed since it was written (SHA-256 differs)"
            )));
        }
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)?;
        let get = |name: &str, like: &Tensor| -> Result<Tensor> {
            let t = tensors
                .get(name)
                .ok_or_else(|| bad(format!("tensor {name} is missing")))?;
            if t.shape() != like.shape() || t.dtype() != like.dtype() {
                return Err(bad(format!(
                    "tensor {name} is {:?} {:?}",
                    t.dtype(),
                    t.shape()
                )));
            }
            Ok(t.clone())
        };
        for p in &parameters.0 {
            // In place: the layers hold clones of this tensor and must see the restored value.
            p.value.slice_set(&get(&p.name, &p.value)?, 0, 0)?;
        }
        optimizer.load_state(get)?;
        Ok(step)
    }

    fn refuse_other_run(&self, path: &Path, theirs: &BTreeMap<String, String>) -> Result<()> {
        let absent = || "absent".to_owned();
        let differing: BTreeMap<_, _> = theirs
            .keys()
            .chain(self.run.keys())
            .filter(|key| theirs.get(*key) != self.run.get(*key))
            .map(|key| {
                let value =
                    |map: &BTreeMap<String, String>| map.get(key).cloned().unwrap_or_else(absent);
                (key.clone(), (value(theirs), value(&self.run)))
            })
            .collect();
        if differing.is_empty() {
            Ok(())
        } else {
            Err(Error::OtherRun {
                path: path.to_owned(),
                differing,
            })
        }
    }

    /// Finished checkpoints, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(source) => {
                return Err(Error::Io {
                    path: self.folder.clone(),
                    source,
                });
            }
        };
        for entry in entries {
            let entry = entry.map_err(|source| Error::Io {
                path: self.folder.clone(),
                source,
            })?;
            let name = entry.file_name();
            if let Some(step) = name
                .to_str()
                .and_then(|n| n.strip_prefix("step-")?.parse().ok())
            {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

fn name(step: u64) -> String {
    format!("step-{step:08}")
}
