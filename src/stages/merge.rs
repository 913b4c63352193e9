//! The merge stage: base + adapter as one model, proven tensor by tensor, and looked over where that is asked for.

use std::path::Path;

use anyhow::Result;
use finetune::{Base, ValidationTask};
use ledger::files::StagedDir;
use ledger::{FileHash, Manifest};
use serde_json::{Value, json};

use super::eval_input::what_is_asked;
use super::evaluate::asked;
use super::{Tuned, Work, asked_by, done};
use crate::merging::Merging;
use crate::plan::Stage;
use crate::quick::QuickValidation;
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
        let mut settings = serde_json::to_value(&section)?;
        inputs.extend(self.what_looks(&mut settings)?);
        let input = StageInput {
            stage: "merge",
            inputs,
            settings,
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
        let mut details = merged.details()?;
        if !self.plan.merge_tasks.is_empty() {
            details["validation"] = self.look_over(staged.path())?;
        }
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

    /// What the quick validation depends on: inputs, and settings into those of the stage.
    fn what_looks(&self, settings: &mut Value) -> Result<Vec<FileHash>> {
        if self.plan.merge_tasks.is_empty() {
            return Ok(Vec::new());
        }
        let recipe = self.plan.recipe();
        let (mut inputs, tasks) = what_is_asked(self.plan, &self.plan.merge_tasks)?;
        if let Some(data) = Manifest::read(&self.run.folder("data"))? {
            inputs.extend(data.outputs.into_iter().map(|file| FileHash {
                path: format!("data/{}", file.path),
                ..file
            }));
        }
        inputs.sort();
        inputs.dedup();
        let eval = recipe.eval.clone().unwrap_or_default();
        let data = recipe.data.as_ref();
        settings["validation"] = json!({
            "tasks": tasks,
            "seed": eval.seed,
            "shots": eval.shots,
            "resamples": eval.resamples,
            "dtype": recipe.model.dtype,
            "template": data.map(|data| data.template),
            "max_seq_len": data.map(|data| data.max_seq_len),
        });
        if let Some(template) = eval.template {
            settings["validation"]["asked_template"] = json!(template);
        }
        Ok(inputs)
    }

    /// Asks base and merged model a few items, and says what came of it.
    fn look_over(&self, merged: &Path) -> Result<Value> {
        let recipe = self.plan.recipe();
        let eval = recipe.eval.clone().unwrap_or_default();
        let held_out = match &recipe.data {
            Some(section) if self.plan.stages.contains(&Stage::Data) => {
                let built = datasets::load_built(&self.run.folder("data"))?;
                Some((built.validation, section.clone()))
            }
            _ => None,
        };
        let tasks = asked(self.plan, &self.plan.merge_tasks, "merge")?;
        let look = QuickValidation {
            tasks: tasks
                .into_iter()
                .map(|asked| ValidationTask {
                    task: asked.task.clone(),
                    items: eval::asked_items(asked.items, asked.limit, eval.seed),
                })
                .collect(),
            held_out,
            compute: recipe.model.dtype,
            template: asked_by(recipe),
            bootstrap: eval.bootstrap(),
            batch_items: eval.batch_items,
        };
        // Before tuning: the base, and the adapter that tuning went on from.
        let base = Tuned {
            base: self.plan.base.clone(),
            adapter: self.given_adapter().filter(|_| recipe.train.is_some()),
        };
        let merged = Tuned {
            base: Base::Path(merged.to_owned()),
            adapter: None,
        };
        let look = look.run(&base, &merged)?;
        look.show();
        Ok(look.details)
    }
}
