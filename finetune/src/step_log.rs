//! One JSON line a step, and the same scalars for TensorBoard.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::tensorboard::EventWriter;
use crate::{Error, Result};

/// What one optimizer step did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReport {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Passes over the training set so far, this step included.
    pub epoch: f64,
    /// Mean negative log-likelihood a target token, in nats, before this step's update.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens the model read (there is no padding).
    pub tokens: usize,
    /// Tokens that taught.
    pub target_tokens: usize,
    /// Tokens read a second.
    pub tokens_per_sec: f64,
    /// Held-out loss a target token after this step, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
}

/// Writer of `steps.jsonl` and `tensorboard/`.
pub struct StepLog {
    path: PathBuf,
    lines: BufWriter<File>,
    events: EventWriter,
}

impl StepLog {
    /// Opens the logs of `folder`. Lines beyond `step`, written after the checkpoint a run resumes from, are dropped.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join("steps.jsonl");
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let kept = match File::open(&path) {
            Err(_) => Vec::new(),
            Ok(file) => BufReader::new(file)
                .lines()
                .map_while(std::result::Result::ok)
                .filter(|line| {
                    serde_json::from_str::<StepReport>(line).is_ok_and(|r| r.step <= step)
                })
                .collect(),
        };
        let mut lines = BufWriter::new(File::create(&path).map_err(io)?);
        for line in kept {
            writeln!(lines, "{line}").map_err(io)?;
        }
        lines.flush().map_err(io)?;
        let events = EventWriter::create(&folder.join("tensorboard"), step, now_secs())?;
        Ok(Self {
            path,
            lines,
            events,
        })
    }

    /// Records one step.
    pub fn write(&mut self, report: &StepReport) -> Result<()> {
        let io = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        let line = serde_json::to_string(report).expect("numbers are JSON");
        writeln!(self.lines, "{line}")
            .and_then(|()| self.lines.flush())
            .map_err(io)?;
        let mut scalars = vec![
            ("train/loss", report.loss),
            ("train/learning_rate", report.learning_rate),
            ("train/grad_norm", report.grad_norm),
            ("train/target_tokens", report.target_tokens as f64),
            ("train/tokens_per_sec", report.tokens_per_sec),
        ];
        scalars.extend(report.eval_loss.map(|loss| ("eval/loss", loss)));
        self.events.scalars(report.step, now_secs(), &scalars)
    }
}

fn now_secs() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
