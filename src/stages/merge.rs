//! The merge stage: base + adapter as one model, proven tensor by tensor.

use adapters::{ExportOptions, MergeOptions, PeftAdapter};
use anyhow::Result;
use finetune::Checkpoint;
use ledger::files::StagedDir;
use ledger::{FileHash, Manifest};
use serde_json::json;

use super::train::companions;
use super::{Work, done};
use crate::proof::require_logits;
use crate::run::{Clock, StageInput, access_of};
use crate::terminal::{bytes, note};

impl Work<'_> {
    pub(super) fn merge(&mut self) -> Result<Manifest> {
        let section = self.plan.recipe().merge.clone().unwrap_or_default();
        let adapter_folder = match self.plan.recipe().train {
            Some(_) => self.run.folder("adapter"),
            None => self.given_adapter().unwrap_or_default(),
        };
        let mut inputs = vec![self.base_hash()?];
        let files = FileHash::tree(&adapter_folder)?.into_iter();
        inputs.extend(files.map(|file| FileHash {
            path: format!("adapter/{}", file.path),
            ..file
        }));
        let input = StageInput {
            stage: "merge",
            inputs,
            settings: serde_json::to_value(&section)?,
        };
        if let Some(manifest) = self.run.kept("merged", &input)? {
            return Ok(manifest);
        }
        let clock = Clock::start();
        let checkpoint = Checkpoint::open(&self.plan.base)?;
        let adapter = PeftAdapter::load(&adapter_folder)?;
        let dtype = section.dtype.map(Into::into);
        let options = MergeOptions {
            export: ExportOptions {
                dtype,
                companions: companions(&checkpoint)?,
            },
            verify: section.verify,
        };
        let staged = StagedDir::create(&self.run.folder("merged"))?;
        let report = adapters::merge_into(&checkpoint.weights, &adapter, staged.path(), &options)?;
        for warning in report.proof.iter().flat_map(|proof| proof.warnings()) {
            note(&format!("merge  warning: {warning}"));
        }
        let mut details = serde_json::to_value(&report)?;
        if section.verify {
            let logits = require_logits(&checkpoint, &adapter, staged.path())?;
            details["logits"] = serde_json::to_value(&logits)?;
        }
        let access = access_of(&adapter_folder).max(self.base_access());
        let manifest = input.manifest(staged.path(), access, details)?;
        manifest.write(staged.path())?;
        clock.write(staged.path(), json!({}))?;
        staged.commit()?;
        let proven = if report.proof.is_some() {
            "proven, "
        } else {
            ""
        };
        let (targeted, tensors, size) = (report.targeted, report.tensors, bytes(report.bytes));
        done(
            "merge",
            &format!(
                "{targeted} of {tensors} tensors changed, {proven}{size}, in {}",
                clock.shown()
            ),
        );
        Ok(manifest)
    }
}
