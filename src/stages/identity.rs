//! What makes a training this training: what a checkpoint must have in common with the run that goes on from it.

use std::collections::BTreeMap;

use anyhow::Result;
use finetune::recipe::{EVAL_LOSS, TrainSection};
use serde_json::Value;

use crate::run::StageInput;

/// The settings that the trained weights depend on: not how often the way there is looked at or saved, unless the best
/// of what was looked at is chosen. `on_nonfinite` decides whether a training that meets a NaN has an end, and may
/// be changed when it does; the manifest counts the steps left out.
pub(super) fn what_trains(section: Option<&TrainSection>) -> Result<Value> {
    let mut settings = serde_json::to_value(section)?;
    if let Some(settings) = settings.as_object_mut() {
        for key in ["save_steps", "save_total_limit", "on_nonfinite"] {
            settings.remove(key);
        }
        let chooses = section.is_some_and(|section| section.load_best_model_at_end);
        if !chooses {
            settings.remove("eval_steps");
        }
        // What is asked is looked at, unless it chooses.
        let by_loss = section.is_none_or(|section| section.metric_for_best_model == EVAL_LOSS);
        if !chooses || by_loss {
            settings.remove("eval_tasks");
            settings.remove("metric_for_best_model");
        }
    }
    Ok(settings)
}

/// What a checkpoint must have in common with the run that goes on from it, by dotted key.
pub(super) fn identity(input: &StageInput) -> BTreeMap<String, String> {
    fn flatten(value: &Value, key: &str, all: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    flatten(
                        value,
                        &if key.is_empty() {
                            name.clone()
                        } else {
                            format!("{key}.{name}")
                        },
                        all,
                    );
                }
            }
            leaf => {
                all.insert(key.to_owned(), leaf.to_string());
            }
        }
    }
    let mut all = BTreeMap::new();
    flatten(&input.settings, "", &mut all);
    all.extend(
        input
            .inputs
            .iter()
            .map(|file| (format!("input {}", file.path), file.sha256.clone())),
    );
    all
}
