//! GGUF files, llama.cpp's container: read here with every claim of the header checked, and shown under the names,
//! shapes and configuration keys that Hugging Face gives the same model; and written.
//!
//! Source of the container: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; of the names and of the
//! permutation of q and k: llama.cpp's `convert_hf_to_gguf.py`.

mod config;
mod metadata;
mod names;
mod read;
mod write;

pub use metadata::{GgufMetadata, GgufValue};

pub(crate) use config::config;
pub use write::{GgufFallback, GgufReport, GgufType, export_gguf, export_gguf_lora};

use names::{Place, Rows, place};
pub(crate) use read::{GgufFile, open};

use crate::weights::WeightView;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The file's tensors under their Hugging Face names, in Hugging Face's row order.
pub(crate) fn views(
    path: &Path,
    file: &GgufFile,
    config: &Value,
) -> Result<BTreeMap<String, WeightView>> {
    let architecture = file
        .metadata
        .string("general.architecture")
        .unwrap_or_default();
    let heads = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let mut views = BTreeMap::new();
    for (ggml, tensor) in &file.tensors {
        let (name, rows) = match place(architecture, ggml) {
            Place::Tensor { name, rows } => (name, rows),
            Place::RopeFactors => continue,
            Place::Unknown => {
                let architecture = architecture.into();
                return Err(Error::GgufTensor {
                    path: path.into(),
                    tensor: ggml.clone(),
                    architecture,
                });
            }
        };
        let heads = match rows {
            Rows::AsStored => None,
            Rows::QueryHeads => heads("num_attention_heads"),
            Rows::KeyHeads => heads("num_key_value_heads"),
        };
        // The halves of a head's rows change places, so there must be two.
        if let Some(heads) = heads
            && tensor.shape[0] % (2 * heads) != 0
        {
            let reason = format!(
                "tensor `{ggml}` has {} rows, which {heads} heads do not share",
                tensor.shape[0]
            );
            return Err(Error::Damaged {
                path: path.into(),
                reason,
            });
        }
        let view = WeightView::ggml(
            name.clone(),
            tensor.shape.clone(),
            tensor.bytes.clone(),
            tensor.kind,
            heads,
            tensor.file.clone(),
        );
        views.insert(name, view);
    }
    Ok(views)
}
