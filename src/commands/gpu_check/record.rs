//! What a check found, as a file and as tables.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kernels::cuda::GpuFacts;
use ledger::files::write_atomic;
use serde::{Deserialize, Deserializer, Serialize};

use super::table::number;
use crate::args::VERSION;
use crate::failure::Failure;

/// The format of the file.
const FORMAT: u32 = 1;

/// A check of one device by one build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub format: u32,
    /// The version of medtune.
    pub medtune: String,
    pub device: DeviceRecord,
    /// Why none of this is a measurement, where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<String>,
    /// In the order in which they are run.
    pub stages: Vec<StageRecord>,
}

/// A device as the driver says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRecord {
    pub name: String,
    pub compute_capability: String,
    pub driver_cuda: String,
    pub built_with_cuda: String,
    pub memory_bytes: u64,
    pub multiprocessors: u32,
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A proof that holds.
    Passed,
    /// A proof that does not hold, or a stage that did not reach its end.
    Failed,
    /// Figures without a proof.
    Measured,
    /// Not done, for the reason given.
    Skipped,
}

/// What a stage found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    pub stage: String,
    pub outcome: Outcome,
    /// Why it was skipped or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// When it began, `2026-11-23 06:08 UTC`.
    #[serde(default)]
    pub date: String,
    #[serde(default)]
    pub secs: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<Figure>,
    /// What is wrong, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it is of.
    pub what: String,
    /// What is not finite is `null` in the file, as it has no digits.
    #[serde(deserialize_with = "null_is_infinite")]
    pub value: f64,
    pub unit: String,
    /// Anything to know beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

fn null_is_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

impl Figure {
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            value,
            unit: unit.to_owned(),
            note: String::new(),
        }
    }

    pub fn note(self, note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            ..self
        }
    }
}

impl StageRecord {
    pub fn new(stage: &str, outcome: Outcome) -> Self {
        Self {
            stage: stage.to_owned(),
            outcome,
            why: String::new(),
            date: String::new(),
            secs: 0.0,
            seed: None,
            figures: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A proof: it holds where nothing is wrong.
    pub fn proof(stage: &str, figures: Vec<Figure>, failures: Vec<String>) -> Self {
        let outcome = match failures.is_empty() {
            true => Outcome::Passed,
            false => Outcome::Failed,
        };
        Self {
            figures,
            failures,
            ..Self::new(stage, outcome)
        }
    }

    pub fn measured(stage: &str, figures: Vec<Figure>) -> Self {
        Self {
            figures,
            ..Self::new(stage, Outcome::Measured)
        }
    }

    pub fn because(self, why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            ..self
        }
    }

    /// The value of one of its figures.
    pub fn value(&self, what: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.what == what)?;
        Some(figure.value)
    }
}

impl DeviceRecord {
    /// A GPU; the processor in its place where there is none.
    pub fn of(facts: Option<&GpuFacts>) -> Self {
        let Some(facts) = facts else {
            return Self {
                name: "the processor".into(),
                compute_capability: String::new(),
                driver_cuda: String::new(),
                built_with_cuda: String::new(),
                memory_bytes: 0,
                multiprocessors: 0,
            };
        };
        let (major, minor) = facts.compute_capability;
        Self {
            name: facts.name.clone(),
            compute_capability: format!("{major}.{minor}"),
            driver_cuda: facts.driver_cuda.clone(),
            built_with_cuda: facts.built_with_cuda.clone(),
            memory_bytes: facts.memory_bytes,
            multiprocessors: facts.multiprocessors,
        }
    }
}

impl Record {
    pub fn new(device: DeviceRecord, rehearsal: Option<String>) -> Self {
        Self {
            format: FORMAT,
            medtune: VERSION.to_owned(),
            device,
            rehearsal,
            stages: Vec::new(),
        }
    }

    /// Reads a record.
    pub fn read(path: &Path) -> Result<Self> {
        let record: Self = read_json(path)?;
        if record.format != FORMAT {
            let message = format!(
                "`{}` has format {}, and this version of medtune writes {FORMAT}",
                path.display(),
                record.format
            );
            return Err(Failure::user(message)
                .hint("give another file with --out")
                .into());
        }
        Ok(record)
    }

