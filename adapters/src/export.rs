//! Writes a model as a Hugging Face folder: what is in memory is some panels of rows, never the model. The folder appears
//! under its name only when it is whole.

use crate::change::Change;
use crate::safetensors_file::Entry;
use crate::shards::{index, shards};
use crate::stream::{Item, Watch, Written, write_files};
use crate::{Error, Parameters, Result, WeightView, Weights, encode, folder};
use candle_core::{DType, Device, Tensor};
use ledger::FileHash;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// How a model folder is written.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Dtype of all float tensors. If unset each keeps its own; NF4 becomes what it was quantized from, and GGML's blocks
    /// become f32, which is exact.
    pub dtype: Option<DType>,
    /// Bytes of tensors that one file may hold; more become shards with an index.
    pub max_shard_bytes: u64,
    /// JSON files to be written beside the weights, such as the `tokenizer.json` of a GGUF base. They come before
    /// files of the same name in the base's folder.
    pub companions: Vec<(String, Value)>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            max_shard_bytes: crate::recipe::MAX_SHARD_BYTES,
            companions: Vec::new(),
        }
    }
}

/// Writes a GGUF file's tensors, unpacked, and a `config.json` made from its metadata as a Hugging Face folder; or
/// a folder in another dtype. Returns the bytes of its tensor files.
pub fn convert(weights: &Weights, out: &Path, options: &ExportOptions) -> Result<u64> {
    staged(weights, out, |dir| {
        let keep = |_: &WeightView| Change::Keep;
        let (written, _) = write_model(weights, dir, options, Watch::default(), keep)?;
        Ok(total(&written.files))
    })
}

/// Writes fully trained weights: those of `base` with `parameters` in their place. Returns the bytes of its tensor files.
pub fn save_full(
    base: &Weights,
    parameters: &Parameters,
    out: &Path,
    options: &ExportOptions,
) -> Result<u64> {
    let trained: BTreeMap<&str, Tensor> = parameters
        .0
        .iter()
        .map(|p| Ok((p.name.as_str(), p.value.to_device(&Device::Cpu)?)))
        .collect::<Result<_>>()?;
    for (name, value) in &trained {
        let Ok(view) = base.view(name) else {
            return Err(Error::ParameterWithoutTensor {
                name: (*name).into(),
            });
        };
        if view.shape != value.dims() {
            return Err(Error::Shape {
                name: view.name,
                expected: view.shape,
                found: value.dims().into(),
            });
        }
    }
    let change = |view: &WeightView| {
        trained
            .get(view.name.as_str())
            .map_or(Change::Keep, Change::Replace)
    };
    staged(base, out, |dir| {
        let (written, _) = write_model(base, dir, options, Watch::default(), change)?;
        Ok(total(&written.files))
    })
}

pub(crate) fn total(files: &[FileHash]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

/// Refuses to write over the base that is being read.
pub fn refuse_base_as_output(base: &Weights, out: &Path) -> Result<()> {
    let same = |a: &Path| Some(a.canonicalize().ok()? == out.canonicalize().ok()?);
    match base.path().and_then(same) {
        Some(true) => Err(Error::OutputIsBase { path: out.into() }),
        _ => Ok(()),
    }
}

/// Runs `work` on a folder that takes the name `out` if all went well.
pub(crate) fn staged<R>(
    base: &Weights,
    out: &Path,
    work: impl FnOnce(&Path) -> Result<R>,
) -> Result<R> {
    refuse_base_as_output(base, out)?;
    let folder = ledger::files::StagedDir::create(out)?;
    let result = work(folder.path())?;
    folder.commit()?;
    Ok(result)
}

/// Writes the tensors' files and their index, `config.json` and what travels with them into an existing folder. Returns
/// what was written of which tensors.
pub(crate) fn write_model<'a>(
    base: &'a Weights,
    dir: &Path,
    options: &ExportOptions,
    watch: Watch,
    change: impl Fn(&WeightView) -> Change<'a>,
) -> Result<(Written, Vec<Item<'a>>)> {
    let mut entries = Vec::new();
    let mut items = Vec::new();
    for view in base.views_in_file_order() {
        let dtype = output_dtype(view, options.dtype);
        let stored = match dtype {
            Some(dtype) => encode::stored_dtype(dtype)?,
            None => view
                .plain()
                .map(|(_, dtype)| dtype)
                .ok_or_else(|| unsupported(view))?,
        };
        entries.push(Entry {
            name: view.name.clone(),
            dtype: stored,
            shape: view.shape.clone(),
        });
        items.push(Item {
            view,
            change: change(view),
            dtype,
        });
    }
    let shards = shards(&entries, options.max_shard_bytes);
    let written = write_files(dir, &items, &entries, &shards, watch)?;
    if let Some(index) = index(&entries, &shards) {
        write_json(&dir.join(folder::INDEX), &index)?;
    }
    for (name, json) in &options.companions {
        write_json(&dir.join(name), json)?;
    }
    write_json(
        &dir.join("config.json"),
        &output_config(base, options.dtype),
    )?;
    if let Some(from) = base.folder() {
        folder::copy_companions(from, dir)?;
    }
    Ok((written, items))
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    std::fs::write(path, crate::peft::pretty(json)).map_err(Error::io(path))
}

fn unsupported(view: &WeightView) -> Error {
    Error::UnsupportedDtype {
        name: view.name.clone(),
        dtype: view.dtype_name(),
    }
}

/// The dtype a tensor is written in; nothing for integers and other buffers, which stay as they are.
pub(crate) fn output_dtype(view: &WeightView, chosen: Option<DType>) -> Option<DType> {
    view.is_float()
        .then(|| chosen.unwrap_or_else(|| view.written_dtype()))
}

/// The base's configuration, naming the dtype that was written.
fn output_config(base: &Weights, chosen: Option<DType>) -> Value {
    let mut config = base.config().clone();
    let embedding = || {
        base.view("model.embed_tokens.weight")
            .ok()
            .and_then(|v| output_dtype(&v, None))
    };
    let written = match base.gguf() {
        Some(_) => chosen.or_else(embedding),
        None => chosen,
    };
    if let (Some(dtype), Some(map)) = (written, config.as_object_mut()) {
        // transformers 5 writes `dtype`, before it was `torch_dtype`; both read the latter.
        let key = if map.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        map.insert(key.into(), json!(encode::torch_name(dtype)));
    }
    config
}
