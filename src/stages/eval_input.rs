//! What an evaluation depends on: of the stage as a whole, and of one model's answers.

use std::collections::BTreeMap;

use adapters::Weights;
use anyhow::Result;
use eval::recipe::OtherModel;
use finetune::Base;
use ledger::recipe as language;
use ledger::{AccessClass, FileHash, Manifest};
use serde_json::{Value, json};

use super::endpoints::what_answers;
use super::{Tuned, Work, asked_by};
use crate::plan::{Plan, PlannedTask};
use crate::run::{PROGRAM_VERSION, StageInput, access_of, cpu_level};

impl Work<'_> {
    /// What the stage reads, and how it is set.
    pub(super) fn eval_input(&mut self, made: &BTreeMap<&str, Manifest>) -> Result<StageInput> {
        let recipe = self.plan.recipe();
        let section = recipe.eval.clone().unwrap_or_default();
        let mut inputs = Vec::new();
        if self.plan.has_model() {
            inputs.push(self.base_hash()?);
        }
        for model in section.model.iter().enumerate() {
            inputs.extend(self.other_inputs(model)?);
        }
        inputs.extend(self.endpoint_inputs()?);
        inputs.extend(
            self.encoder
                .iter()
                .flat_map(|encoder| encoder.inputs.clone()),
        );
        for (stage, manifest) in made {
            let outputs = manifest.outputs.iter();
            inputs.extend(outputs.map(|file| FileHash {
                path: format!("{stage}/{}", file.path),
                ..file.clone()
            }));
        }
        if let Some(adapter) = self.given_adapter() {
            let files = FileHash::tree(&adapter)?.into_iter();
            inputs.extend(files.map(|file| FileHash {
                path: format!("given/{}", file.path),
                ..file
            }));
        }
        let (items, tasks) = what_is_asked(self.plan, &self.plan.tasks)?;
        inputs.extend(items);
        inputs.sort();
        inputs.dedup();
        let mut settings = serde_json::to_value(&section)?;
        if let Some(settings) = settings.as_object_mut() {
            // How many are asked at a time changes no answer.
            settings.remove("batch_items");
            if let Some(endpoints) = settings.get_mut("endpoint") {
                what_answers(endpoints);
            }
            if let Some(encoder) = &mut self.encoder {
                // Its files are inputs by their content.
                let signature = encoder.scorer().signature();
                settings.insert("bert_score".into(), signature.into());
            }
            if let Some(models) = settings.get_mut("model") {
                // Their weights are inputs by their content.
                *models = section
                    .model
                    .iter()
                    .map(|model| json!(model.name))
                    .collect();
            }
            if self.plan.reveal {
                settings.insert("reveal".into(), true.into());
            }
            settings.insert("tasks".into(), json!(tasks));
            settings.insert("dtype".into(), json!(recipe.model.dtype));
            if let Some(template) = settings.remove("template") {
                settings.insert("asked_template".into(), template);
            }
            settings.insert(
                "template".into(),
                json!(recipe.data.as_ref().map(|data| data.template)),
            );
            settings.insert(
                "max_seq_len".into(),
                json!(recipe.data.as_ref().map(|data| data.max_seq_len)),
            );
        }
        Ok(StageInput {
            stage: "eval",
            inputs,
            settings,
        })
    }

    /// `eval.model` with this number.
    pub(super) fn other(&self, i: usize) -> Tuned {
        let mut models = self.plan.recipe().eval.iter().flat_map(|eval| &eval.model);
        let model = models.nth(i);
        let resolve = |key: &str, path: &str| {
            let key = format!("eval.model[{i}].{key}");
            self.plan.document.folder_of(&key).join(path)
        };
        Tuned {
            base: Base::Path(model.map_or_else(Default::default, |m| resolve("path", &m.path))),
            adapter: model
                .and_then(|model| model.adapter.as_deref())
                .map(|path| resolve("adapter", path)),
        }
    }

    fn other_inputs(&mut self, (i, model): (usize, &OtherModel)) -> Result<Vec<FileHash>> {
        let other = self.other(i);
        let mut inputs = vec![FileHash {
            path: format!("model/{}", model.name),
            sha256: self.weights_hash(&other.base)?,
            bytes: 0,
        }];
        for file in other.adapter.iter().map(|folder| FileHash::tree(folder)) {
            inputs.extend(file?.into_iter().map(|file| FileHash {
                path: format!("model/{}/adapter/{}", model.name, file.path),
                ..file
            }));
        }
        Ok(inputs)
    }

    fn weights_hash(&mut self, base: &Base) -> Result<String> {
        match (base, &self.plan.base) {
            (Base::Path(path), Base::Path(own)) if path == own => Ok(self.base_hash()?.sha256),
            (Base::Path(path), _) => Ok(Weights::open(path)?.fingerprint()?),
            _ => Ok(self.base_hash()?.sha256),
        }
    }

    /// What a model's answers depend on, for its journals.
    pub(super) fn identity(&mut self, model: &Tuned) -> Result<Value> {
        let recipe = self.plan.recipe();
        let mut settings = serde_json::to_value(&recipe.model)?;
        if let Some(settings) = settings.as_object_mut() {
            for path in ["path", "adapter", "config", "tokenizer"] {
                settings.remove(path);
            }
        }
        let adapter = model.adapter.as_deref().map(FileHash::tree).transpose()?;
        Ok(json!({
            "weights": self.weights_hash(&model.base)?,
            "adapter": adapter,
            "settings": settings,
            "template": asked_by(recipe),
            "program": PROGRAM_VERSION,
            "cpu_level": cpu_level(),
        }))
    }
}

/// What tasks read, by content, and what they say.
pub(super) fn what_is_asked(
    plan: &Plan,
    planned: &[PlannedTask],
) -> Result<(Vec<FileHash>, Vec<Value>)> {
    let (mut inputs, mut tasks) = (Vec::new(), Vec::new());
    for planned in planned {
        for source in planned.tasks[0].sources() {
            for file in datasets::files::source_files(source, &plan.data_root)? {
                inputs.push(FileHash::of(&file.path, format!("items/{}", file.name))?);
            }
        }
        let file = language::read::<eval::TaskFile>(&planned.file, &[])?;
        // A file's ways of answering that are asked, with their shots.
        let tasks_of_file = planned.tasks.iter();
        let names: Vec<&str> = tasks_of_file.map(|task| task.name.as_str()).collect();
        tasks.push(json!({"limit": planned.limit, "names": names, "task": file.value}));
    }
    Ok((inputs, tasks))
}

/// The terms that a model comes under.
pub(super) fn access_of_model(model: &Tuned) -> AccessClass {
    let adapter = model.adapter.as_deref();
    let adapter = adapter.map_or(AccessClass::Open, access_of);
    match model.base.stored() {
        Base::Path(path) => adapter.max(access_of(path)),
        _ => adapter,
    }
}
