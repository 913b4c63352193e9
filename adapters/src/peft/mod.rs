//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`, keys and all.
//!
//! What PEFT has no place for (whose base and tokenizer the adapter belongs to) lies beside them in `medtune.json`, so
//! that PEFT is not confused by unknown keys. Source: `LoraConfig` and `save_pretrained` of huggingface/peft.

mod config;

pub use config::PeftConfig;

use crate::safetensors_file::{self, Entry, Stored};
use crate::{Error, LoraConfig, Parameters, Result, TargetModules, encode, folder};
use candle_core::{DType, Tensor};
use kernels::Matrix;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";
const BELONGING: &str = "medtune.json";

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
        let mut config = config::read(&dir.join(CONFIG))?;
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
            pretty(&config::json(config, base_model, &modules)),
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

pub(crate) fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}
