//! Which model some weights are: one hash over configuration and tensors, however they are spread over files.

use crate::weights::Source;
use crate::{Result, WeightView, Weights};
use ledger::hash::{Sha256, hex};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// Keys of a `config.json` that say who wrote it and not what the model computes.
const INCIDENTAL: &[&str] = &["_name_or_path", "transformers_version"];

/// A model's weights by their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256 of the configuration and of every tensor's name, dtype, shape and BLAKE3, quantized as it is computed
    /// with: [`Weights::fingerprint`].
    pub whole: String,
    /// SHA-256 of the same without the configuration, each tensor as it is stored: the same for a base that is
    /// quantized as it is read and for one that is not.
    pub weights: String,
}

/// Puts a [`Fingerprint`] together from tensors that are hashed elsewhere, such as where they are streamed, in any order.
pub struct FingerprintBuilder {
    config: String,
    /// By name: how the tensor is computed with, how it is stored, shape, hash.
    tensors: BTreeMap<String, (String, String, Vec<usize>, String)>,
}

impl FingerprintBuilder {
    /// Of a model with this configuration.
    pub fn new(config: &Value) -> Self {
        Self {
            config: canonical(config),
            tensors: BTreeMap::new(),
        }
    }

    /// Adds a tensor of the model, with the BLAKE3 of the bytes that it is stored in.
    pub fn add(&mut self, view: &WeightView, blake3: [u8; 32]) {
        let stored = match &view.source {
            Source::ToNf4(stored) => stored.dtype_name(),
            _ => view.dtype_name(),
        };
        let tensor = (view.dtype_name(), stored, view.shape.clone(), hex(&blake3));
        self.tensors.insert(view.name.clone(), tensor);
    }

    /// The fingerprint, once every tensor has been added.
    pub fn finish(self) -> Fingerprint {
        let (mut whole, mut weights) = (Sha256::new(), Sha256::new());
        whole.update(self.config);
        for (name, (computed, stored, shape, data)) in self.tensors {
            whole.update(format!("\n{name} {computed} {shape:?} {data}"));
            weights.update(format!("\n{name} {stored} {shape:?} {data}"));
        }
        Fingerprint {
            whole: hex(&whole.finalize()),
            weights: hex(&weights.finalize()),
        }
    }
}

impl Weights {
    /// SHA-256 over the configuration and every tensor's name, dtype, shape and bytes (as BLAKE3, which reads a large model
    /// three times as fast). Reads all weights once, in
    /// parallel; the same for one file and for shards.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(self.fingerprints()?.whole)
    }

    /// [`Weights::fingerprint`], and that of the weights alone.
    pub fn fingerprints(&self) -> Result<Fingerprint> {
        let mut builder = FingerprintBuilder::new(self.config());
        let views: Vec<_> = self.views().collect();
        let hashes: Vec<[u8; 32]> = views
            .par_iter()
            .map(|view| {
                let hash = view.with_bytes(|bytes| blake3::hash(bytes).into());
                view.release();
                hash
            })
            .collect::<Result<_>>()?;
        for (view, hash) in views.into_iter().zip(hashes) {
            builder.add(view, hash);
        }
        Ok(builder.finish())
    }
}

/// SHA-256 of a configuration, its keys sorted, without those that say who wrote it.
pub(crate) fn of_config(config: &Value) -> String {
    hex(&Sha256::digest(canonical(config)))
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
