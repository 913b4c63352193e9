//! TruthfulQA (Lin et al. 2022): the authors' table, whose answers stand between
//! `;` in one cell, or Hugging Face's records, where they are lists.

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::fields::{each, text, texts};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, records};

pub(super) const FORMAT: Format = Format {
    name: "truthfulqa",
    about: "question, best_answer, correct_answers (list), incorrect_answers (list), category, type, mc1_options (best_answer and incorrect_answers) and mc2_options (correct_answers and incorrect_answers), each once; CSV, JSONL or Parquet",
    splits: &[],
    read,
    sample: None,
};

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(file, source, &[])?;
    Ok(each(rows, file, named_fields))
}

fn named_fields(mut row: Row, file: &str) -> Result<Row> {
    let named = row.fields.into_iter();
    row.fields = named
        .map(|(name, value)| (name.to_lowercase().replace(' ', "_"), value))
        .collect();
    for field in ["question", "best_answer", "category", "type"] {
        text(&row, file, field)?;
    }
    for field in ["correct_answers", "incorrect_answers"] {
        if let Some(Value::String(joined)) = row.fields.get(field) {
            let answers = joined.split(';').map(str::trim);
            let answers: Value = answers.filter(|answer| !answer.is_empty()).collect();
            row.fields.insert(field.to_string(), answers);
        } else {
            texts(&row, file, field)?;
        }
    }
    let wrong = texts(&row, file, "incorrect_answers")?;
    let best = [text(&row, file, "best_answer")?];
    let mc1 = once(best.iter().chain(&wrong));
    let mc2 = once(texts(&row, file, "correct_answers")?.iter().chain(&wrong));
    row.fields.insert("mc1_options".into(), mc1);
    row.fields.insert("mc2_options".into(), mc2);
    Ok(row)
}

/// Some answers are listed twice.
fn once<'t>(answers: impl Iterator<Item = &'t &'t str>) -> Value {
    let mut listed: Vec<&str> = Vec::new();
    for answer in answers {
        if !listed.contains(answer) {
            listed.push(answer);
        }
    }
    listed.into_iter().collect()
}
