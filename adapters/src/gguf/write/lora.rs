//! LoRA adapters as llama.cpp loads them beside a base: `NAME.lora_a` (r, in) and `NAME.lora_b` (out, r), applied with
//! the factor `adapter.lora.alpha` / r.
//!
//! Source: llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`.

use super::super::metadata::{GgufMetadata, GgufValue};
use super::super::names::stored;
use super::architecture::Model;
use super::container::{self, Entry};
use super::types::fallback;
use super::{GgufReport, GgufType, blocks, counted, heads, interleaved};
use crate::merge::Updates;
use crate::{Error, PeftAdapter, Result, Weights};
use candle_core::{DType, Tensor};
use kernels::GgmlType;
use std::path::Path;

/// Writes an adapter as a GGUF file for bases that are GGUF files of `base`, or of what it was made from.
///
/// llama.cpp scales by alpha / r, so alpha is written as the adapter's scaling times r: for rank-stabilised adapters
/// that is alpha · √r.
///
/// # Errors
/// An adapter that is not of this base; DoRA and modules saved whole, which the format has no place for; Q4_K, which
/// llama.cpp does not use for adapters.
pub fn export_gguf_lora(
    adapter: &PeftAdapter,
    base: &Weights,
    out: &Path,
    kind: GgufType,
) -> Result<GgufReport> {
    crate::export::refuse_base_as_output(base, out)?;
    refuse_inexpressible(adapter, kind)?;
    // Every module is a linear layer of the base, and every matrix has its shape.
    Updates::new(base, adapter, false)?;
    let model = Model::read(base.config())?;
    let mut pairs = Vec::new();
    for module in adapter.modules() {
        let name = format!("{module}.weight");
        let Some(place) = stored(model.architecture, &name) else {
            return Err(Error::GgufNoPlace {
                tensor: name,
                architecture: model.architecture.into(),
            });
        };
        if name == crate::peft::EMBEDDING {
            let what = "a low-rank update of the embedding";
            return Err(Error::GgufLora { what });
        }
        if let Some((a, b)) = adapter.pair(module) {
            pairs.push((place, a, b));
        }
    }
    pairs.sort_by_key(|(place, ..)| (place.layer.is_none(), place.layer, place.order));
    let (mut entries, mut tensors, mut fallbacks) = (Vec::new(), Vec::new(), Vec::new());
    for (place, a, b) in &pairs {
        let halves: [(&str, &Tensor, _); 2] = [
            ("lora_a", a, None),
            ("lora_b", b, heads(place.rows, &model)),
        ];
        for (half, tensor, heads) in halves {
            let name = format!("{}.{half}", place.name);
            let (rows, columns) = tensor.dims2()?;
            let (used, fell) = fallback(&name, columns, kind.of_matrix());
            fallbacks.extend(fell);
            tensors.push((tensor, heads.map(|heads| rows / heads)));
            entries.push(Entry {
                name,
                kind: used,
                shape: vec![rows, columns],
            });
        }
    }
    let metadata = metadata(adapter, &model, kind);
    let bytes = container::write(out, &metadata, &entries, |index, sink| {
        let (tensor, head) = tensors[index];
        let Entry { name, kind, shape } = &entries[index];
        sink(&encoded(name, tensor, head, shape[1], *kind)?)
    })?;
    Ok(GgufReport {
        tensors: entries.len(),
        bytes,
        types: counted(&entries),
        fallbacks,
        left_out: Vec::new(),
    })
}

fn refuse_inexpressible(adapter: &PeftAdapter, kind: GgufType) -> Result<()> {
    let what = if adapter.config.lora.use_dora {
        "DoRA's magnitudes"
    } else if adapter.saved().next().is_some() {
        "modules saved whole"
    } else if kind == GgufType::Q4K {
        return Err(Error::Dtype {
            dtype: "q4_k".into(),
            choices: "f32, f16, bf16, q8_0 for an adapter",
        });
    } else {
        return Ok(());
    };
    Err(Error::GgufLora { what })
}

fn encoded(
    name: &str,
    tensor: &Tensor,
    head: Option<usize>,
    columns: usize,
    kind: GgmlType,
) -> Result<Vec<u8>> {
    let values = tensor
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    blocks::encode(name, &interleaved(values, head, columns), columns, 0, kind)
}

fn metadata(adapter: &PeftAdapter, model: &Model, kind: GgufType) -> GgufMetadata {
    let lora = &adapter.config.lora;
    let alpha = lora.scaling() * lora.rank as f64;
    let text = |text: &str| GgufValue::String(text.into());
    let pairs = [
        ("general.architecture", text(model.architecture)),
        ("general.type", text("adapter")),
        ("general.file_type", GgufValue::Int(kind.file_type())),
        ("general.quantization_version", GgufValue::Int(2)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", GgufValue::F32(alpha as f32)),
    ];
    let named = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    named.collect()
}
