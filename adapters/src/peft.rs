//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`, keys and all.
//!
//! What PEFT has no place for (whose base and tokenizer the adapter belongs to) lies beside them in `medtune.json`, so
//! that PEFT is not confused by unknown keys. Source: `LoraConfig` and `save_pretrained` of huggingface/peft.

use crate::safetensors_file::{self, Entry, Stored};
use crate::{Error, LoraConfig, Parameters, Result, TargetModules, encode, folder};
use candle_core::{DType, Tensor};
use kernels::Matrix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";
const BELONGING: &str = "medtune.json";

/// The part of `adapter_config.json` that says something.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// Rank, scaling, dropout and targets.
    pub lora: LoraConfig,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
}

/// Which base and tokenizer an adapter was trained on, by hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Belonging {
    /// [`crate::Weights::fingerprint`] of the base.
    pub base_fingerprint: String,
    /// The tokenizer's fingerprint.
    pub tokenizer_fingerprint: Option<String>,
}

/// An adapter read from its files.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// Its settings.
    pub config: PeftConfig,
    /// Its matrices by PEFT's keys, in f32, or f64 if stored so. Both of each pair are there, and fit the rank.
    pub tensors: BTreeMap<String, Tensor>,
    /// Its base and tokenizer, if medtune wrote it.
    pub belonging: Option<Belonging>,
}

/// PEFT's key of a module's `lora_A` or `lora_B`.
pub(crate) fn tensor_key(module: &str, which: &str) -> String {
    format!("base_model.model.{module}.{which}.weight")
}

/// The module and matrix that a key names.
fn parse_key(key: &str) -> Option<(&str, &'static str)> {
    let rest = key.strip_prefix("base_model.model.")?;
    ["lora_A", "lora_B"].into_iter().find_map(|which| {
        let module = rest
            .strip_suffix(".weight")?
            .strip_suffix(which)?
            .strip_suffix('.')?;
        (!module.is_empty()).then_some((module, which))
    })
}

impl PeftAdapter {
    /// Reads a folder that PEFT or medtune wrote.
    pub fn load(dir: &Path) -> Result<Self> {
        let mut config = read_config(&dir.join(CONFIG))?;
        let path = dir.join(MODEL);
        if !path.is_file() && dir.join("adapter_model.bin").is_file() {
            return Err(Error::OnlyBinWeights {
                path: dir.into(),
                file: "adapter_model.bin".into(),
            });
        }
        let stored = safetensors_file::open(&path)?;
        check_pairs(&path, &stored, config.lora.rank)?;
        let mut tensors = BTreeMap::new();
        for (key, stored) in stored {
            let tensor = read_matrix(&key, stored)?;
            tensors.insert(key, tensor);
        }
        let belonging = match dir.join(BELONGING) {
            file if file.is_file() => {
                let json = folder::read_json(&file)?;
                Some(
                    serde_json::from_value(json)
                        .map_err(|source| Error::Json { path: file, source })?,
                )
            }
            _ => None,
        };
        // A pattern (PEFT takes a string for a regular expression) has done its work: the matrices say where.
        if let TargetModules::Named(names) = &config.lora.target_modules
            && names.is_empty()
        {
            let modules = tensors
                .keys()
                .filter_map(|k| parse_key(k))
                .map(|(module, _)| module.to_owned());
            let modules: BTreeSet<String> = modules.collect();
            config.lora.target_modules = TargetModules::Named(modules.into_iter().collect());
        }
        Ok(Self {
            config,
            tensors,
            belonging,
        })
    }

    /// The modules that carry a pair, sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|key| match parse_key(key) {
            Some((module, "lora_A")) => Some(module),
            _ => None,
        })
    }

    /// A (r, in) and B (out, r) of a module.
    pub fn pair(&self, module: &str) -> Option<(&Tensor, &Tensor)> {
        self.tensors
            .get(&tensor_key(module, "lora_A"))
            .zip(self.tensors.get(&tensor_key(module, "lora_B")))
    }

    /// Refuses to go on training under settings by which the same matrices would mean something else.
    pub(crate) fn check_continues(&self, asked: &LoraConfig) -> Result<()> {
        let mine = &self.config.lora;
        for (key, adapter, asked) in [
            ("rank", mine.rank.to_string(), asked.rank.to_string()),
            ("alpha", mine.alpha.to_string(), asked.alpha.to_string()),
            (
                "use_rslora",
                mine.use_rslora.to_string(),
                asked.use_rslora.to_string(),
            ),
        ] {
            if adapter != asked {
                return Err(Error::AdapterDiffers {
                    key,
                    adapter,
                    asked,
                });
            }
        }
        Ok(())
    }

    /// Refuses to go on training with a matrix fewer or more.
    pub(crate) fn check_same_target(&self, module: &str, wanted: bool) -> Result<()> {
        let says = |with: bool| {
            format!(
                "{} {module}",
                if with {
                    "layers with"
                } else {
                    "layers without"
                }
            )
        };
        match self.pair(module).is_some() {
            has if has == wanted => Ok(()),
            has => Err(Error::AdapterDiffers {
                key: "target_modules",
                adapter: says(has),
                asked: says(wanted),
            }),
        }
    }
}

