//! One JSON line a step, and the same scalars for TensorBoard.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::files::write_atomic;
use serde::{Deserialize, Deserializer, Serialize};

use crate::task_scores::{Scores, scores_or_null};
use crate::tensorboard::EventWriter;
use crate::{Error, Result};

/// What one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Passes over the training set so far, this step included.
    pub epoch: f64,
    /// Mean negative log-likelihood a target token, in nats, before this step's update. What is not finite is `null` in
    /// the file, as it has no digits.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping; NaN where the step was left out.
    #[serde(deserialize_with = "null_is_nan")]
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
    /// Scores of the tasks that were asked after this step, by `TASK.METRIC`.
    #[serde(
        default,
        deserialize_with = "scores_or_null",
        skip_serializing_if = "Scores::is_empty"
    )]
    pub scores: Scores,
    /// The samples of a step that was left out because its loss or gradient was not finite.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub skipped_samples: Vec<String>,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Writer of `steps.jsonl` and `tensorboard/`.
pub struct StepLog {
    path: PathBuf,
    lines: File,
    events: EventWriter,
}

impl StepLog {
    /// Opens the logs of `folder`, to go on after `step`: lines beyond it, of steps that no checkpoint holds and that
    /// come again, are dropped, and so is the line that a kill cut short.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join("steps.jsonl");
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let kept = kept_lines(&path, step).map_err(io)?;
        write_atomic(&path, kept.as_bytes())?;
        let lines = File::options().append(true).open(&path).map_err(io)?;
        let events = EventWriter::open(&folder.join("tensorboard"), step, now_secs())?;
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
        self.lines
            .write_all(format!("{line}\n").as_bytes())
            .map_err(io)?;
        let mut scalars = vec![
            ("train/loss", report.loss),
            ("train/learning_rate", report.learning_rate),
            ("train/grad_norm", report.grad_norm),
            ("train/target_tokens", report.target_tokens as f64),
            ("train/tokens_per_sec", report.tokens_per_sec),
        ];
        scalars.extend(report.eval_loss.map(|loss| ("eval/loss", loss)));
        let tag = |name: &String| match name.rsplit_once('.') {
            Some((task, metric)) => format!("eval/{task}/{metric}"),
            None => format!("eval/{name}"),
        };
        let tags: Vec<String> = report.scores.keys().map(tag).collect();
        let values = report.scores.values().copied();
        scalars.extend(tags.iter().map(String::as_str).zip(values));
        self.events.scalars(report.step, now_secs(), &scalars)
    }

    /// Forces the lines to the disk: before a checkpoint, so that the log of a run that goes on from it has no gap.
    pub fn sync(&mut self) -> Result<()> {
        self.lines.sync_data().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })?;
        self.events.sync()
    }
}

/// The whole lines of steps up to `step`, each once.
fn kept_lines(path: &Path, step: u64) -> std::io::Result<String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        file => BufReader::new(file?),
    };
    let (mut kept, mut last) = (String::new(), 0);
    for line in file.split(b'\n') {
        let Ok(line) = String::from_utf8(line?) else {
            continue;
        };
        let Ok(report) = serde_json::from_str::<StepReport>(&line) else {
            continue;
        };
        if report.step > last && report.step <= step {
            last = report.step;
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

fn now_secs() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
