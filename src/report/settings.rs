//! Settings as dotted keys, so that those of two runs can be compared.

use std::collections::BTreeMap;

use serde_json::Value;

use super::RunFiles;

/// Every setting that a run's stages depend on, as a recipe would name it, and the fingerprint of its base.
pub fn of(run: &RunFiles) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for stage in &run.stages {
        let section = match stage.folder {
            "data" => "data",
            "merged" => "merge",
            "eval" => "eval",
            // A training's settings name their sections themselves.
            _ => "",
        };
        flatten(&stage.manifest.settings, section, &mut settings);
        let base = stage
            .manifest
            .inputs
            .iter()
            .find(|input| input.path == "base");
        if let Some(base) = base {
            settings.insert(
                "model (SHA-256)".into(),
                base.sha256.chars().take(16).collect(),
            );
        }
    }
    settings
}

fn flatten(value: &Value, key: &str, settings: &mut BTreeMap<String, String>) {
    let inner = |name: &str| match key {
        "" => name.to_owned(),
        key => format!("{key}.{name}"),
    };
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                flatten(value, &inner(name), settings);
            }
        }
        Value::Array(values) if values.iter().any(|value| name_of(value).is_some()) => {
            for (index, value) in values.iter().enumerate() {
                let name = name_of(value).map_or(index.to_string(), str::to_owned);
                flatten(value, &format!("{key}[{name}]"), settings);
            }
        }
        Value::String(text) => {
            settings.insert(key.to_owned(), text.clone());
        }
        other => {
            settings.insert(key.to_owned(), other.to_string());
        }
    }
}

/// What a source, a group or a task is called.
fn name_of(value: &Value) -> Option<&str> {
    let own = value.get("name").or_else(|| value.get("task")?.get("name"));
    own?.as_str()
}

/// A setting that several runs differ in: its key, and each run's value.
pub type Difference = (String, Vec<Option<String>>);

/// The settings that are not the same in all runs.
pub fn differences(runs: &[RunFiles]) -> Vec<Difference> {
    let all: Vec<BTreeMap<String, String>> = runs.iter().map(of).collect();
    let mut keys: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| {
            let values: Vec<Option<String>> = all.iter().map(|own| own.get(key).cloned()).collect();
            let same = values.windows(2).all(|pair| pair[0] == pair[1]);
            (!same).then(|| (key.clone(), values))
        })
        .collect()
}

/// A value that fits into a cell.
pub fn shortened(value: &str, longest: usize) -> String {
    if value.chars().count() <= longest {
        return value.to_owned();
    }
    value
        .chars()
        .take(longest.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_named_by_their_names() {
        let mut settings = BTreeMap::new();
        let value = json!({
            "seed": 7,
            "source": [{"name": "a", "limit": null}],
            "tasks": [{"limit": 5, "task": {"name": "qa", "version": 1}}],
            "adam": [0.9, 0.95], "clean": {},
        });
        flatten(&value, "data", &mut settings);
        let lines: Vec<String> = settings
            .iter()
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        data.adam = [0.9,0.95]
        data.clean = {}
        data.seed = 7
        data.source[a].limit = null
        data.source[a].name = a
        data.tasks[qa].limit = 5
        data.tasks[qa].task.name = qa
        data.tasks[qa].task.version = 1
        ");
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert_eq!(shortened("ééééé", 5), "ééééé");
        assert_eq!(shortened("éééééé", 5), "éééé…");
    }
}