/// Every key is a LoRA matrix, in pairs, of the configured rank, the right way round.
fn check_pairs(path: &Path, stored: &BTreeMap<String, Stored>, rank: usize) -> Result<()> {
    let mut pairs: BTreeMap<&str, [Option<&[usize]>; 2]> = BTreeMap::new();
    for (key, tensor) in stored {
        let Some((module, which)) = parse_key(key).filter(|_| tensor.shape.len() == 2) else {
            return Err(Error::AdapterKey {
                path: path.into(),
                key: key.clone(),
            });
        };
        pairs.entry(module).or_default()[usize::from(which == "lora_B")] = Some(&tensor.shape);
    }
    for (module, pair) in &pairs {
        let lacks = |missing| Error::AdapterPair {
            path: path.into(),
            module: (*module).into(),
            missing,
        };
        let a = pair[0].ok_or_else(|| lacks("lora_A.weight"))?;
        let b = pair[1].ok_or_else(|| lacks("lora_B.weight"))?;
        if a[0] == rank && b[1] == rank {
            continue;
        }
        if a[1] == rank && b[0] == rank {
            let module = (*module).into();
            return Err(Error::AdapterSwapped {
                path: path.into(),
                module,
                a: a.into(),
                b: b.into(),
            });
        }
        let (which, found) = if a[0] != rank {
            ("lora_A", a)
        } else {
            ("lora_B", b)
        };
        let key = tensor_key(module, which);
        return Err(Error::AdapterRank {
            path: path.into(),
            key,
            rank,
            found: found.into(),
        });
    }
    if pairs.is_empty() {
        return Err(Error::AdapterEmpty { path: path.into() });
    }
    Ok(())
}

fn read_matrix(key: &str, stored: Stored) -> Result<Tensor> {
    let Some(dtype) = encode::float_dtype(stored.dtype) else {
        return Err(Error::UnsupportedDtype {
            name: key.into(),
            dtype: format!("{:?}", stored.dtype),
        });
    };
    let wide = if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let tensor =
        Matrix::mapped(stored.bytes, dtype, stored.shape[0], stored.shape[1])?.to_tensor(wide)?;
    let numbers = tensor
        .flatten_all()?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    if let Some(element) = numbers.iter().position(|x| !x.is_finite()) {
        return Err(Error::NotFinite {
            name: key.into(),
            element,
        });
    }
    Ok(tensor)
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
fn read_config(path: &Path) -> Result<PeftConfig> {
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

/// Writes an adapter into the folder `dir`, each file at once. Same parameters, same bytes. Returns the files.
pub fn save(
    dir: &Path,
    parameters: &Parameters,
    config: &LoraConfig,
    base_model: Option<&str>,
    belonging: Option<&Belonging>,
) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let mut tensors: BTreeMap<&str, &Tensor> = BTreeMap::new();
    for parameter in &parameters.0 {
        if parse_key(&parameter.name).is_none() {
            return Err(Error::AdapterKey {
                path: dir.join(MODEL),
                key: parameter.name.clone(),
            });
        }
        tensors.insert(&parameter.name, &parameter.value);
    }
    let modules: BTreeSet<&str> = tensors
        .keys()
        .filter_map(|k| parse_key(k))
        .map(|(module, _)| module)
        .collect();
    let mut files = vec![
        (dir.join(MODEL), model_bytes(&dir.join(MODEL), &tensors)?),
        (
            dir.join(CONFIG),
            pretty(&config_json(config, base_model, &modules)),
        ),
    ];
    if let Some(belonging) = belonging {
        let json = serde_json::to_value(belonging).map_err(|source| Error::Json {
            path: dir.into(),
            source,
        })?;
        files.push((dir.join(BELONGING), pretty(&json)));
    }
    for (path, bytes) in &files {
        ledger::files::write_atomic(path, bytes)?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn model_bytes(path: &Path, tensors: &BTreeMap<&str, &Tensor>) -> Result<Vec<u8>> {
    let entries = tensors
        .iter()
        .map(|(name, t)| {
            Ok(Entry {
                name: (*name).into(),
                dtype: encode::stored_dtype(t.dtype())?,
                shape: t.dims().into(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    safetensors_file::write_into(&mut bytes, path, &entries, |entry, out| {
        out.write_all(&encode::tensor_bytes(tensors[entry.name.as_str()])?)
            .map_err(Error::io(path))
    })?;
    Ok(bytes)
}

/// `adapter_config.json`, keys sorted as PEFT sorts them: those that every version of PEFT since 0.9 takes.
fn config_json(config: &LoraConfig, base_model: Option<&str>, modules: &BTreeSet<&str>) -> Value {
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

pub(crate) fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}
