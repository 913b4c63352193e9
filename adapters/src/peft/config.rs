//! `adapter_config.json`: what of it changes how an adapter is applied, and what must be off.

use crate::{Error, LoraConfig, Result, TargetModules, folder};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The part of `adapter_config.json` that says something.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// Rank, scaling, dropout, targets, and what is saved whole.
    pub lora: LoraConfig,
    /// Whether PEFT keeps embedding and output head one table, where the base has them so.
    pub ensure_weight_tying: bool,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
}

/// Settings that are read below, or change nothing in how a saved adapter is applied, whatever their value.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "r",
    "lora_alpha",
    "use_dora",
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
            TargetModules::Named(strings(list).ok_or_else(|| wrong("target_modules"))?)
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
    let flag = |key: &str| match settings.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(_) => Err(wrong(key)),
    };
    let modules_to_save = match settings.get("modules_to_save") {
        None | Some(Value::Null) => Some(vec![]),
        Some(Value::Array(list)) => {
            strings(list).filter(|names| !names.iter().any(String::is_empty))
        }
        Some(_) => None,
    };
    let lora = LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha")?,
        dropout,
        target_modules,
        use_rslora: flag("use_rslora")?,
        use_dora: flag("use_dora")?,
        modules_to_save: modules_to_save.ok_or_else(|| wrong("modules_to_save"))?,
    };
    let base_model = settings
        .get("base_model_name_or_path")
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok(PeftConfig {
        lora,
        ensure_weight_tying: flag("ensure_weight_tying")?,
        base_model,
    })
}

fn strings(list: &[Value]) -> Option<Vec<String>> {
    list.iter().map(|n| n.as_str().map(str::to_owned)).collect()
}

/// `adapter_config.json`, keys sorted as PEFT sorts them: those that every version of PEFT since 0.9 takes, and
/// `ensure_weight_tying` where a tied table was trained.
pub(super) fn json(
    config: &LoraConfig,
    base_model: Option<&str>,
    modules: BTreeSet<&str>,
    tied: bool,
) -> Value {
    // PEFT resolves "all-linear" when it makes an adapter, and so do we: a file names its layers.
    let targets = match &config.target_modules {
        TargetModules::Named(names) => names.iter().map(String::as_str).collect(),
        TargetModules::AllLinear => modules
            .iter()
            .filter_map(|m| m.rsplit('.').next())
            .collect::<BTreeSet<_>>(),
    };
    let mut saved: BTreeSet<&str> = config.modules_to_save.iter().map(String::as_str).collect();
    if tied {
        saved.extend([super::EMBEDDING, super::HEAD].map(leaf_of));
    }
    let saved = match saved.is_empty() {
        true => Value::Null,
        false => json!(saved),
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
        ("modules_to_save", saved),
        ("peft_type", json!("LORA")),
        ("r", json!(config.rank)),
        ("rank_pattern", json!({})),
        ("revision", Value::Null),
        ("target_modules", json!(targets)),
        ("task_type", json!("CAUSAL_LM")),
        ("use_dora", json!(config.use_dora)),
        ("use_rslora", json!(config.use_rslora)),
    ] {
        settings.insert(key.into(), value);
    }
    if tied {
        settings.insert("ensure_weight_tying".into(), json!(true));
    }
    Value::Object(settings)
}

/// `lm_head` of `lm_head.weight`.
fn leaf_of(name: &str) -> &str {
    let module = super::module_of(name);
    module.rsplit('.').next().unwrap_or(module)
}

/// PEFT declares alpha an integer.
fn whole_if_possible(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 {
        json!(x as i64)
    } else {
        json!(x)
    }
}
