//! DDI-2013 (Herrero-Zazo et al. 2013) as the BLUE benchmark has it: a table of
//! `index`, `sentence` (both drugs written `@DRUG$`) and `label`. Quotation marks
//! are text.

use std::path::Path;

use super::Format;
use super::fields::{each, shown_word, text, wrong_value};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Dialect, Header, Row, Rows, table};

pub(super) const FORMAT: Format = Format {
    name: "ddi-blue",
    about: "index, sentence, label (DDI-advise, DDI-effect, DDI-false, DDI-int or DDI-mechanism); TSV without quoting",
    splits: &[],
    read,
    sample: None,
};

const LABELS: [&str; 5] = [
    "DDI-advise",
    "DDI-effect",
    "DDI-false",
    "DDI-int",
    "DDI-mechanism",
];

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let required = ["index", "sentence", "label"];
    let rows = table(file, Dialect::UNQUOTED_TSV, Header::of(source), &required)?;
    Ok(each(rows, file, known_label))
}

fn known_label(row: Row, file: &str) -> Result<Row> {
    let label = text(&row, file, "label")?;
    if LABELS.contains(&label) {
        return Ok(row);
    }
    let wanted = LABELS.join(", ");
    Err(wrong_value(&row, file, "label", wanted, shown_word(label)))
}
