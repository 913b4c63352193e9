//! The crate from outside, one module a subject.

mod build;
mod builder;
mod cleaning;
mod clinical;
mod containers;
mod gguf_out;
mod golden;
mod packing;
mod phi;
mod published;
mod pubmedqa;
mod readers;
mod real_files;
mod sets;
mod tables;
mod templates;
mod vocabularies;

use std::path::Path;

use datasets::recipe::SourceSection;
use datasets::{Error, Record, Result};

/// An error as the user reads it.
fn shown(error: &Error) -> String {
    let hint = error
        .hint()
        .map_or(String::new(), |hint| format!("\nhint: {hint}"));
    format!("{error}{hint}")
}

/// A source as a recipe would write it.
fn source(json: serde_json::Value) -> SourceSection {
    let mut section = serde_json::json!({"name": "s", "format": "records", "path": "data.jsonl"});
    section
        .as_object_mut()
        .unwrap()
        .extend(json.as_object().unwrap().clone());
    serde_json::from_value(section).unwrap()
}

/// As [`source`], going on after bad records.
fn dropping(mut json: serde_json::Value) -> SourceSection {
    json["on_bad_record"] = "drop".into();
    source(json)
}

/// Writes files into a folder that lives as long as the result.
fn folder<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn read_all(section: &SourceSection, root: &Path) -> Result<Vec<Record>> {
    datasets::read_source(section, root)?.collect()
}

/// A line a record or error, in the order they come.
fn outcomes(section: &SourceSection, root: &Path) -> String {
    let line = |read: Result<Record>| match read {
        Ok(record) => format!("{} {}", record.id, serde_json::json!(record.fields)),
        Err(error) => shown(&error),
    };
    let read = datasets::read_source(section, root).unwrap();
    read.map(line).collect::<Vec<_>>().join("\n")
}

/// The error of reading one file of `format`.
fn reading_fails(name: &str, bytes: &[u8], section: serde_json::Value) -> String {
    let root = folder([(name, bytes)]);
    let mut section = source(section);
    section.path = name.into();
    let error = read_all(&section, root.path()).unwrap_err();
    // Where the folder is differs from run to run.
    shown(&error).replace(root.path().to_str().unwrap(), "ROOT")
}
