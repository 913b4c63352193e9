//! Base and adapter to a proven model: what `medtune merge`, the merge stage and `medtune verify` share.

use std::path::Path;
use std::time::Instant;

use adapters::recipe::{ComputeDtype, MergeSection, Onto, Verify};
use adapters::{
    BaseIdentity, ExportOptions, MergeOptions, MergeReport, Method, PeftAdapter,
    QuantizationDifference,
};
use anyhow::Result;
use finetune::{Base, Checkpoint, LogitProof, Probed, compare_logits};
use ledger::FileHash;
use serde_json::{Value, json};

use crate::stages::companions;
use crate::terminal::{bar, bytes, note};

const MB: u64 = 1_000_000;

/// What is merged, and how.
pub struct Merging<'a> {
    /// The base as training saw it, or, to subtract, the merged model.
    pub base: &'a Base,
    /// The adapter's folder.
    pub adapter: &'a Path,
    pub section: &'a MergeSection,
    /// Take the adapter out instead.
    pub subtract: bool,
    /// Merge onto a base that is not the adapter's, and record it.
    pub force: bool,
}

/// What was merged into a folder.
pub struct Merged {
    /// The adapter as it was loaded.
    pub adapter: PeftAdapter,
    pub report: MergeReport,
    pub logits: Option<LogitProof>,
    /// Of a quantized base, where the adapter went onto the stored one.
    pub onto_stored: Option<OntoStored>,
    /// In what the base is not the adapter's, where that was forced.
    pub forced: Vec<String>,
    /// Seconds that the proof of the logits took.
    pub logits_secs: f64,
}

/// How the stored base differs from the quantized one that training saw.
#[derive(serde::Serialize)]
pub struct OntoStored {
    #[serde(flatten)]
    pub weights: QuantizationDifference,
    /// Base as trained + adapter against the merged model.
    pub logits: LogitProof,
}

