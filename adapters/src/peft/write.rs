//! Writes an adapter that was made without training.

use super::{PeftAdapter, adapted, config, write_files};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

impl PeftAdapter {
    /// Writes the adapter into the folder `dir` as [`super::save`] writes a trained one. Same adapter, same bytes.
    /// Returns the files.
    pub fn save(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let modules = adapted(self.tensors.keys()).collect();
        let base = self.config.base_model.as_deref();
        // The settings name what is saved already, under both names where a tied table is.
        let mut json = config::json(&self.config.lora, base, modules, false);
        if let (true, Value::Object(settings)) = (self.config.ensure_weight_tying, &mut json) {
            settings.insert("ensure_weight_tying".into(), json!(true));
        }
        let tensors = self.tensors.iter().map(|(key, t)| (key.clone(), t));
        write_files(dir, &tensors.collect(), &json, self.belonging.as_ref())
    }
}
