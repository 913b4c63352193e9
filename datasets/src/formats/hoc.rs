//! Hallmarks of Cancer (Baker et al. 2016) by document, as the Yale benchmark
//! has it: a table of `pmid`, `text` and the labels between `;`.

use std::path::Path;

use super::Format;
use super::fields::{each, text};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Dialect, Header, Row, Rows, table};

pub(super) const FORMAT: Format = Format {
    name: "hoc",
    about: "pmid, text, labels (list), labels_text (joined by \"; \"); TSV",
    splits: &[],
    read,
    sample: None,
};

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let required = ["pmid", "text", "labels"];
    let rows = table(file, Dialect::TSV, Header::of(source), &required)?;
    Ok(each(rows, file, named_fields))
}

fn named_fields(mut row: Row, file: &str) -> Result<Row> {
    let labels = text(&row, file, "labels")?.split(';').map(str::trim);
    let labels: Vec<String> = labels.filter(|l| !l.is_empty()).map(String::from).collect();
    row.fields
        .insert("labels_text".into(), labels.join("; ").into());
    row.fields.insert("labels".into(), labels.into());
    Ok(row)
}