    /// The stages of a file that is of the same device, build and kind; none where there is no file.
    pub fn go_on_with(mut self, path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(self);
        }
        let before = Self::read(path)?;
        let kind = |record: &Self| match &record.rehearsal {
            Some(_) => "a rehearsal",
            None => "a check",
        };
        let what = |record: &Self| {
            let (name, version) = (&record.device.name, &record.medtune);
            format!("{} of {name} by medtune {version}", kind(record))
        };
        let same = before.device == self.device && what(&before) == what(&self);
        if !same {
            let message = format!(
                "`{}` is {}, and this is {}",
                path.display(),
                what(&before),
                what(&self)
            );
            return Err(Failure::user(message)
                .hint("give another file with --out, or remove that one")
                .into());
        }
        self.stages = before.stages;
        Ok(self)
    }

    /// Puts a stage in, for what an earlier run of it found.
    pub fn put(&mut self, stage: StageRecord) {
        match self.stages.iter_mut().find(|s| s.stage == stage.stage) {
            Some(before) => *before = stage,
            None => self.stages.push(stage),
        }
    }

    /// A stage that was run.
    pub fn stage(&self, name: &str) -> Option<&StageRecord> {
        self.stages.iter().find(|stage| stage.stage == name)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(write_atomic(
            path,
            format!("{:#}\n", serde_json::to_value(self)?).as_bytes(),
        )?)
    }

    /// Lines for a table of results: date, commit, machine, threads, what, with, without, ratio, unit, command.
    pub fn results(&self) -> Result<String> {
        let refuse = |message: &str, hint: &str| Err(Failure::user(message).hint(hint).into());
        if let Some(why) = &self.rehearsal {
            return refuse(
                &format!("this is a rehearsal: {why}"),
                "only what was measured on a GPU belongs into the results",
            );
        }
        for proof in ["ops", "gradients", "train"] {
            match self.stage(proof).map(|stage| stage.outcome) {
                Some(Outcome::Passed) => {}
                Some(_) => {
                    return refuse(
                        &format!("`{proof}` has not passed"),
                        "figures of what is wrong are not kept; --out names the record with what failed",
                    );
                }
                None => {
                    return refuse(
                        &format!("`{proof}` was not run"),
                        "run it with the same --out first: figures belong to what is proven",
                    );
                }
            }
        }
        let commit = self.medtune.split_once('(').map_or("", |(_, rest)| rest);
        let commit = commit.trim_end_matches(')');
        let field = |text: &str| text.replace(',', ";").replace('\n', " ");
        let mut lines = String::new();
        for stage in &self.stages {
            // How near a proof was is no result, and what did not learn is none.
            if stage.outcome != Outcome::Measured {
                continue;
            }
            let date = stage.date.split(' ').next().unwrap_or_default();
            for figure in &stage.figures {
                let (what, unit) = (field(&figure.what), field(&figure.unit));
                lines.push_str(&format!(
                    "{date},{commit},{},,{}: {what},{},,,{unit},scripts/gpu-check {}\n",
                    field(&self.device.name),
                    stage.stage,
                    number(figure.value),
                    stage.stage,
                ));
            }
        }
        Ok(lines)
    }
}

/// Reads JSON that a user names.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let failure = Failure::user(format!("`{}` is no record: {e}", path.display()));
        failure
            .hint("records are written by medtune gpu-check --out")
            .into()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record() -> Record {
        let device = DeviceRecord {
            name: "NVIDIA H200".into(),
            compute_capability: "9.0".into(),
            driver_cuda: "13.0".into(),
            built_with_cuda: "13.0".into(),
            memory_bytes: 150_110_000_000,
            multiprocessors: 132,
        };
        let mut record = Record {
            medtune: "0.1.0 (abcdef1)".into(),
            ..Record::new(device, None)
        };
        for proof in ["ops", "gradients", "train"] {
            record.put(StageRecord {
                date: "2026-11-23 06:08 UTC".into(),
                secs: 12.3,
                seed: Some(7),
                figures: vec![Figure::new("rms_norm", 0.25, "of what is allowed")],
                ..StageRecord::new(proof, Outcome::Passed)
            });
        }
        record.put(StageRecord {
            date: "2026-11-24 06:08 UTC".into(),
            secs: 3.0,
            figures: vec![
                Figure::new("copy", 4012.34, "GB/s").note("4 GiB, read and written"),
                Figure::new("bf16 product, 8192", 781.2, "TFLOP/s"),
            ],
            ..StageRecord::new("ceilings", Outcome::Measured)
        });
        record
    }

    #[test]
    fn a_record_is_read_as_it_was_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("check.json");
        let mut record = record();
        record.stages[0].figures[0].value = f64::INFINITY;
        record.write(&path)?;
        assert_eq!(Record::read(&path)?, record);
        let mut more = Record {
            stages: Vec::new(),
            ..record.clone()
        }
        .go_on_with(&path)?;
        assert_eq!(more, record);
        // A stage that is run again stands for the one before.
        more.put(StageRecord::new("ops", Outcome::Failed));
        assert_eq!(more.stages.len(), record.stages.len());

        record.rehearsal = Some("tiny sizes".into());
        let refused = record.go_on_with(&path).expect_err("of another kind");
        let refused =
            crate::failure::describe(&refused).replace(&path.display().to_string(), "check.json");
        insta::assert_snapshot!(refused, @"
        error: `check.json` is a check of NVIDIA H200 by medtune 0.1.0 (abcdef1), and this is a rehearsal of NVIDIA H200 by medtune 0.1.0 (abcdef1)
        hint: give another file with --out, or remove that one
        ");
        fs::write(&path, "{}")?;
        assert!(Record::read(&path).is_err());
        Ok(())
    }

    #[test]
    fn only_measurements_of_what_is_proven_are_results() -> Result<()> {
        let record = record();
        insta::assert_snapshot!(record.results()?, @"
        2026-11-24,abcdef1,NVIDIA H200,,ceilings: copy,4012,,,GB/s,scripts/gpu-check ceilings
        2026-11-24,abcdef1,NVIDIA H200,,ceilings: bf16 product; 8192,781.2,,,TFLOP/s,scripts/gpu-check ceilings
        ");
        let refused = |change: fn(&mut Record)| {
            let mut record = record.clone();
            change(&mut record);
            crate::failure::describe(&record.results().expect_err("refused"))
        };
        let all = [
            refused(|r| r.rehearsal = Some("tiny sizes".into())),
            refused(|r| r.put(StageRecord::new("train", Outcome::Failed))),
            refused(|r| r.put(StageRecord::new("ops", Outcome::Skipped))),
            refused(|r| r.stages.retain(|s| s.stage != "gradients")),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        error: this is a rehearsal: tiny sizes
        hint: only what was measured on a GPU belongs into the results
        error: `train` has not passed
        hint: figures of what is wrong are not kept; --out names the record with what failed
        error: `ops` has not passed
        hint: figures of what is wrong are not kept; --out names the record with what failed
        error: `gradients` was not run
        hint: run it with the same --out first: figures belong to what is proven
        ");
        Ok(())
    }
}
