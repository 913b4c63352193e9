//! The merge stage: base + adapter as one model, proven tensor by tensor.

use anyhow::Result;
use ledger::files::StagedDir;
use ledger::{FileHash, Manifest};

use super::{Work, done};
use crate::merging::Merging;
use crate::run::{Clock, StageInput, access_of};

impl Work<'_> {
    pub(super) fn merge(&mut self) -> Result<Manifest> {
        let section = self.plan.recipe().merge.clone().unwrap_or_default();
        let adapter = match self.plan.recipe().train {
            Some(_) => self.run.folder("adapter"),
            None => self.given_adapter().unwrap_or_default(),
        };
        let mut inputs = vec![self.base_hash()?];
        inputs.extend(FileHash::tree_as(&adapter, "adapter/")?);
        let input = StageInput {
            stage: "merge",
            inputs,
            settings: serde_json::to_value(&section)?,
        };
        if let Some(manifest) = self.run.kept("merged", &input)? {
            return Ok(manifest);
        }
        let clock = Clock::start();
        let staged = StagedDir::create(&self.run.folder("merged"))?;
        let merging = Merging {
            base: &self.plan.base,
            adapter: &adapter,
            section: &section,
            subtract: false,
            force: false,
        };
        let merged = merging.write(staged.path())?;
        let access = access_of(&adapter).max(self.base_access());
        let details = merged.details()?;
        let manifest = input.manifest_with(staged.path(), merged.files(), access, details)?;
        manifest.write(staged.path())?;
        clock.write(staged.path(), merged.facts())?;
        staged.commit()?;
        done(
            "merge",
            &format!("{}, in {}", merged.summary(), clock.shown()),
        );
        Ok(manifest)
    }
}
