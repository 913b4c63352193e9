//! Which model some weights are: one hash over configuration and tensors, however they are spread over files.

use crate::{Result, WeightView, Weights};
use ledger::hash::{hex, sha256_bytes};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Keys of a `config.json` that say who wrote it and not what the model computes.
const INCIDENTAL: &[&str] = &["_name_or_path", "transformers_version"];

impl Weights {
    /// SHA-256 over the configuration and every tensor's name, dtype, shape and bytes. Reads all weights once, in
    /// parallel; the same for one file and for shards.
    pub fn fingerprint(&self) -> Result<String> {
        let views: Vec<_> = self.views().collect();
        let hashes: Vec<String> = views
            .par_iter()
            .map(|view| {
                let hash = view.with_bytes(sha256_bytes);
                view.release();
                hash
            })
            .collect::<Result<_>>()?;
        Ok(fingerprint_of(
            self.config(),
            views.into_iter().zip(&hashes),
        ))
    }
}

/// The fingerprint of tensors whose bytes have been hashed.
pub(crate) fn fingerprint_of<'a>(
    config: &Value,
    hashes: impl Iterator<Item = (&'a WeightView, &'a String)>,
) -> String {
    let mut lines: Vec<(&str, String)> = hashes
        .map(|(view, hash)| {
            let (name, dtype, shape) = (&view.name, view.dtype_name(), &view.shape);
            (name.as_str(), format!("\n{name} {dtype} {shape:?} {hash}"))
        })
        .collect();
    lines.sort();
    let mut whole = Sha256::new();
    whole.update(canonical(config));
    for (_, line) in lines {
        whole.update(line);
    }
    hex(&whole.finalize())
}

/// JSON with sorted keys and nothing incidental.
fn canonical(config: &Value) -> String {
    match config {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map
                .keys()
                .filter(|k| !INCIDENTAL.contains(&k.as_str()))
                .collect();
            keys.sort();
            let fields: Vec<String> = keys
                .into_iter()
                .map(|k| format!("{}:{}", Value::String(k.clone()), canonical(&map[k])))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        other => other.to_string(),
    }
}