impl Merging<'_> {
    /// Writes the model's files into `dir`, which the caller has made and will answer for.
    pub fn write(&self, dir: &Path) -> Result<Merged> {
        let trained = Checkpoint::open(self.base)?;
        let loaded = PeftAdapter::load(self.adapter)?;
        let identity = trained.identity();
        for remark in remarks(&loaded, &trained, &identity)? {
            note(&format!("merge  note: {remark}"));
        }
        // Once its base is known to be the right one, or was forced, nothing more is to be compared.
        let unchecked = loaded.clone().without_belonging();
        let adapter = if self.force {
            &unchecked
        } else {
            loaded.check_base(&identity)?;
            &loaded
        };
        let onto_stored = self.section.onto == Onto::Stored && self.base.stored() != self.base;
        let stored = onto_stored
            .then(|| Checkpoint::open(self.base.stored()))
            .transpose()?;
        let base = stored.as_ref().unwrap_or(&trained);
        let bar = bar(1, "merge, MB");
        let options = MergeOptions {
            export: ExportOptions {
                dtype: self.section.dtype.map(Into::into),
                max_shard_bytes: self.section.max_shard_bytes,
                companions: companions(base)?,
            },
            verify: self.section.verify,
            subtract: self.subtract,
            progress: Some(&|done, total| {
                bar.set_length(total / MB);
                bar.set_position(done / MB);
            }),
        };
        let report = adapters::merge_into(&base.weights, adapter, dir, &options);
        bar.finish_and_clear();
        let report = report?;
        let forced = match &loaded.belonging {
            Some(belonging) if self.force && !self.subtract => {
                let mut found = belonging.check(&identity);
                found.extend(belonging.check_weights(&report.fingerprint));
                found.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        if report.dequantized {
            note(
                "merge  the adapted layers of the base were quantized: they were widened, as training saw them",
            );
        }
        for warning in report.proof.iter().flat_map(|proof| proof.warnings()) {
            note(&format!("merge  warning: {warning}"));
        }
        let started = Instant::now();
        let logits = match (self.section.verify, self.subtract) {
            (Verify::None | Verify::Tensors, _) => None,
            (_, false) => Some(prove(base, &unchecked, dir)?),
            // What is left, with the adapter on it again, is what it was taken out of.
            (_, true) => {
                let left = Checkpoint::open(&Base::Path(dir.to_owned()))?;
                Some(compare(&left, &unchecked, base)?)
            }
        };
        if let Some(problem) = logits.as_ref().and_then(LogitProof::problem) {
            let problems = vec![problem];
            return Err(adapters::Error::ProofFailed { problems }.into());
        }
        let onto_stored = match &stored {
            Some(stored) => Some(OntoStored {
                weights: adapters::quantization_difference(
                    &stored.weights,
                    &trained.weights,
                    &unchecked,
                )?,
                logits: prove(&trained, &unchecked, dir)?,
            }),
            None => None,
        };
        Ok(Merged {
            adapter: loaded,
            report,
            logits,
            onto_stored,
            forced,
            logits_secs: started.elapsed().as_secs_f64(),
        })
    }
}

impl Merged {
    /// What the manifest states.
    pub fn details(&self) -> Result<Value> {
        let mut details = serde_json::to_value(&self.report)?;
        for (key, value) in [
            ("logits", self.logits.as_ref().map(serde_json::to_value)),
            (
                "onto_stored",
                self.onto_stored.as_ref().map(serde_json::to_value),
            ),
        ] {
            if let Some(value) = value.transpose()? {
                details[key] = value;
            }
        }
        if !self.forced.is_empty() {
            details["forced"] = json!(self.forced);
        }
        Ok(details)
    }

    /// What the machine did, for `measured.json`.
    pub fn facts(&self) -> Value {
        json!({"logits_secs": self.logits_secs})
    }

    /// The files whose hashes are known.
    pub fn files(&self) -> &[FileHash] {
        &self.report.files
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let report = &self.report;
        let proven = match &report.proof {
            Some(proof) if proof.read_back => "proven from the files, ",
            Some(_) => "proven, ",
            None => "not proven, ",
        };
        let (targeted, tensors, size) = (report.targeted, report.tensors, bytes(report.bytes));
        let mut line = format!("{targeted} of {tensors} tensors changed, {proven}{size}");
        if let Some(onto) = &self.onto_stored {
            line.push_str(&format!(
                "; the stored base differs from the one that training saw by {:.1e} of its weights' norm, {:.2} times the adapter's change",
                onto.weights.relative_to_weights, onto.weights.relative_to_change
            ));
        }
        line
    }
}

/// What is worth a line before an adapter goes onto a base.
fn remarks(
    adapter: &PeftAdapter,
    base: &Checkpoint,
    identity: &BaseIdentity,
) -> Result<Vec<String>> {
    let Some(belonging) = &adapter.belonging else {
        return Ok(adapter.unchecked_base().into_iter().collect());
    };
    Ok(belonging.notes(identity, Some(&base.tokenizer.fingerprint()?)))
}

/// Asks base + adapter and the merged model in `merged` the same probes.
pub fn prove(base: &Checkpoint, adapter: &PeftAdapter, merged: &Path) -> Result<LogitProof> {
    let merged = Checkpoint::open(&Base::Path(merged.to_owned()))?;
    compare(base, adapter, &merged)
}

fn compare(base: &Checkpoint, adapter: &PeftAdapter, merged: &Checkpoint) -> Result<LogitProof> {
    let compute = ComputeDtype::F32.into();
    let (with_adapter, _) = base.decoder(compute, Method::Frozen, Some(adapter.clone()), 0)?;
    let (alone, _) = merged.decoder(compute, Method::Frozen, None, 0)?;
    let stored = adapter.modules().find_map(|module| {
        let view = merged.weights.view(&format!("{module}.weight"));
        view.ok()?.float_dtype()
    });
    let with_adapter = Probed {
        decoder: &with_adapter,
        weights: &base.weights,
    };
    let alone = Probed {
        decoder: &alone,
        weights: &merged.weights,
    };
    Ok(compare_logits(
        with_adapter,
        alone,
        stored.unwrap_or(compute),
    )?)
}
