//! Models behind HTTP APIs: what they may be asked, and what the run records of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use eval::{Endpoint, EndpointSection};
use ledger::recipe::{Document, nearest};
use ledger::{AccessClass, FileHash};
use serde_json::{Value, json};

use super::evaluate::Asked;
use super::{Work, asked_by};
use crate::credentials;
use crate::plan::{PlannedTask, task_folders};
use crate::recipe::{Recipe, problem};
use crate::terminal::note;

/// Refuses, before anything runs, tasks that an endpoint cannot or must not be asked.
pub fn check(document: &Document<Recipe>, tasks: &[PlannedTask], folder: &Path) -> Result<()> {
    let Some(section) = &document.value.eval else {
        return Ok(());
    };
    let planned = || tasks.iter().flat_map(|planned| &planned.tasks);
    let names: Vec<&str> = planned().map(|task| task.name.as_str()).collect();
    for (i, endpoint) in section.endpoint.iter().enumerate() {
        for (j, name) in endpoint.tasks.iter().flatten().enumerate() {
            if !names.contains(&name.as_str()) {
                let key = format!("eval.endpoint[{i}].tasks[{j}]");
                let message = format!("`{key}` is {name:?}, which `eval.tasks` does not name");
                let hint = match nearest(name, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it names {}", names.join(", ")),
                };
                let problem = problem(document, &key, message, Some(&hint));
                return Err(ledger::Error::Recipe(vec![problem]).into());
            }
        }
        for task in planned().filter(|task| endpoint.asks(&task.name)) {
            let generative = format!("{}-generate", task.family);
            let known = names.contains(&generative.as_str())
                || eval::load_tasks(&generative, None, folder, &task_folders(folder)).is_ok();
            endpoint
                .check(task, known.then_some(generative))
                .map_err(eval::Error::from)?;
        }
    }
    Ok(())
}

impl Work<'_> {
    /// The endpoint with this number, with its key.
    pub(super) fn endpoint<'s>(
        &self,
        i: usize,
        section: &EndpointSection,
        stop: &'s AtomicBool,
    ) -> Result<Endpoint<'s>> {
        let recipe = self.plan.recipe();
        let tokenizer = self.tokenizer_folder(i, section);
        let template = asked_by(recipe);
        let section = section.clone();
        let made = Endpoint::new(section, tokenizer.as_deref(), template, recipe.seed, stop);
        Ok(made.map_err(eval::Error::from)?)
    }

    fn tokenizer_folder(&self, i: usize, section: &EndpointSection) -> Option<PathBuf> {
        let key = format!("eval.endpoint[{i}].tokenizer");
        let folder = self.plan.document.folder_of(&key);
        section.tokenizer.as_deref().map(|path| folder.join(path))
    }

    /// The tokenizers' files, which scores depend on.
    pub(super) fn endpoint_inputs(&self) -> Result<Vec<FileHash>> {
        let mut inputs = Vec::new();
        let sections = self
            .plan
            .recipe()
            .eval
            .iter()
            .flat_map(|eval| &eval.endpoint);
        for (i, section) in sections.enumerate() {
            let Some(folder) = self.tokenizer_folder(i, section) else {
                continue;
            };
            for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
                if folder.join(name).is_file() {
                    let called = format!("endpoint/{}/{name}", section.name);
                    inputs.push(FileHash::of(&folder.join(name), called)?);
                }
            }
        }
        Ok(inputs)
    }

    /// Holds an endpoint against the terms of every item that it will be asked. What the manifest says of it.
    pub(super) fn terms(&self, section: &EndpointSection, asked: &[Asked<'_>]) -> Result<Value> {
        let asked = asked.iter().filter(|asked| section.asks(&asked.task.name));
        self.sent(
            section,
            asked.map(|asked| (asked.task.name.as_str(), asked.access())),
        )
    }

    /// Refuses to send an endpoint tasks' items, each under its terms, that it must not see, and records what leaves
    /// this machine under an agreement.
    pub(super) fn sent<'t>(
        &self,
        section: &EndpointSection,
        tasks: impl Iterator<Item = (&'t str, AccessClass)>,
    ) -> Result<Value> {
        let mut sent = Vec::new();
        for (task, access) in tasks {
            section.permit(task, access).map_err(eval::Error::from)?;
            sent.push(json!({"task": task, "access": access}));
        }
        let facts = json!({
            "name": section.name,
            "url": section.url,
            "model": section.model,
            "agreement": section.agreement,
            "tasks": sent,
        });
        let away = !section.is_local().map_err(eval::Error::from)?;
        let closed = |task: &&Value| task["access"] != json!(AccessClass::Open);
        let closed: Vec<Value> = sent.iter().filter(closed).cloned().collect();
        if away && !closed.is_empty() {
            let name = &section.name;
            let agreement = section.agreement.as_deref().unwrap_or_default();
            note(&format!(
                "eval   texts that are not open are sent to `{name}` under the agreement \"{agreement}\", which the run records"
            ));
            let to = json!({"name": name, "url": section.url, "agreement": agreement});
            credentials::record_sent(&self.plan.out, &to, &closed)?;
        }
        Ok(facts)
    }
}

/// What of the settings of endpoints their answers depend on: not how fast they are asked.
pub(super) fn what_answers(endpoints: &mut Value) {
    for endpoint in endpoints.as_array_mut().into_iter().flatten() {
        let Some(endpoint) = endpoint.as_object_mut() else {
            continue;
        };
        // The tokenizer is an input by its content.
        for key in [
            "concurrency",
            "timeout_secs",
            "max_retries",
            "api_key_env",
            "tokenizer",
        ] {
            endpoint.remove(key);
        }
    }
}
