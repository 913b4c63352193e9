//! `adapter_config.json`: what of it changes how an adapter is applied, and what must be off.

use crate::{Error, LoraConfig, Result, TargetModules, folder};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The part of `adapter_config.json` that says something.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// Rank, scaling, dropout and targets.
    pub lora: LoraConfig,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
}

/// Settings that change nothing in how a saved adapter is applied, whatever their value.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
];

/// Reads the settings, refusing by name each one that is on and not supported, also those that PEFT has yet to invent.
pub(super) fn read(path: &Path) -> Result<PeftConfig> {
    let json = folder::read_json(path)?;
    let refused = |key: &str, value: &Value| {
        Err(Error::AdapterSetting {
            path: path.into(),
            key: key.into(),
            value: value.to_string(),
        })
    };
    let Some(settings) = json.as_object() else {
        return Err(Error::Damaged {
            path: path.into(),
            reason: "it is not an object".into(),
        });
    };
    match settings.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        other => return refused("peft_type", other.unwrap_or(&Value::Null)),
    }
    for (key, value) in settings {
        let off = match (key.as_str(), value) {
            ("peft_type", _) => true,
            ("bias", value) => value == "none",
            // These ways to start change the base weights too, so the adapter belongs to a base that is not stored.
            ("init_lora_weights", Value::String(way)) => !["pissa", "olora", "corda", "loftq"]
                .iter()
                .any(|w| way.to_lowercase().starts_with(w)),
            ("init_lora_weights", _) => true,
            (key, _) if WITHOUT_EFFECT.contains(&key) => true,
            (_, Value::Null | Value::Bool(false)) => true,
            (_, Value::Object(map)) => map.is_empty(),
            (_, Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        if !off {
            return refused(key, value);
        }
    }
    let wrong = |key: &str| {
        let value = settings.get(key).map_or("nothing".into(), Value::to_string);
        Error::Damaged {
            path: path.into(),
            reason: format!("`{key}` is {value}"),
        }
    };
    let number = |key: &str| {
        settings
            .get(key)
            .and_then(Value::as_f64)
            .ok_or_else(|| wrong(key))
    };
    let target_modules = match settings.get("target_modules") {
        Some(Value::String(word)) if word == "all-linear" => TargetModules::AllLinear,
        Some(Value::Array(list)) if !list.is_empty() => {
            let names = list
                .iter()
                .map(|n| n.as_str().map(str::to_owned))
                .collect::<Option<Vec<String>>>();
            TargetModules::Named(names.ok_or_else(|| wrong("target_modules"))?)
        }
        // Filled in from the matrices.
        Some(Value::String(_) | Value::Array(_) | Value::Null) | None => {
            TargetModules::Named(vec![])
        }
        Some(_) => return Err(wrong("target_modules")),
    };
    let rank = settings
        .get("r")
        .and_then(Value::as_u64)
        .filter(|r| *r > 0)
        .ok_or_else(|| wrong("r"))?;
    let dropout = match settings.get("lora_dropout") {
        None | Some(Value::Null) => 0.0,
        Some(_) => number("lora_dropout")?,
    };
    let use_rslora = settings
        .get("use_rslora")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let lora = LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha")?,
        dropout,
        target_modules,
        use_rslora,
    };
    let base_model = settings
        .get("base_model_name_or_path")
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok(PeftConfig { lora, base_model })
}

/// `adapter_config.json`, keys sorted as PEFT sorts them: those that every version of PEFT since 0.9 takes.
pub(super) fn json(
    config: &LoraConfig,
    base_model: Option<&str>,
    modules: &BTreeSet<&str>,
) -> Value {
    // PEFT resolves "all-linear" when it makes an adapter, and so do we: a file names its layers.
    let targets = match &config.target_modules {
        TargetModules::Named(names) => names.iter().map(String::as_str).collect(),
        TargetModules::AllLinear => modules
            .iter()
            .filter_map(|m| m.rsplit('.').next())
            .collect::<BTreeSet<_>>(),
    };
    let mut settings = Map::new();
    for (key, value) in [
        ("alpha_pattern", json!({})),
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(base_model)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", Value::Null),
        ("lora_alpha", whole_if_possible(config.alpha)),
        ("lora_dropout", json!(config.dropout)),
        ("modules_to_save", Value::Null),
        ("peft_type", json!("LORA")),
        ("r", json!(config.rank)),
        ("rank_pattern", json!({})),
        ("revision", Value::Null),
        ("target_modules", json!(targets)),
        ("task_type", json!("CAUSAL_LM")),
        ("use_dora", json!(false)),
        ("use_rslora", json!(config.use_rslora)),
    ] {
        settings.insert(key.into(), value);
    }
    Value::Object(settings)
}

/// PEFT declares alpha an integer.
fn whole_if_possible(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 {
        json!(x as i64)
    } else {
        json!(x)
    }
}
