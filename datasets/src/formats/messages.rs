//! OpenAI's chat records: `messages`, a list of `role` and `content`.

use super::{Format, array_or_lines, conversation, message_list};
use crate::Result;
use crate::record::{Record, Role, Sample};

pub(super) const FORMAT: Format = Format {
    name: "messages",
    about: "messages: a list of {role: system | user | assistant, content}; JSON array or JSONL",
    splits: &[],
    read: array_or_lines,
    sample: Some(sample),
};

fn sample(record: &Record) -> Result<Sample> {
    let roles = &["system", "user", "assistant"];
    let messages = message_list(
        record,
        "messages",
        ("role", "content"),
        roles,
        |role| match role {
            "system" => Some(Role::System),
            "user" => Some(Role::User),
            "assistant" => Some(Role::Assistant),
            _ => None,
        },
    )?;
    Ok(conversation(record, messages))
}
