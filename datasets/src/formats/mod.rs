//! How sources write their records: one file a format, one line here to add it.

mod alpaca;
mod brat;
mod choices;
mod ddi2013;
mod ddi_blue;
mod emrqa;
mod fields;
mod hoc;
mod i2b2_2012;
mod iob;
mod jats;
mod joins;
mod lines;
mod liveqa;
mod mediqa;
mod medline;
mod medmcqa;
mod medqa;
mod medquad;
mod messages;
mod mimic;
mod mmlu;
mod mtsamples;
mod nli;
mod prompt_completion;
pub mod pubmedqa;
mod records;
mod sharegpt;
mod spans;
mod summaries;
mod tables;
mod text;
mod truthfulqa;
mod umls;

use std::path::Path;

use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::record::{Conversation, Message, Record, Role, Sample};
use crate::rows::Rows;
use crate::{Error, Result};

/// Every format, by the name that recipes use.
pub const FORMATS: &[Format] = &[
    alpaca::FORMAT,
    messages::FORMAT,
    sharegpt::FORMAT,
    prompt_completion::FORMAT,
    text::FORMAT,
    pubmedqa::FORMAT,
    records::FORMAT,
    tables::CSV,
    tables::TSV,
    tables::XLSX,
    tables::PARQUET,
    medqa::FORMAT,
    medmcqa::FORMAT,
    mmlu::FORMAT,
    hoc::FORMAT,
    ddi_blue::FORMAT,
    nli::MEDNLI,
    nli::BIONLI,
    emrqa::FORMAT,
    mtsamples::FORMAT,
    truthfulqa::FORMAT,
    summaries::PUBMED,
    summaries::MSLR,
    medquad::FORMAT,
    liveqa::TRAIN,
    liveqa::TEST,
    mediqa::QA,
    mediqa::RQE,
    ddi2013::FORMAT,
    i2b2_2012::FORMAT,
    iob::FORMAT,
    brat::FORMAT,
    medline::FORMAT,
    jats::FORMAT,
    umls::RELATIONS,
    umls::CONCEPTS,
    mimic::III_NOTES,
    mimic::IV_NOTES,
    mimic::CXR,
    mimic::CXR_SECTIONED,
];

/// One way to write records.
#[derive(Debug)]
pub struct Format {
    /// Its name in recipes.
    pub name: &'static str,
    /// Its fields, in one line of help.
    pub about: &'static str,
    /// The official splits it knows.
    pub splits: &'static [&'static str],
    /// Opens one file; the path is the data root, for the tables it joins.
    pub(crate) read: fn(&SourceFile, &SourceSection, &Path) -> Result<Rows>,
    /// What a record becomes where the recipe gives no task; `None`: it needs one.
    pub(crate) sample: Option<fn(&Record) -> Result<Sample>>,
}

/// The format called `name`.
pub fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

fn array_or_lines(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    crate::rows::array_or_lines(file)
}

fn conversation(record: &Record, messages: Vec<Message>) -> Sample {
    let provenance = record.provenance.clone();
    Sample::Conversation(Conversation {
        id: record.id.clone(),
        messages,
        provenance,
    })
}

fn question_and_answer(record: &Record, question: String, answer: &str) -> Sample {
    let question = Message::new(Role::User, question);
    conversation(
        record,
        vec![question, Message::new(Role::Assistant, answer)],
    )
}

/// Reads a list of messages whose role and text are under the given keys.
fn message_list(
    record: &Record,
    list: &'static str,
    (role_key, text_key): (&str, &str),
    roles: &'static [&'static str],
    role_of: fn(&str) -> Option<Role>,
) -> Result<Vec<Message>> {
    let field = record.fields.get(list);
    let Some(items) = field.and_then(|value| value.as_array()) else {
        return Err(record.wrong_field(list, "a list of messages", field));
    };
    let read = |(number, item): (usize, &serde_json::Value)| {
        let text = |key: &str| match item.get(key) {
            Some(serde_json::Value::String(text)) => Ok(text.as_str()),
            other => {
                let name = format!("{list}[{number}].{key}");
                Err(record.wrong_field(&name, "a string", other))
            }
        };
        let role = text(role_key)?;
        let Some(role) = role_of(role) else {
            return Err(unknown_role(record, number + 1, role, roles));
        };
        Ok(Message::new(role, text(text_key)?))
    };
    items.iter().enumerate().map(read).collect()
}

fn unknown_role(
    record: &Record,
    message: usize,
    role: &str,
    known: &'static [&'static str],
) -> Error {
    // A role is a word of the format; anything else may be a record's text.
    let word = role.len() <= 24
        && role
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let role = if word {
        format!("{role:?}")
    } else {
        format!("(a text of {} bytes)", role.len())
    };
    Error::Role {
        at: Box::new(record.site()),
        message,
        role,
        known,
    }
}
