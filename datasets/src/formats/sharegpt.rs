//! ShareGPT's records: `conversations`, a list of `from` and `value`, and
//! sometimes `system`. Me-LLaMA's own training records say `agent` for `gpt`.

use super::{Format, array_or_lines, conversation, message_list};
use crate::Result;
use crate::record::{Message, Record, Role, Sample};

pub(super) const FORMAT: Format = Format {
    name: "sharegpt",
    about: "conversations: a list of {from: system | human | gpt | agent, value}; JSON array or JSONL",
    splits: &[],
    read: array_or_lines,
    sample: Some(sample),
};

fn sample(record: &Record) -> Result<Sample> {
    let roles = &["system", "human", "user", "gpt", "agent", "assistant"];
    let turns = message_list(
        record,
        "conversations",
        ("from", "value"),
        roles,
        |role| match role {
            "system" => Some(Role::System),
            "human" | "user" => Some(Role::User),
            "gpt" | "agent" | "assistant" => Some(Role::Assistant),
            _ => None,
        },
    )?;
    let system = match record.text_or_empty("system")? {
        "" => None,
        system => Some(Message::new(Role::System, system)),
    };
    Ok(conversation(
        record,
        system.into_iter().chain(turns).collect(),
    ))
}
