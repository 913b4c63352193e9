//! A whole file as one record.

use serde_json::{Map, Value};

use super::input::not_utf8;
use super::{MAX_RECORD_BYTES, Row, Rows};
use crate::Result;
use crate::files::SourceFile;

/// A text file as one row with the field `text`.
pub(crate) fn whole_text(file: &SourceFile) -> Result<Rows> {
    let text = match String::from_utf8(file.bytes(MAX_RECORD_BYTES)?) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(file.place(1, None), error.utf8_error())),
    };
    let fields = Map::from_iter([("text".to_string(), Value::String(text))]);
    Ok(Box::new(std::iter::once(Ok(Row {
        key: None,
        record: 1,
        fields,
    }))))
}
