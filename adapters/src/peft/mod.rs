//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`, keys and all.
//!
//! Modules to save are stored under the name of their tensor. Where embedding and head share a table, a trained table is
//! written under both names with `ensure_weight_tying`, so PEFT 0.21 ties them too, and older versions load two equal
//! copies.
//!
//! What PEFT has no place for (whose base and tokenizer the adapter belongs to) lies beside them in `medtune.json`, so
//! that PEFT is not confused by unknown keys. Source: `LoraConfig` and `save_pretrained` of huggingface/peft.

mod config;
mod keys;
mod write;

pub use config::PeftConfig;
pub(crate) use keys::{Key, module_of};

use crate::safetensors_file::{self, Entry, Stored};
use crate::{
    Belonging, Error, LoraConfig, ParameterKind, Parameters, Result, TargetModules, belonging,
    encode,
};
use candle_core::{DType, Tensor};
use kernels::Matrix;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";
/// The output head's name in a checkpoint, and that of the table it may share.
pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// An adapter read from its files.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// Its settings.
    pub config: PeftConfig,
    /// Its tensors by PEFT's keys, in f32, or f64 if stored so. Both of each pair are there, and fit the rank; with
    /// DoRA, its magnitudes too.
    pub tensors: BTreeMap<String, Tensor>,
    /// Its base and tokenizer, if medtune wrote it.
    pub belonging: Option<Belonging>,
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
        keys::check(&path, &stored, &config)?;
        let mut tensors = BTreeMap::new();
        for (key, stored) in stored {
            let tensor = read_tensor(&key, stored)?;
            tensors.insert(key, tensor);
        }
        let belonging = Belonging::read(dir)?;
        // A pattern (PEFT takes a string for a regular expression) has done its work: the matrices say where.
        if let TargetModules::Named(names) = &config.lora.target_modules
            && names.is_empty()
        {
            let modules: BTreeSet<String> = adapted(tensors.keys()).map(String::from).collect();
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
        adapted(self.tensors.keys())
    }

    /// A (r, in) and B (out, r) of a module.
    pub fn pair(&self, module: &str) -> Option<(&Tensor, &Tensor)> {
        self.get(Key::A(module)).zip(self.get(Key::B(module)))
    }

    /// DoRA's magnitudes (out) of a module.
    pub fn magnitude(&self, module: &str) -> Option<&Tensor> {
        self.get(Key::Magnitude(module))
    }

    /// Checkpoint names of the tensors of which the adapter holds a full copy, sorted.
    pub fn saved(&self) -> impl Iterator<Item = &str> {
        let keys = self.tensors.keys();
        keys.filter_map(|key| match Key::parse(key)? {
            Key::Saved(name) => Some(name),
            _ => None,
        })
    }

    /// The full copy of the tensor of this checkpoint name.
    pub fn saved_tensor(&self, name: &str) -> Option<&Tensor> {
        self.get(Key::Saved(name))
    }

    fn get(&self, key: Key) -> Option<&Tensor> {
        self.tensors.get(&key.to_string())
    }

    /// Whether two tensors that are one in the base still are under this adapter: neither or both are saved, with the
    /// same values, or PEFT ties them. Without `ensure_weight_tying` PEFT leaves the one that is not saved as it was.
    pub(crate) fn keeps_tied(&self, one: &str, other: &str) -> Result<bool> {
        if self.config.ensure_weight_tying {
            return Ok(true);
        }
        match (self.saved_tensor(one), self.saved_tensor(other)) {
            (Some(a), Some(b)) if a.dims() == b.dims() && a.dims().len() == 2 => {
                let (a, b) = (Matrix::dense(a.clone()), Matrix::dense(b.clone()));
                let mut rows = [vec![0f32; a.cols()], vec![0f32; a.cols()]];
                for row in 0..a.rows() {
                    a.read_rows_f32(row..row + 1, &mut rows[0])?;
                    b.read_rows_f32(row..row + 1, &mut rows[1])?;
                    if rows[0] != rows[1] {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (None, None) => Ok(true),
            _ => Ok(false),
        }
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
            (
                "use_dora",
                mine.use_dora.to_string(),
                asked.use_dora.to_string(),
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

/// The modules of the pairs among these keys.
fn adapted<'a>(keys: impl Iterator<Item = &'a String>) -> impl Iterator<Item = &'a str> {
    keys.filter_map(|key| match Key::parse(key)? {
        Key::A(module) => Some(module),
        _ => None,
    })
}

fn read_tensor(key: &str, stored: Stored) -> Result<Tensor> {
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
    let columns = stored.shape.last().copied().unwrap_or(1);
    let rows = stored.shape.iter().rev().skip(1).product();
    let tensor = Matrix::mapped(stored.bytes, dtype, rows, columns)?.to_tensor(wide)?;
    // A sum of squares in f64 is finite where every number is, but for f64 beyond 1e154.
    if !kernels::sum_of_squares(&tensor)?.is_finite() {
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
    }
    Ok(tensor.reshape(stored.shape)?)
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
    let mut tensors: BTreeMap<String, &Tensor> = BTreeMap::new();
    let mut tied = false;
    for parameter in &parameters.0 {
        if Key::parse(&parameter.name).is_none() {
            return Err(Error::AdapterKey {
                path: dir.join(MODEL),
                key: parameter.name.clone(),
            });
        }
        tensors.insert(parameter.name.clone(), &parameter.value);
        if parameter.kind == ParameterKind::TiedTable {
            tied = true;
            tensors.insert(Key::Saved(HEAD).to_string(), &parameter.value);
        }
    }
    let json = config::json(config, base_model, adapted(tensors.keys()).collect(), tied);
    write_files(dir, &tensors, &json, belonging)
}

fn write_files(
    dir: &Path,
    tensors: &BTreeMap<String, &Tensor>,
    json: &Value,
    belonging: Option<&Belonging>,
) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        (dir.join(MODEL), model_bytes(&dir.join(MODEL), tensors)?),
        (dir.join(CONFIG), pretty(json)),
    ];
    if let Some(belonging) = belonging {
        let json = serde_json::to_value(belonging).map_err(|source| Error::Json {
            path: dir.into(),
            source,
        })?;
        files.push((dir.join(belonging::FILE), pretty(&json)));
    }
    for (path, bytes) in &files {
        ledger::files::write_atomic(path, bytes)?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn model_bytes(path: &Path, tensors: &BTreeMap<String, &Tensor>) -> Result<Vec<u8>> {
    let entries = tensors
        .iter()
        .map(|(name, t)| {
            Ok(Entry {
                name: name.clone(),
                dtype: encode::stored_dtype(t.dtype())?,
                shape: t.dims().into(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    safetensors_file::write_into(&mut bytes, path, &entries, |entry, out| {
        out.write_all(&encode::tensor_bytes(tensors[&entry.name])?)
            .map_err(Error::io(path))
    })?;
    Ok(bytes)
}

pub(crate) fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}
