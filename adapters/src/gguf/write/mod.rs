//! Models and adapters as GGUF files, tensor by tensor and panel by panel: what is in memory is a few panels of rows,
//! never the model. A file appears under its name only when it is whole.

mod architecture;
mod blocks;
mod container;
mod lora;
mod types;

pub use lora::export_gguf_lora;
pub use types::{GgufFallback, GgufType};

use super::metadata::{GgufMetadata, GgufValue};
use super::names::{ROPE_FACTORS, Rows, Stored, stored};
use crate::change::{Change, Changed, panels};
use crate::export::refuse_base_as_output;
use crate::weights::Source;
use crate::{Error, Result, WeightView, Weights};
use architecture::Model;
use candle_core::DType;
use container::{Entry, Sink};
use kernels::GgmlType;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GgufReport {
    /// Tensors in the file.
    pub tensors: usize,
    /// Its size.
    pub bytes: u64,
    /// Tensors by the type they are stored in.
    pub types: BTreeMap<&'static str, usize>,
    /// Tensors whose rows did not allow the type they should have had.
    pub fallbacks: Vec<GgufFallback>,
    /// Tensors of the checkpoint that have no place in the file and change nothing: a second copy of a tied table,
    /// rotary frequencies.
    pub left_out: Vec<String>,
}

/// Keys of a GGUF base that speak of that file and not of the model.
const OF_THE_FILE: &[&str] = &[
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
];

/// Writes a model of the llama (also Mistral), qwen2 or qwen3 family as a GGUF file of version 3.
///
/// `vocabulary` holds the `tokenizer.*` keys, and any others that are to be in the file. A GGUF base's own metadata is
/// carried over beneath them. Vectors are F32; matrices are what [`GgufType`] says, or the nearest type that their
/// rows are whole blocks of. Blocks of a GGUF base that has them in the type asked for are copied.
///
/// # Errors
/// A model of another family, tensors that are missing, too many or of other shapes than `config.json` says, numbers
/// that the type has no room for, and `out` being the base.
pub fn export_gguf(
    weights: &Weights,
    vocabulary: &GgufMetadata,
    out: &Path,
    kind: GgufType,
) -> Result<GgufReport> {
    refuse_base_as_output(weights, out)?;
    let model = Model::read(weights.config())?;
    let (plan, left_out) = plan(weights, &model)?;
    let mut fallbacks = Vec::new();
    let mut entries = Vec::new();
    let factors = model.rope_factors();
    if let Some(factors) = &factors {
        entries.push(Entry {
            name: ROPE_FACTORS.into(),
            kind: GgmlType::F32,
            shape: vec![factors.len()],
        });
    }
    let extra = entries.len();
    for (place, view) in &plan {
        let (used, fallback) = kind.of_tensor(place, &view.shape, &model);
        fallbacks.extend(fallback);
        entries.push(Entry {
            name: place.name.clone(),
            kind: used,
            shape: view.shape.clone(),
        });
    }
    let metadata = metadata(weights, &model, vocabulary, kind);
    let bytes = container::write(out, &metadata, &entries, |index, sink| {
        let Some((place, view)) = index.checked_sub(extra).map(|at| &plan[at]) else {
            let factors = factors.as_deref().unwrap_or_default();
            return sink(&blocks::encode(
                ROPE_FACTORS,
                factors,
                factors.len(),
                0,
                GgmlType::F32,
            )?);
        };
        let heads = heads(place.rows, &model);
        write_tensor(view, heads, entries[index].kind, sink)?;
        view.release();
        Ok(())
    })?;
    Ok(GgufReport {
        tensors: entries.len(),
        bytes,
        types: counted(&entries),
        fallbacks,
        left_out,
    })
}

/// What goes into the file, in the file's order: the embedding, the layers, the norm after them, the head. And the names
/// of what does not.
fn plan<'a>(weights: &'a Weights, model: &Model) -> Result<(Vec<Placed<'a>>, Vec<String>)> {
    for name in model.required() {
        weights.view(&name)?;
    }
    let (mut plan, mut left_out) = (Vec::new(), Vec::new());
    for view in weights.views() {
        let second_copy = model.tied && view.name == crate::peft::HEAD;
        if second_copy || view.name.ends_with(".rotary_emb.inv_freq") {
            left_out.push(view.name.clone());
        } else {
            plan.push(placed(view, model)?);
        }
    }
    plan.sort_by_key(|(place, _)| match (place.layer, place.order) {
        (None, 0) => (0, 0, 0),
        (Some(layer), order) => (1, layer, order),
        (None, order) => (2, 0, order),
    });
    Ok((plan, left_out))
}

