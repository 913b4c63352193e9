//! Takes a row's fields by name, and names the row where one is not as the
//! format says.

use serde_json::Value;

use crate::files::SourceFile;
use crate::record::{Site, json_kind};
use crate::rows::{Row, Rows};
use crate::{Error, Result};

/// Changes each row to the fields that a format promises. A row that cannot be
/// changed is one bad record.
pub(super) fn each(
    rows: Rows,
    file: &SourceFile,
    change: impl Fn(Row, &str) -> Result<Row> + Send + 'static,
) -> Rows {
    let file = file.name.clone();
    Box::new(rows.map(move |row| change(row?, &file)))
}

pub(super) fn site(row: &Row, file: &str) -> Box<Site> {
    Box::new(Site {
        id: row.key.clone().unwrap_or_else(|| row.record.to_string()),
        file: file.to_string(),
        record: row.record,
    })
}

/// The field is missing or of another kind.
pub(super) fn wrong_field(row: &Row, file: &str, field: &str, wanted: &'static str) -> Error {
    Error::Field {
        at: site(row, file),
        field: field.to_string(),
        wanted,
        found: row.fields.get(field).map(json_kind),
        available: row.fields.keys().cloned().collect(),
    }
}

/// The field is of the right kind, but its value is none that the format knows.
pub(super) fn wrong_value(
    row: &Row,
    file: &str,
    field: &str,
    wanted: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    Error::Value {
        at: site(row, file),
        field: field.to_string(),
        wanted: wanted.into(),
        found: found.into(),
    }
}

/// A word as an error may show it: labels and numbers are, texts are not.
pub(super) fn shown_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.&".contains(c);
    if word.len() <= 24 && word.chars().all(plain) {
        format!("{word:?}")
    } else {
        format!("a text of {} bytes", word.len())
    }
}

pub(super) fn text<'r>(row: &'r Row, file: &str, field: &str) -> Result<&'r str> {
    let value = row.fields.get(field).and_then(Value::as_str);
    value.ok_or_else(|| wrong_field(row, file, field, "a string"))
}

/// A list of strings.
pub(super) fn texts<'r>(row: &'r Row, file: &str, field: &str) -> Result<Vec<&'r str>> {
    let list = row.fields.get(field).and_then(Value::as_array);
    list.and_then(|list| list.iter().map(Value::as_str).collect())
        .ok_or_else(|| wrong_field(row, file, field, "a list of strings"))
}

/// A whole number, which tables write as text.
pub(super) fn number(row: &Row, file: &str, field: &str) -> Result<i64> {
    let number = match row.fields.get(field) {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| wrong_field(row, file, field, "a whole number"))
}

/// Writes an empty text where a field is missing or null, so that templates may
/// name it.
pub(super) fn empty_if_missing(row: &mut Row, fields: &[&str]) {
    for field in fields {
        if row.fields.get(*field).is_none_or(Value::is_null) {
            row.fields.insert((*field).to_string(), "".into());
        }
    }
}
