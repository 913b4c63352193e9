//! A `prompt` and its `completion`.

use super::{Format, array_or_lines, question_and_answer};
use crate::Result;
use crate::record::{Record, Sample};

pub(super) const FORMAT: Format = Format {
    name: "prompt-completion",
    about: "prompt, completion; JSON array or JSONL",
    splits: &[],
    read: array_or_lines,
    sample: Some(sample),
};

fn sample(record: &Record) -> Result<Sample> {
    let prompt = record.text("prompt")?.to_string();
    Ok(question_and_answer(
        record,
        prompt,
        record.text("completion")?,
    ))
}
