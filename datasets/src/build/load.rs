//! Reads a built folder back.

use std::path::Path;

use super::{TRAIN_FILE, VALIDATION_FILE};
use crate::files::SourceFile;
use crate::record::{Conversation, Document};
use crate::{Error, Place, Result, rows};

/// Samples of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Samples {
    /// To tune on.
    Conversations(Vec<Conversation>),
    /// To pre-train on.
    Documents(Vec<Document>),
}

impl Samples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Samples::Conversations(conversations) => conversations.len(),
            Samples::Documents(documents) => documents.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A built folder, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltSamples {
    /// To train on.
    pub train: Samples,
    /// To measure on; may be empty.
    pub validation: Samples,
}

/// Reads what [`build`](super::build) wrote.
///
/// # Errors
/// A file that is missing or is not as it was written.
pub fn load_built(folder: &Path) -> Result<BuiltSamples> {
    let train = load(&folder.join(TRAIN_FILE), TRAIN_FILE)?;
    let validation = load(&folder.join(VALIDATION_FILE), VALIDATION_FILE)?;
    Ok(BuiltSamples { train, validation })
}

fn load(path: &Path, name: &str) -> Result<Samples> {
    let (mut conversations, mut documents) = (Vec::new(), Vec::new());
    for row in rows::array_or_lines(&SourceFile::new(path, name))? {
        let row = row?;
        let document = row.fields.contains_key("text");
        let at = Place {
            file: name.to_string(),
            line: row.record,
            record: None,
        };
        // The parser's own words are left out: they quote values.
        let failed = |_| Error::NotASample { at };
        let value = serde_json::Value::Object(row.fields);
        if document {
            documents.push(serde_json::from_value(value).map_err(failed)?);
        } else {
            conversations.push(serde_json::from_value(value).map_err(failed)?);
        }
    }
    Ok(if documents.is_empty() {
        Samples::Conversations(conversations)
    } else {
        Samples::Documents(documents)
    })
}
