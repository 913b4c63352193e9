//! Which model some weights are: one hash over configuration and tensors, however they are spread over files.

use crate::{Result, Weights};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Keys of a `config.json` that say who wrote it and not what the model computes.
const INCIDENTAL: &[&str] = &["_name_or_path", "transformers_version"];

impl Weights {
    /// SHA-256 over the configuration and every tensor's name, dtype, shape and bytes. Reads all weights once, in
    /// parallel; the same for one file and for shards.
    pub fn fingerprint(&self) -> Result<String> {
        let mut whole = Sha256::new();
        whole.update(canonical(self.config()));
        let views: Vec<_> = self.views().collect();
        let lines: Vec<String> = views
            .into_par_iter()
            .map(|view| {
                let data = view.with_bytes(|bytes| hex(Sha256::digest(bytes).as_slice()))?;
                Ok(format!(
                    "\n{} {} {:?} {data}",
                    view.name,
                    view.dtype_name(),
                    view.shape
                ))
            })
            .collect::<Result<_>>()?;
        for line in lines {
            whole.update(line);
        }
        Ok(hex(whole.finalize().as_slice()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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
