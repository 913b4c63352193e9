//! MMLU (Hendrycks et al. 2021): a table without a header for each subject and
//! split, such as `anatomy_dev.csv`: question, four options, the letter.

use std::path::Path;

use super::Format;
use super::choices::{lettered, set_choices};
use super::fields::{each, text};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Dialect, Header, Row, Rows, table};

pub(super) const FORMAT: Format = Format {
    name: "mmlu",
    about: "question, options (list of {key, value}), options_text, answer_idx (letter), answer, subject (of the file's name); CSV without a header",
    splits: &[],
    read,
    sample: None,
};

fn read(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    let columns = ["question", "A", "B", "C", "D", "answer"].map(String::from);
    let rows = table(file, Dialect::CSV, Header::Columns(&columns), &[])?;
    let subject = subject(file);
    Ok(each(rows, file, move |row, file| {
        named_fields(row, file, &subject)
    }))
}

fn subject(file: &SourceFile) -> String {
    let name = file.plain_name();
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_suffix(".csv").unwrap_or(name);
    let ends = ["_dev", "_val", "_test", "_train"];
    let subject = ends.iter().find_map(|end| name.strip_suffix(end));
    subject.unwrap_or(name).to_string()
}

fn named_fields(mut row: Row, file: &str, subject: &str) -> Result<Row> {
    let mut options = Vec::new();
    for letter in ["A", "B", "C", "D"] {
        options.push(text(&row, file, letter)?.to_string());
        row.fields.shift_remove(letter);
    }
    let letter = text(&row, file, "answer")?.trim().to_string();
    set_choices(&mut row, file, "answer", &lettered(options), &letter)?;
    row.fields.insert("subject".into(), subject.into());
    Ok(row)
}
