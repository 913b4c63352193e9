//! The recipe sections of this crate: `[data]`, `[[data.source]]` and
//! `[data.source.task]`. The comments on the fields are the user's help.

use std::borrow::Cow;

use ledger::AccessClass;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::formats::{self, Format};

/// What the model is tuned on, and how it is laid out as tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// How a conversation is written as text: `chat` uses the tokenizer's own
    /// chat template, `me-llama` is Me-LLaMA's `Human: ... Assistant: ...`.
    pub template: TemplateKind,
    /// The longest sample, and the length of a pack, in tokens.
    pub max_seq_len: usize,
    /// What to do with a sample longer than max_seq_len.
    pub on_too_long: OnTooLong,
    /// The share of all samples (0 to 1) held out for validation, chosen by the
    /// seed. Use either this or `[[data.validation]]`.
    pub validation_fraction: f64,
    /// Puts several samples in one row of tokens, each seeing only itself.
    pub packing: bool,
    /// Where the samples come from.
    pub source: Vec<SourceSection>,
    /// Where the validation samples come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Vec<SourceSection>>,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            template: TemplateKind::default(),
            max_seq_len: 2048,
            on_too_long: OnTooLong::default(),
            validation_fraction: 0.0,
            packing: true,
            source: Vec::new(),
            validation: None,
        }
    }
}

/// How a conversation is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateKind {
    /// The chat template that came with the tokenizer.
    #[default]
    Chat,
    /// Me-LLaMA's own.
    MeLlama,
}

/// What to do with a sample that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTooLong {
    /// Stop and name the sample.
    #[default]
    Error,
    /// Leave it out, count it and list it.
    Drop,
    /// Cut the middle out of its longest question; never the answer or its end.
    TruncatePrompt,
}

/// One source of records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// A short name; it starts every sample's id.
    pub name: String,
    /// How the file's records are written.
    pub format: FormatName,
    /// The file, or a folder of files read in the order of their names,
    /// relative to the data root.
    pub path: String,
    /// The part to use, for formats that have official splits (`pubmedqa`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Which fold of the official cross-validation `train` and `dev` mean;
    /// 0 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<usize>,
    /// Use at most this many records, chosen by the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The licence the text is under.
    #[serde(default = "unstated")]
    pub licence: String,
    /// Whose terms the text is under; the strictest one goes with everything
    /// made from it.
    #[serde(default)]
    pub access: AccessClass,
    /// How a record becomes a conversation. Needed for formats whose records
    /// have no question and answer of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskSection>,
}

fn unstated() -> String {
    "unstated".to_string()
}

/// Templates (Jinja) over a record's fields, such as `{{ question }}`. A field
/// that a record does not have is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSection {
    /// The system message, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What the user asks.
    pub prompt: String,
    /// What the model is to answer.
    pub answer: String,
}

/// The name of one of [`formats::FORMATS`].
#[derive(Debug, Clone, Copy)]
pub struct FormatName(pub &'static Format);

impl PartialEq for FormatName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Serialize for FormatName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for FormatName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let names = || {
            formats::FORMATS
                .iter()
                .map(|f| f.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        formats::find(&name).map(FormatName).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "unknown format {name:?}; the formats are {}",
                names()
            ))
        })
    }
}

// The schema is made from the registry, so a new format is one line there.
impl JsonSchema for FormatName {
    fn schema_name() -> Cow<'static, str> {
        "FormatName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = formats::FORMATS.iter().map(|f| f.name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}
