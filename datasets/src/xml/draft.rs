//! Rows in the making: fields without a number yet, and what is wrong with a
//! record that cannot be used.

use serde_json::{Map, Value};

use crate::Error;
use crate::files::SourceFile;
use crate::rows::Row;

/// `name` if it looks like one of a format, else its length.
pub(crate) fn name_only(name: &str) -> String {
    let word = name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.:/".contains(c));
    if word {
        name.to_string()
    } else {
        format!("(a name of {} bytes)", name.len())
    }
}

/// A row that has no number yet.
pub(crate) struct Draft {
    pub key: Option<String>,
    pub fields: Map<String, Value>,
}

impl Draft {
    pub fn new<const N: usize>(key: Option<String>, fields: [(&str, Value); N]) -> Self {
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name.to_string(), value));
        Self {
            key,
            fields: fields.collect(),
        }
    }

    pub fn row(self, record: u64) -> Row {
        Row {
            key: self.key,
            record,
            fields: self.fields,
        }
    }
}

/// Why a record cannot be used: its parts do not fit together.
pub(crate) struct Flaw {
    pub line: u64,
    /// The record's own id, as its file has it.
    pub id: String,
    pub problem: String,
}

impl Flaw {
    pub fn new(line: u64, id: &str, problem: impl Into<String>) -> Self {
        Self {
            line,
            id: name_only(id),
            problem: problem.into(),
        }
    }

    pub fn at(self, file: &SourceFile, record: u64) -> Error {
        Error::BadRecord {
            at: file.place(self.line, Some(record)),
            id: self.id,
            problem: self.problem,
        }
    }
}
