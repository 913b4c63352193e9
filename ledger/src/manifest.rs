//! What a stage of a run read, how it was set, and what it wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AccessClass, Error, Result, files, hash};

/// The name of a stage's manifest, in the stage's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The name of the file for what was measured (time, host, memory, absolute paths), beside the manifest. It is
/// outside every hash: two runs of the same recipe differ in it and only in it.
pub const MEASURED_FILE: &str = "measured.json";

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileHash {
    /// Relative to a folder that both sides know, or a logical name; always with forward slashes.
    pub path: String,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
    /// Length of the content.
    pub bytes: u64,
}

impl FileHash {
    /// Reads a file and names it `name`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn of(file: &Path, name: impl Into<String>) -> Result<Self> {
        let sha256 = hash::sha256_file(file)?;
        let bytes = fs::metadata(file)
            .map_err(|source| Error::Read {
                path: file.to_owned(),
                source,
            })?
            .len();
        Ok(Self {
            path: name.into(),
            sha256,
            bytes,
        })
    }

    /// Hashes bytes that are in no file (a setting, a generated text) under a logical name.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], name: impl Into<String>) -> Self {
        Self {
            path: name.into(),
            sha256: hash::sha256_bytes(bytes),
            bytes: bytes.len() as u64,
        }
    }

    /// Every file below a folder, sorted by name, without the folder's own manifest and measured facts.
    /// Symbolic links are followed when they lead to files, and passed over when they lead to folders.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn tree(folder: &Path) -> Result<Vec<Self>> {
        Self::tree_with(folder, &[])
    }

    /// As [`Self::tree`], each name behind `prefix`: a folder among the inputs of a stage.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn tree_as(folder: &Path, prefix: &str) -> Result<Vec<Self>> {
        let named = |file: Self| Self {
            path: format!("{prefix}{}", file.path),
            ..file
        };
        Ok(Self::tree(folder)?.into_iter().map(named).collect())
    }

    /// As [`Self::tree`], without reading the files whose hashes are known: those that have just been written.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn tree_with(folder: &Path, known: &[Self]) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        collect(folder, "", known, &mut found)?;
        found.sort();
        Ok(found)
    }
}

fn collect(
    folder: &Path,
    prefix: &str,
    known: &[FileHash],
    found: &mut Vec<FileHash>,
) -> Result<()> {
    let failed = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(failed)?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), known, found)?;
        } else if let Some(hash) = known.iter().find(|file| file.path == name) {
            found.push(hash.clone());
        } else if name != MANIFEST_FILE && name != MEASURED_FILE && entry.path().is_file() {
            found.push(FileHash::of(&entry.path(), name)?);
        }
    }
    Ok(())
}

/// What a stage of a run read, how it was set, and what it wrote: `manifest.json` in the stage's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Which stage: `data`, `train`, `merged`, ...
    pub stage: String,
    /// The version of the program that wrote it.
    pub program_version: String,
    /// What was read.
    pub inputs: Vec<FileHash>,
    /// The resolved settings that the outputs depend on.
    pub settings: Value,
    /// What was written, relative to the stage's folder.
    pub outputs: Vec<FileHash>,
    /// Numbers of things: records read, dropped by reason, tokens.
    pub counts: BTreeMap<String, u64>,
    /// The strictest terms of everything that went in.
    pub access: AccessClass,
    /// Facts of the stage that follow from the inputs alone: a merge's proof, an evaluation's scores.
    pub details: Value,
}

impl Manifest {
    /// Reads a folder's manifest; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Manifest`] when it is not one.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path, source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::Manifest { path, source })
    }

    /// Writes the folder's manifest, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|source| Error::Json {
            what: "the manifest",
            source,
        })?;
        text.push(b'\n');
        files::write_atomic(&folder.join(MANIFEST_FILE), &text)
    }

    /// Whether the stage in `folder` would come out the same if it ran again: same inputs by content (in any
    /// order), same settings, same program, and every output still there with its length.
    ///
    /// Outputs are not hashed again: that would read a merged model on every start.
    #[must_use]
    pub fn is_current(
        &self,
        folder: &Path,
        inputs: &[FileHash],
        settings: &Value,
        version: &str,
    ) -> bool {
        self.stage_changes(folder, inputs, settings, version)
            .is_none()
    }

    /// The first reason why the stage has to run again, in words; `None` when it is current.
    #[must_use]
    pub fn stage_changes(
        &self,
        folder: &Path,
        inputs: &[FileHash],
        settings: &Value,
        version: &str,
    ) -> Option<String> {
        if self.program_version != version {
            return Some(format!("made by version {}", self.program_version));
        }
        if let Some(key) = first_difference(&self.settings, settings, "") {
            return Some(format!("setting `{key}` changed"));
        }
        let by_name = |files: &[FileHash]| -> BTreeMap<String, String> {
            files
                .iter()
                .map(|file| (file.path.clone(), file.sha256.clone()))
                .collect()
        };
        let (old, new) = (by_name(&self.inputs), by_name(inputs));
        if let Some((name, _)) = new.iter().find(|(name, hash)| old.get(*name) != Some(hash)) {
            return Some(format!("input `{name}` changed"));
        }
        if let Some(name) = old.keys().find(|name| !new.contains_key(*name)) {
            return Some(format!("input `{name}` is no longer used"));
        }
        let gone = |file: &&FileHash| {
            fs::metadata(folder.join(&file.path)).map_or(true, |found| found.len() != file.bytes)
        };
        self.outputs
            .iter()
            .find(gone)
            .map(|file| format!("output `{}` is missing or has another length", file.path))
    }
}

