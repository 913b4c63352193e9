//! Documents to read through: `text` in JSON or JSONL, or any other file as
//! one document.

use std::path::Path;

use super::{Format, array_or_lines};
use crate::Result;
use crate::files::SourceFile;
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

fn read(file: &SourceFile, source: &SourceSection, data_root: &Path) -> Result<Rows> {
    match Path::new(file.plain_name())
        .extension()
        .and_then(|e| e.to_str())
    {
        Some("json" | "jsonl" | "ndjson") => array_or_lines(file, source, data_root),
        _ => whole_text(file),
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