fn counted(entries: &[Entry]) -> BTreeMap<&'static str, usize> {
    let mut types = BTreeMap::new();
    for entry in entries {
        *types.entry(entry.kind.name()).or_default() += 1;
    }
    types
}

/// A tensor and where it goes.
type Placed<'a> = (Stored, &'a WeightView);

/// Where a tensor goes, its shape and numbers being what they must be.
fn placed<'a>(view: &'a WeightView, model: &Model) -> Result<Placed<'a>> {
    let place = stored(model.architecture, &view.name)
        .filter(|place| place.layer.is_none_or(|layer| layer < model.layers))
        .ok_or_else(|| Error::GgufNoPlace {
            tensor: view.name.clone(),
            architecture: model.architecture.into(),
        })?;
    let expected = model.shape(&view.name);
    if view.shape != expected {
        return Err(Error::Shape {
            name: view.name.clone(),
            expected,
            found: view.shape.clone(),
        });
    }
    if !view.is_float() {
        return Err(Error::UnsupportedDtype {
            name: view.name.clone(),
            dtype: view.dtype_name(),
        });
    }
    Ok((place, view))
}

/// Heads whose rows the file has in another order.
fn heads(rows: Rows, model: &Model) -> Option<usize> {
    match rows {
        Rows::AsStored => None,
        Rows::QueryHeads => Some(model.heads),
        Rows::KeyHeads => Some(model.kv_heads),
    }
}

fn metadata(
    weights: &Weights,
    model: &Model,
    vocabulary: &GgufMetadata,
    kind: GgufType,
) -> GgufMetadata {
    let mut keys = weights.gguf().cloned().unwrap_or_default();
    let of_the_file = |key: &str| OF_THE_FILE.contains(&key) || key.starts_with("split.");
    keys.0.retain(|key, _| !of_the_file(key));
    for (key, value) in model.metadata() {
        // A base's own key says the same in its own words.
        keys.0.entry(key).or_insert(value);
    }
    keys.0.extend(vocabulary.0.clone());
    keys.set(
        "general.architecture",
        GgufValue::String(model.architecture.into()),
    );
    keys.set("general.type", GgufValue::String("model".into()));
    keys.set("general.file_type", GgufValue::Int(kind.file_type()));
    keys.set("general.quantization_version", GgufValue::Int(2));
    keys
}

/// Elements that are in work at a time: 16 MB of f32.
const PANEL: usize = 1 << 22;

/// Makes a tensor's bytes; `heads` is the number of heads whose rows are to be interleaved.
fn write_tensor(
    view: &WeightView,
    heads: Option<usize>,
    kind: GgmlType,
    sink: &mut Sink,
) -> Result<()> {
    match &view.source {
        Source::Ggml {
            bytes,
            kind: stored,
            heads: permuted,
            ..
        } if *stored == kind && *permuted == heads => return sink(bytes.as_slice()),
        Source::Plain { .. } | Source::Random { .. }
            if heads.is_none() && view.float_dtype() == blocks::float_dtype(kind) =>
        {
            return view.with_bytes(|bytes| sink(bytes))?;
        }
        _ => {}
    }
    let [rows, columns] = view.shape[..] else {
        let values = view.tensor(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let head = heads.map(|heads| values.len() / heads);
        let values = interleaved(values, head, 1);
        return sink(&blocks::encode(&view.name, &values, values.len(), 0, kind)?);
    };
    let stored = Changed::open(view, Change::Keep)?;
    let head = heads.map(|heads| rows / heads);
    let group = head.unwrap_or(1);
    // Whole heads at a time.
    for groups in panels(0..rows / group, columns * group, PANEL) {
        let rows = groups.start * group..groups.end * group;
        let first = rows.start * columns;
        let mut values = Vec::new();
        stored.read_base(rows, &mut values)?;
        let values = interleaved(values, head, columns);
        sink(&blocks::encode(&view.name, &values, columns, first, kind)?)?;
    }
    view.release();
    Ok(())
}

/// Rows of whole heads, of `head` rows each, in llama.cpp's order: it rotates adjacent pairs where Hugging Face rotates
/// the two halves, so row i of the first half comes before row i of the second.
fn interleaved(values: Vec<f32>, head: Option<usize>, columns: usize) -> Vec<f32> {
    let Some(head) = head else {
        return values;
    };
    let mut out = Vec::with_capacity(values.len());
    for rows in values.chunks_exact(head * columns) {
        let (first, second) = rows.split_at(head / 2 * columns);
        let pairs = first
            .chunks_exact(columns)
            .zip(second.chunks_exact(columns));
        pairs.for_each(|(a, b)| {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        });
    }
    out
}
