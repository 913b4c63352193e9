//! MedQA (USMLE; Jin et al. 2020): the authors' JSONL, whose `options` are an
//! object of letters, and the Yale benchmark's TSV, whose `options` are a Python
//! list in a cell.

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::choices::{choices, set_choices};
use super::fields::{each, empty_if_missing, text, wrong_value};
use crate::Result;
use crate::files::SourceFile;
use crate::python_literal;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, records};

pub(super) const FORMAT: Format = Format {
    name: "medqa",
    about: "question, options (list of {key, value}), options_text (\"A. ..\" lines), answer_idx (letter), answer, meta_info; JSONL, TSV or Parquet",
    splits: &[],
    read,
    sample: None,
};

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(file, source, &["question", "options", "answer_idx"])?;
    Ok(each(rows, file, named_fields))
}

fn named_fields(mut row: Row, file: &str) -> Result<Row> {
    text(&row, file, "question")?;
    let parsed = match row.fields.get("options") {
        Some(Value::String(literal)) => {
            Some(python_literal::parse(literal).map_err(|problem| {
                let wanted = "a Python list of {'key', 'value'}";
                wrong_value(&row, file, "options", wanted, problem.to_string())
            })?)
        }
        _ => None,
    };
    let options = parsed.as_ref().or_else(|| row.fields.get("options"));
    let choices = choices(&row, file, "options", options)?;
    let letter = text(&row, file, "answer_idx")?.to_string();
    set_choices(&mut row, file, "answer_idx", &choices, &letter)?;
    empty_if_missing(&mut row, &["meta_info"]);
    Ok(row)
}
