//! A run: a folder with a subfolder for each stage, and in it what the stage was made from.
//!
//! ```text
//! runs/NAME/  data/     train.jsonl, validation.jsonl, dropped.jsonl
//!             train/    steps.jsonl, tensorboard/, checkpoints/
//!             adapter/  the adapter in PEFT's files; or model/, where every weight was trained
//!             merged/   base + adapter as a Hugging Face folder
//!             eval/     report.json
//!             eval.journal/  what an unfinished evaluation has been answered
//!             report.html  all of it as one page, anew after every run
//! ```
//!
//! `manifest.json` lies beside what a stage made, so an adapter that is copied elsewhere carries its terms along.
//! `train/` has none: its logs hold times, and its checkpoints are not a result. `measured.json` holds what differs
//! from one run to the next of the same recipe, and is in no hash. A stage is kept where its manifest says that it
//! would come out the same. The manifest's version is the package's, without the commit, so that an update of
//! documentation does not undo a training of days; `--fresh` runs a stage again all the same.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use ledger::{AccessClass, FileHash, MEASURED_FILE, Manifest};
use serde_json::{Value, json};

use crate::args::VERSION;
use crate::failure::Failure;
use crate::terminal::{duration, note};

/// The version that manifests record.
pub const PROGRAM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A run's folder, held by this process.
pub struct RunFolder {
    path: PathBuf,
    fresh: bool,
    /// Let go of when the process ends, however it ends.
    _lock: File,
}

/// What a stage depends on, and what it will be called.
pub struct StageInput {
    /// `data`, `train`, ...
    pub stage: &'static str,
    /// What it reads, by content.
    pub inputs: Vec<FileHash>,
    /// Its resolved settings.
    pub settings: Value,
}

impl RunFolder {
    /// Makes the folder if it is not there, and keeps other processes out.
    pub fn open(path: &Path, fresh: bool) -> Result<Self> {
        ledger::files::create_dir_all(path)?;
        let lock_path = path.join(".lock");
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot write `{}`", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                fresh,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another medtune is working in `{}`", path.display());
                Err(Failure::user(message)
                    .hint("wait for it, or give another folder with --out")
                    .into())
            }
            Err(TryLockError::Error(source)) => {
                Err(source).with_context(|| format!("cannot lock `{}`", lock_path.display()))
            }
        }
    }

    /// A stage's folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether every stage is to run again.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The manifest of what a stage made before, if it would come out the same now. Says so, or why not.
    pub fn kept(&self, folder: &str, input: &StageInput) -> Result<Option<Manifest>> {
        let path = self.folder(folder);
        let Some(manifest) = Manifest::read(&path)? else {
            return Ok(None);
        };
        let stage = input.stage;
        if self.fresh {
            note(&format!("{stage:<6} runs again: --fresh"));
            return Ok(None);
        }
        match manifest.stage_changes(&path, &input.inputs, &input.settings, PROGRAM_VERSION) {
            Some(reason) => {
                note(&format!("{stage:<6} runs again: {reason}"));
                Ok(None)
            }
            None => {
                note(&format!(
                    "{stage:<6} kept: nothing it depends on has changed ({})",
                    path.display()
                ));
                Ok(Some(manifest))
            }
        }
    }
}

impl StageInput {
    /// The manifest of what the stage has written to `folder`.
    pub fn manifest(self, folder: &Path, access: AccessClass, details: Value) -> Result<Manifest> {
        self.manifest_with(folder, &[], access, details)
    }

    /// As [`Self::manifest`], where the hashes of some files are known.
    pub fn manifest_with(
        self,
        folder: &Path,
        known: &[FileHash],
        access: AccessClass,
        details: Value,
    ) -> Result<Manifest> {
        Ok(Manifest {
            stage: self.stage.to_owned(),
            program_version: PROGRAM_VERSION.to_owned(),
            inputs: self.inputs,
            settings: self.settings,
            outputs: FileHash::tree_with(folder, known)?,
            counts: Default::default(),
            access,
            details,
        })
    }
}

/// A stage's clock.
pub struct Clock(Instant);

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since, for people.
    pub fn shown(&self) -> String {
        duration(self.0.elapsed())
    }

    /// Writes `measured.json`: the time, the machine, and `facts`.
    pub fn write(&self, folder: &Path, facts: Value) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let measured = json!({
            "program": VERSION,
            "finished_unix_secs": now,
            "secs": self.0.elapsed().as_secs_f64(),
            "peak_memory_bytes": finetune::peak_memory_bytes(),
            "machine": {
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
                "cpu": cpu_name(),
                "threads": std::thread::available_parallelism().map_or(1, usize::from),
                "gpus": gpus(),
            },
            "facts": facts,
        });
        let text = format!("{measured:#}\n");
        Ok(ledger::files::write_atomic(
            &folder.join(MEASURED_FILE),
            text.as_bytes(),
        )?)
    }
}

/// What the CPU can do, as far as the arithmetic of training depends on it: same level, same bytes.
pub fn cpu_level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "x86-64-v4";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            return "x86-64-v3";
        }
    }
    std::env::consts::ARCH
}

/// The GPUs that were computed on.
fn gpus() -> Vec<Value> {
    let gpus = kernels::cuda::opened();
    gpus.iter().map(gpu).collect()
}

/// A GPU, for those who compare runs.
pub fn gpu(facts: &kernels::cuda::GpuFacts) -> Value {
    let (major, minor) = facts.compute_capability;
    json!({
        "ordinal": facts.ordinal,
        "name": facts.name,
        "compute_capability": format!("{major}.{minor}"),
        "driver_cuda": facts.driver_cuda,
        "built_with_cuda": facts.built_with_cuda,
        "memory_bytes": facts.memory_bytes,
        "multiprocessors": facts.multiprocessors,
    })
}

fn cpu_name() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The terms of a model's or an adapter's folder, as its manifest states them; those of a folder without one are its
/// publisher's, and open.
pub fn access_of(folder: &Path) -> AccessClass {
    Manifest::read(folder)
        .ok()
        .flatten()
        .map_or(AccessClass::Open, |manifest| manifest.access)
}
