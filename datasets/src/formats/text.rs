//! Documents to read through: `text` in JSON or JSONL, or any other file as
//! one document.

use std::path::Path;

use super::{Format, array_or_lines};
use crate::Result;
use crate::recipe::SourceSection;
use crate::record::{Document, Record, Sample};
use crate::rows::{Rows, whole_text};

pub(super) const FORMAT: Format = Format {
    name: "text",
    about: "text; .json (array), .jsonl, or any other file as one document",
    splits: &[],
    read,
    sample: Some(sample),
};

fn read(path: &Path, name: &str, source: &SourceSection) -> Result<Rows> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("json" | "jsonl" | "ndjson") => array_or_lines(path, name, source),
        _ => whole_text(path, name),
    }
}

fn sample(record: &Record) -> Result<Sample> {
    let text = record.text("text")?.to_string();
    let provenance = record.provenance.clone();
    Ok(Sample::Document(Document {
        id: record.id.clone(),
        text,
        provenance,
    }))
}
