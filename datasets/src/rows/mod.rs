//! Cuts files into rows, one at a time, and knows where each began.
//!
//! - [`json`]: an array, lines, or an object of records; one record is held;
//! - [`nested`]: records two levels down in one JSON object;
//! - [`table`]: cells between commas or tabs;
//! - [`workbook`] and [`columnar`]: XLSX and Parquet;
//! - [`text`]: a file as one record.

mod columnar;
mod input;
mod json;
mod nested;
mod table;
mod text;
mod workbook;

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;

pub(crate) use columnar::parquet;
pub(crate) use json::{array_or_lines, object};
pub(crate) use nested::{Names, Nested, nested};
pub(crate) use table::{Dialect, Header, table};
pub(crate) use text::whole_text;
pub(crate) use workbook::workbook;

/// Longest record that is read into memory. The largest honest ones (a book as
/// one document) are a few megabytes.
pub(crate) const MAX_RECORD_BYTES: usize = 32 << 20;

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its key, in an object of records.
    pub key: Option<String>,
    /// The line it begins on (JSONL, tables) or its number in the file; 1-based.
    pub record: u64,
    pub fields: Map<String, Value>,
}

/// Rows, read as they are asked for. A reader that can tell where the next
/// record begins goes on after a bad one; another ends after its error.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// Reads one row after another.
trait NextRow {
    /// The next row; `None` at the end of the file. The outer error ends the
    /// file; the inner one is one bad record's, and the next row is where it
    /// should be.
    fn next_row(&mut self) -> Result<Option<Result<Row>>>;
}

fn rows(reader: impl NextRow + Send + 'static) -> Rows {
    let mut reader = Some(reader);
    Box::new(std::iter::from_fn(move || {
        let next = reader.as_mut()?.next_row();
        if !matches!(next, Ok(Some(_))) {
            reader = None;
        }
        match next {
            Ok(row) => row,
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Records in whatever a publisher chose for a set that exists in several
/// kinds of file: JSON, Parquet, XLSX, or a table with commas or tabs. The
/// first bytes decide, and between commas and tabs the name. `required` are
/// the columns that a table must have.
pub(crate) fn records(
    file: &SourceFile,
    source: &SourceSection,
    required: &[&str],
) -> Result<Rows> {
    let mut reader = file.open()?;
    let start = reader.fill_buf().map_err(|error| file.failed(1, error))?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    if start.starts_with(b"PAR1") {
        return parquet(file, required);
    }
    if start.starts_with(b"PK\x03\x04") {
        return workbook(file, source.sheet.as_deref(), required);
    }
    match first {
        Some(b'[' | b'{') => array_or_lines(file),
        _ => {
            let tabs = [".tsv", ".tab", ".txt"]
                .iter()
                .any(|end| file.plain_name().ends_with(end));
            let dialect = if tabs { Dialect::TSV } else { Dialect::CSV };
            table(file, dialect, Header::of(source), required)
        }
    }
}
