//! Stanford Alpaca's fields: `instruction`, `input` (often empty), `output`.

use super::{Format, array_or_lines, question_and_answer};
use crate::Result;
use crate::record::{Record, Sample};

pub(super) const FORMAT: Format = Format {
    name: "alpaca",
    about: "instruction, input (may be empty), output; JSON array or JSONL",
    splits: &[],
    read: array_or_lines,
    sample: Some(sample),
};

/// The input follows the instruction after a blank line. `<noinput>` is how
/// some Alpaca-like sets (MedInstruct) write an empty input.
fn sample(record: &Record) -> Result<Sample> {
    let instruction = record.text("instruction")?;
    let question = match record.text_or_empty("input")? {
        "" | "<noinput>" => instruction.to_string(),
        // iCliniq's questions are all input.
        input if instruction.is_empty() => input.to_string(),
        input => format!("{instruction}\n\n{input}"),
    };
    Ok(question_and_answer(
        record,
        question,
        record.text("output")?,
    ))
}
