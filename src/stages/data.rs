//! The data stage: sources to training and validation samples.

use std::path::Path;

use anyhow::Result;
use ledger::Manifest;
use ledger::files::StagedDir;
use serde_json::{Value, json};

use super::{Work, done};
use crate::run::{Clock, StageInput};
use crate::terminal::count;

impl Work<'_> {
    pub(super) fn data(&mut self) -> Result<Manifest> {
        let recipe = self.plan.recipe();
        let section = recipe.data.clone().unwrap_or_default();
        let data_root = &self.plan.data_root;
        let input = StageInput {
            stage: "data",
            inputs: datasets::inputs(&section, data_root)?,
            // How samples become tokens is training's concern: another max_seq_len builds nothing anew.
            settings: json!({
                "source": section.source,
                "validation": section.validation,
                "validation_fraction": section.validation_fraction,
                "seed": recipe.seed,
            }),
        };
        if let Some(manifest) = self.run.kept("data", &input)? {
            return Ok(manifest);
        }
        let clock = Clock::start();
        let staged = StagedDir::create(&self.run.folder("data"))?;
        let built = datasets::build(&section, data_root, staged.path(), recipe.seed)?;
        let mut manifest = input.manifest(staged.path(), built.access, Value::Null)?;
        manifest.counts = built.counts;
        manifest.write(staged.path())?;
        clock.write(
            staged.path(),
            json!({"data_root": std::path::absolute(Path::new(".").join(data_root)).ok()}),
        )?;
        staged.commit()?;
        let number = |name: &str| count(manifest.counts.get(name).copied().unwrap_or(0));
        let what = format!(
            "{} training and {} validation samples, in {}",
            number("train"),
            number("validation"),
            clock.shown()
        );
        done("data", &what);
        Ok(manifest)
    }
}
