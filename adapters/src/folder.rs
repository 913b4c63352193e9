//! A Hugging Face folder: which files hold its tensors, and which travel with them.

use crate::safetensors_file::{self, Stored};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Which file holds which tensor, where there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Files beside the weights that a copy of the model needs as they are: the tokenizer in each of its forms, chat
/// templates, generation settings, and the terms it comes under.
pub(crate) const COMPANIONS: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
    "Notice.txt",
    "USE_POLICY.md",
];

/// All tensors of the folder, from one file or from the shards that its index names.
pub(crate) fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    if path.join(SINGLE).is_file() {
        return safetensors_file::open(&path.join(SINGLE));
    }
    let index = path.join(INDEX);
    if index.is_file() {
        open_shards(path, &index)
    } else {
        Err(why_no_weights(path)?)
    }
}

fn open_shards(path: &Path, index: &Path) -> Result<BTreeMap<String, Stored>> {
    let json = read_json(index)?;
    let damaged = |reason: String| Error::Damaged {
        path: index.into(),
        reason,
    };
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("it has no `weight_map`".into()))?;
    let mut placed = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard
            .as_str()
            .ok_or_else(|| damaged(format!("`weight_map` gives no file for `{tensor}`")))?;
        // A shard lies in the folder: an index is no way to read other files.
        if Path::new(shard).file_name() != Some(std::ffi::OsStr::new(shard)) {
            return Err(damaged(format!(
                "`{shard}` is not the name of a file in its folder"
            )));
        }
        placed.insert(tensor.as_str(), shard);
    }
    let shards: BTreeSet<&str> = placed.values().copied().collect();
    let mut tensors = BTreeMap::new();
    let mut holder: BTreeMap<String, &str> = BTreeMap::new();
    for shard in shards {
        if !path.join(shard).is_file() {
            return Err(Error::ShardMissing {
                index: index.into(),
                shard: shard.into(),
            });
        }
        for (name, stored) in safetensors_file::open(&path.join(shard))? {
            if let Some(first) = holder.insert(name.clone(), shard) {
                return Err(Error::DuplicateTensor {
                    name,
                    first: first.into(),
                    second: shard.into(),
                });
            }
            tensors.insert(name, stored);
        }
    }
    for (tensor, shard) in placed {
        if holder.get(tensor) != Some(&shard) {
            return Err(Error::ShardLacks {
                index: index.into(),
                shard: shard.into(),
                tensor: tensor.into(),
            });
        }
    }
    Ok(tensors)
}

/// The error for a folder without safetensors, by what it holds instead.
fn why_no_weights(path: &Path) -> Result<Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        files.push(
            entry
                .map_err(Error::io(path))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    files.sort();
    let with = |ends: &[&str]| {
        files
            .iter()
            .find(|f| ends.iter().any(|e| f.ends_with(e)))
            .cloned()
    };
    let why = |why: String| Error::NotAModel {
        path: path.into(),
        why,
    };
    Ok(if files.iter().any(|f| f == "adapter_model.safetensors") {
        why("it is an adapter; give its base model, and this folder as the adapter".into())
    } else if let Some(shard) = with(&[".safetensors"]) {
        why(format!("it holds {shard} and no {INDEX}"))
    } else if let Some(file) = with(&[".bin", ".pth", ".pt"]) {
        Error::OnlyBinWeights {
            path: path.into(),
            file,
        }
    } else if let Some(file) = with(&[".gguf"]) {
        why(format!(
            "it is a folder of GGUF files; give the file, such as {file}"
        ))
    } else {
        why(format!("it holds neither {SINGLE} nor {INDEX}"))
    })
}

/// Parses a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
        _ => Error::Io {
            path: path.into(),
            source: e,
        },
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// Copies what travels with the weights from one folder to another; files that are there already stay.
pub(crate) fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let (source, target) = (from.join(name), to.join(name));
        if source.is_file() && !target.exists() {
            std::fs::copy(&source, &target).map_err(Error::io(source))?;
        }
    }
    Ok(())
}