/// The dotted key of the first place where two settings differ.
fn first_difference(old: &Value, new: &Value, key: &str) -> Option<String> {
    if old == new {
        return None;
    }
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let join = |name: &str| {
            if key.is_empty() {
                name.to_owned()
            } else {
                format!("{key}.{name}")
            }
        };
        for (name, value) in new {
            match old.get(name) {
                None => return Some(join(name)),
                Some(before) => {
                    if let Some(found) = first_difference(before, value, &join(name)) {
                        return Some(found);
                    }
                }
            }
        }
        return old
            .keys()
            .find(|name| !new.contains_key(*name))
            .map(|name| join(name));
    }
    Some(if key.is_empty() {
        "all".into()
    } else {
        key.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stage(folder: &Path) -> Manifest {
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("train.jsonl"), "{}\n").unwrap();
        fs::write(folder.join("sub/b"), "b").unwrap();
        Manifest {
            stage: "data".into(),
            program_version: "0.1.0".into(),
            inputs: vec![
                FileHash::of_bytes(b"one", "a.json"),
                FileHash::of_bytes(b"two", "b.json"),
            ],
            settings: json!({"max_seq_len": 512, "chat": {"template": "me-llama"}}),
            outputs: FileHash::tree(folder).unwrap(),
            counts: BTreeMap::from([("records".into(), 1)]),
            access: AccessClass::Registered,
            details: Value::Null,
        }
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = stage(folder.path());
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        manifest.write(folder.path()).unwrap();
        assert_eq!(
            Manifest::read(folder.path()).unwrap(),
            Some(manifest.clone())
        );
        // The manifest and what was measured are not among a folder's outputs.
        fs::write(folder.path().join(MEASURED_FILE), "{}").unwrap();
        assert_eq!(FileHash::tree(folder.path()).unwrap(), manifest.outputs);
        let names: Vec<_> = manifest
            .outputs
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(names, ["sub/b", "train.jsonl"]);
    }

    #[test]
    fn a_stage_is_current_until_something_it_depends_on_changes() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        let manifest = stage(folder);
        let (inputs, settings) = (manifest.inputs.clone(), manifest.settings.clone());
        let reversed: Vec<_> = inputs.iter().rev().cloned().collect();
        assert!(manifest.is_current(folder, &inputs, &settings, "0.1.0"));
        assert!(manifest.is_current(folder, &reversed, &settings, "0.1.0"));

        let reason = |inputs: &[FileHash], settings: &Value, version: &str| {
            manifest
                .stage_changes(folder, inputs, settings, version)
                .unwrap()
        };
        assert_eq!(reason(&inputs, &settings, "0.2.0"), "made by version 0.1.0");
        let other = json!({"max_seq_len": 512, "chat": {"template": "llama-3"}});
        assert_eq!(
            reason(&inputs, &other, "0.1.0"),
            "setting `chat.template` changed"
        );
        assert_eq!(
            reason(&inputs, &json!({"max_seq_len": 512}), "0.1.0"),
            "setting `chat` changed"
        );
        let edited = [inputs[0].clone(), FileHash::of_bytes(b"2", "b.json")];
        assert_eq!(
            reason(&edited, &settings, "0.1.0"),
            "input `b.json` changed"
        );
        assert_eq!(
            reason(&inputs[..1], &settings, "0.1.0"),
            "input `b.json` is no longer used"
        );

        fs::write(folder.join("train.jsonl"), "{}").unwrap();
        assert_eq!(
            reason(&inputs, &settings, "0.1.0"),
            "output `train.jsonl` is missing or has another length"
        );
    }

    #[test]
    fn a_manifest_that_is_none_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST_FILE), "{\"stage\": 3}").unwrap();
        let error = Manifest::read(folder.path()).unwrap_err();
        let shown = format!("{error}\nhint: {}", error.hint().unwrap())
            .replace(folder.path().to_str().unwrap(), "run/data");
        insta::assert_snapshot!(shown, @"
        `run/data/manifest.json` is not a manifest that this version can read
        hint: remove `run/data/manifest.json` to run its stage again
        ");
    }
}
