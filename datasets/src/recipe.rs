//! The recipe sections of this crate: `[data]`, `[[data.source]]` and
//! `[data.source.task]`. The comments on the fields are the user's help.

use std::borrow::Cow;
use std::collections::BTreeMap;

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
    /// The share of the set to build (above 0, up to 1): of every quota and token
    /// budget, and of what cleaning leaves of a source without one. 0.02 makes a
    /// trial of 2 %. `[[data.validation]]` stays whole.
    #[serde(skip_serializing_if = "is_whole")]
    pub sample: f64,
    /// How the records are cleaned.
    #[serde(skip_serializing_if = "is_default")]
    pub clean: CleanSection,
    /// Sources that share a quota.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<GroupSection>,
    /// The tokens of all groups with a `token_share` together; if not given, as
    /// many as the group that runs out first allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<u64>,
    /// Where the samples come from.
    pub source: Vec<SourceSection>,
    /// Where the validation samples come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Vec<SourceSection>>,
}

impl DataSection {
    /// Every source: those to train on, then those to measure on.
    pub fn sources(&self) -> impl Iterator<Item = &SourceSection> {
        self.source.iter().chain(self.validation.iter().flatten())
    }

    /// The quota that a build gives a source: its `sample`, but of one that is
    /// only measured on all of it.
    pub(crate) fn quota_of(&self, source: &SourceSection) -> Option<usize> {
        let mut measured_on = self.validation.iter().flatten();
        let whole = measured_on.any(|other| other.name == source.name);
        let quota = source.quota?;
        Some(if whole { quota } else { self.sampled(quota) })
    }

    /// `sample` of a number of samples: rounded, and one at least of any.
    pub fn sampled(&self, samples: usize) -> usize {
        if self.sample == 1.0 {
            return samples;
        }
        ((samples as f64 * self.sample).round() as usize).clamp(1.min(samples), samples)
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            template: TemplateKind::default(),
            max_seq_len: 2048,
            on_too_long: OnTooLong::default(),
            validation_fraction: 0.0,
            packing: true,
            sample: 1.0,
            clean: CleanSection::default(),
            group: Vec::new(),
            token_budget: None,
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

/// How records are cleaned. Everything is on unless it is turned off; what is
/// left out is counted and listed in `dropped.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CleanSection {
    /// Unicode NFC, no control characters, no space at line ends.
    pub normalise: bool,
    /// Keeps one of records that are the same but for case, punctuation and
    /// space; the one of the source that comes first in the recipe.
    pub exact_duplicates: bool,
    /// Keeps one of records whose sets of word shingles are this similar
    /// (Jaccard, 0 to 1); 0 turns it off.
    pub near_duplicates: f64,
    /// Words in a shingle.
    pub shingle_words: usize,
    /// The evaluation tasks (files in recipes/eval, or paths) whose items must
    /// not be trained on.
    pub decontaminate: Vec<String>,
    /// Words in a row that count as the same text.
    pub decontaminate_words: usize,
}

impl Default for CleanSection {
    fn default() -> Self {
        Self {
            normalise: true,
            exact_duplicates: true,
            near_duplicates: 0.8,
            shingle_words: 5,
            decontaminate: Vec::new(),
            decontaminate_words: 13,
        }
    }
}

/// Sources that fill one quota together, or one share of all tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSection {
    /// What the sources name with `group`.
    pub name: String,
    /// Samples of all of them together: those with a quota of their own give
    /// that, the others what remains, in proportion to what each has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<usize>,
    /// Its tokens, in proportion to those of the other groups that have this
    /// key: 15, 1 and 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_share: Option<f64>,
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
    /// Which files of a folder or zip archive to read, such as `*.xml` or
    /// `**/brat/*.txt`; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<String>,
    /// Other tables that the format joins to its records, by the names it gives
    /// them: `admissions = "ADMISSIONS.csv.gz"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, String>,
    /// The names of the columns, for a table without a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The sheet of a workbook; its first if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet: Option<String>,
    /// The number that stands for the first option of a multiple choice, where
    /// copies of a set differ (`medmcqa`'s cop): 0 or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_option: Option<u8>,
    /// What to do with a record that cannot be read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_record: OnBadRecord,
    /// Use at most this many records, chosen by the seed, before anything else
    /// is done with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// How many samples to make of it, chosen by the seed among those that are
    /// left after cleaning; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<usize>,
    /// The group whose quota it helps to fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Uses only records for which this Jinja expression is true, such as
    /// `category == "Discharge summary"`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Uses only records in which these fields are there and not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// The text is HTML: its entities and tags are resolved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub html: bool,
    /// What to do with the marks of de-identified notes (`[** **]`, `___`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub marks: Marks,
    /// What to do with text that may identify a patient. If not given, `block`
    /// for credentialed sources; others are not searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phi: Option<PhiPolicy>,
    /// What must not be on both sides of the split into training and
    /// validation, as a Jinja template, such as `mimic-iv {{ subject_id }}`;
    /// the record itself if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_group: Option<String>,
    /// The kind of task, for the composition table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How to cite it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub citation: Option<String>,
    /// How to get it, for the message that it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obtain: Option<String>,
    /// How many records the publisher's files have; another number is a warning
    /// in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_records: Option<u64>,
    /// The SHA-256 of the file at `path`, where its publisher's is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
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

/// What to do with the marks that de-identification left in a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Leave them as they are.
    #[default]
    Keep,
    /// Write what they stand for: `[NAME]`, `[DATE]`, `[HOSPITAL]`, ...
    Surrogate,
}

/// What to do with text that may identify a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PhiPolicy {
    /// Stop the build, and say which records have what.
    Block,
    /// Write `[NAME]`, `[DATE]`, ... in its place.
    Redact,
    /// Do not search for it.
    Allow,
}

/// What to do with a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    /// Stop and name it.
    #[default]
    Error,
    /// Leave it out, count it and list it.
    Drop,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_whole(share: &f64) -> bool {
    *share == 1.0
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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// What the model is to answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    /// A text to read through, for pre-training, in place of prompt and answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
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
