//! A source's rows and what becomes of them.

use ledger::AccessClass;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Where a record came from and under whose terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The source's name in the recipe.
    pub source: String,
    /// The file as the recipe writes it, relative to the data root, so that
    /// the same build from another folder gives the same bytes.
    pub file: String,
    /// The line of a JSONL file, or the element of an array or object; 1-based.
    pub record: u64,
    /// The licence as the recipe states it.
    pub licence: String,
    /// How freely the text may travel.
    pub access: AccessClass,
    /// What cleaning changed in its text: `unicode`, `html`, `redacted DATE x2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<String>,
}

/// One source row: named fields and where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Unique within a build: the source's name and the row's own key or number.
    pub id: String,
    /// The row's fields in the order of the file.
    pub fields: Map<String, Value>,
    /// Where it came from.
    pub provenance: Provenance,
}

impl Record {
    /// The text of field `name`.
    ///
    /// # Errors
    /// The field is missing or is not a string.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.fields.get(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(self.wrong_field(name, "a string", other)),
        }
    }

    /// The text of field `name`; empty when the field is absent or null.
    ///
    /// # Errors
    /// The field is there and is not a string.
    pub fn text_or_empty(&self, name: &str) -> Result<&str> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(_) => self.text(name),
        }
    }

    /// Names the record in an error.
    pub fn site(&self) -> Site {
        Site::of(&self.id, &self.provenance)
    }

    /// About how much text it holds, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        self.fields.values().map(text_bytes).sum()
    }

    pub(crate) fn wrong_field(
        &self,
        name: &str,
        wanted: &'static str,
        found: Option<&Value>,
    ) -> Error {
        Error::Field {
            at: Box::new(self.site()),
            field: name.to_string(),
            wanted,
            found: found.map(json_kind),
            available: self.fields.keys().cloned().collect(),
        }
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// What kind of JSON value this is; names kinds in messages without showing text.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A sample named in an error: its id, file and record, never its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The sample's id.
    pub id: String,
    /// The file it came from.
    pub file: String,
    /// Its line or element there, 1-based.
    pub record: u64,
}

impl Site {
    /// Names a sample by its id and provenance.
    pub fn of(id: &str, provenance: &Provenance) -> Self {
        Self {
            id: id.to_string(),
            file: provenance.file.clone(),
            record: provenance.record,
        }
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "sample {} ({}, record {})",
            self.id, self.file, self.record
        )
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model; its messages are what tuning teaches.
    Assistant,
}

impl Role {
    /// The name that chat templates use.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A conversation to tune on: every assistant message is taught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// The record's id.
    pub id: String,
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Where the record came from.
    pub provenance: Provenance,
}

impl Conversation {
    /// Names the conversation in an error.
    pub fn site(&self) -> Site {
        Site::of(&self.id, &self.provenance)
    }

    /// Refuses a conversation that could teach nothing: one without an
    /// assistant message, or with an assistant message that has no text.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] or [`Error::EmptyAnswer`].
    pub fn check(&self) -> Result<()> {
        if !self.messages.iter().any(|m| m.role == Role::Assistant) {
            return Err(Error::NoAnswer { at: self.site() });
        }
        let empty = |m: &Message| m.role == Role::Assistant && m.content.trim().is_empty();
        match self.messages.iter().position(empty) {
            Some(message) => Err(Error::EmptyAnswer {
                at: self.site(),
                message: message + 1,
            }),
            None => Ok(()),
        }
    }
}

/// A text to read through, for continual pre-training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The record's id.
    pub id: String,
    /// The text.
    pub text: String,
    /// Where it came from.
    pub provenance: Provenance,
}

impl Document {
    /// Names the document in an error.
    pub fn site(&self) -> Site {
        Site::of(&self.id, &self.provenance)
    }
}

/// What a record becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Sample {
    /// To tune on.
    Conversation(Conversation),
    /// To pre-train on.
    Document(Document),
}

impl Sample {
    /// The record's id.
    pub fn id(&self) -> &str {
        match self {
            Sample::Conversation(c) => &c.id,
            Sample::Document(d) => &d.id,
        }
    }

    /// Names the sample in an error.
    pub fn site(&self) -> Site {
        Site::of(self.id(), self.provenance())
    }

    /// Where the record came from.
    pub fn provenance(&self) -> &Provenance {
        match self {
            Sample::Conversation(c) => &c.provenance,
            Sample::Document(d) => &d.provenance,
        }
    }

    pub(crate) fn provenance_mut(&mut self) -> &mut Provenance {
        match self {
            Sample::Conversation(c) => &mut c.provenance,
            Sample::Document(d) => &mut d.provenance,
        }
    }

    /// How much text it holds, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Sample::Conversation(c) => c.messages.iter().map(|m| m.content.len()).sum(),
            Sample::Document(d) => d.text.len(),
        }
    }
}
