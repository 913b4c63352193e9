//! MTSamples transcriptions as Kaggle's table has them.

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::fields::each;
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Dialect, Header, Row, Rows, table};

pub(super) const FORMAT: Format = Format {
    name: "mtsamples",
    about: "description, medical_specialty, sample_name, transcription, keywords, all trimmed; CSV",
    splits: &[],
    read,
    sample: None,
};

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let required = [
        "description",
        "medical_specialty",
        "sample_name",
        "transcription",
        "keywords",
    ];
    let rows = table(file, Dialect::CSV, Header::of(source), &required)?;
    Ok(each(rows, file, trimmed))
}

/// The table has a space before most cells: ` Surgery` is the specialty Surgery.
fn trimmed(mut row: Row, _: &str) -> Result<Row> {
    for (_, value) in &mut row.fields {
        if let Value::String(text) = value
            && text.trim().len() < text.len()
        {
            *text = text.trim().to_string();
        }
    }
    Ok(row)
}
