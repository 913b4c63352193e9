//! Reads the records of a recipe's source.

use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::{SourceFile, source_files};
use crate::random::Draws;
use crate::recipe::{OnBadRecord, SourceSection};
use crate::record::{Provenance, Record};
use crate::rows::{Row, Rows};
use crate::task::RecordTemplate;
use crate::{Error, Result};

/// A source's records in the order of its files, read as they are asked for.
///
/// With `on_bad_record = "error"` there are no more after an error. With `"drop"`
/// a bad record's error comes in its place and the records after it follow; where
/// no more can be read of a file, those of the next file.
pub struct Records {
    source: SourceSection,
    data_root: PathBuf,
    /// Files not yet opened, last first.
    files: Vec<SourceFile>,
    /// The open file's name and rows.
    open: Option<(String, Rows)>,
    /// Whether ids name the file: more than one could hold the same number.
    folder: bool,
}

/// Reads all records of a source, of its split if it names one. Its `limit` is
/// not applied: see [`sample_records`].
///
/// # Errors
/// A split or fold that the format does not have, or files that cannot be
/// found. Errors of reading come from the iterator.
pub fn read_source(source: &SourceSection, data_root: &Path) -> Result<Records> {
    let format = source.format.0;
    if let Some(split) = source
        .split
        .as_deref()
        .filter(|split| !format.splits.contains(split))
    {
        return Err(Error::Split {
            source_name: source.name.clone(),
            format: format.name,
            split: split.to_string(),
            known: format.splits,
        });
    }
    let mut files = source_files(source, data_root)?;
    let folder = files.len() > 1 || files[0].name != source.path;
    files.reverse();
    Ok(Records {
        source: source.clone(),
        data_root: data_root.to_path_buf(),
        files,
        open: None,
        folder,
    })
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        loop {
            if let Some((name, rows)) = &mut self.open {
                match rows.next() {
                    Some(Ok(row)) => {
                        let name = name.clone();
                        return Some(Ok(self.record(row, name)));
                    }
                    Some(Err(error)) => return self.failed(error),
                    None => self.open = None,
                }
            }
            let file = self.files.pop()?;
            let read = self.source.format.0.read;
            match read(&file, &self.source, &self.data_root) {
                Ok(rows) => self.open = Some((file.name, rows)),
                Err(error) => return self.failed(error),
            }
        }
    }
}

impl Records {
    fn failed(&mut self, error: Error) -> Option<Result<Record>> {
        if self.source.on_bad_record == OnBadRecord::Error || !is_of_the_data(&error) {
            self.open = None;
            self.files.clear();
        }
        Some(Err(error))
    }

    fn record(&self, row: Row, file: String) -> Record {
        let source = &self.source;
        let key = row.key.unwrap_or_else(|| row.record.to_string());
        let id = if self.folder {
            let within = file
                .strip_prefix(source.path.trim_end_matches('/'))
                .unwrap_or(&file);
            format!("{}{within}/{key}", source.name)
        } else {
            format!("{}/{key}", source.name)
        };
        let provenance = Provenance {
            source: source.name.clone(),
            file,
            record: row.record,
            licence: source.licence.clone(),
            access: source.access,
            transforms: Vec::new(),
        };
        Record {
            id,
            fields: row.fields,
            provenance,
        }
    }
}

/// Whether an error is a record's or a file's own, so that others may be read
/// without it. The others are of the recipe or the machine: leaving records out
/// would hide them.
fn is_of_the_data(error: &Error) -> bool {
    !matches!(
        error,
        Error::Read { .. }
            | Error::NoColumn { .. }
            | Error::ColumnTwice { .. }
            | Error::NoSheet { .. }
            | Error::FirstOption { .. }
            | Error::MissingColumn { .. }
            | Error::Tables { .. }
            | Error::Fold { .. }
    )
}

/// Reads a source and keeps at most its `limit`: the records whose ids draw
/// the smallest numbers, in the order of the files. Adding a record to a file
/// so changes at most one other's fate, and only `limit` records are held.
/// Returns how many records were read as well.
///
/// # Errors
/// As [`read_source`] and its iterator.
pub fn sample_records(
    source: &SourceSection,
    data_root: &Path,
    seed: u64,
) -> Result<(Vec<Record>, u64)> {
    limited(read_source(source, data_root)?, source.limit, seed)
}

fn limited(
    records: impl Iterator<Item = Result<Record>>,
    limit: Option<usize>,
    seed: u64,
) -> Result<(Vec<Record>, u64)> {
    let Some(limit) = limit else {
        let records: Vec<Record> = records.collect::<Result<_>>()?;
        let read = records.len() as u64;
        return Ok((records, read));
    };
    let draws = Draws::new(seed, "limit");
    // (draw, order) with the largest on top; the records beside it by order.
    let mut kept: BinaryHeap<(u64, usize)> = BinaryHeap::new();
    let mut held = std::collections::BTreeMap::new();
    let mut read = 0;
    for (order, record) in records.enumerate() {
        let record = record?;
        read += 1;
        kept.push((draws.of(&record.id), order));
        held.insert(order, record);
        if kept.len() > limit
            && let Some((_, order)) = kept.pop()
        {
            held.remove(&order);
        }
    }
    Ok((held.into_values().collect(), read))
}

/// A source's records, and what became of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selected {
    /// In the order of the files.
    pub records: Vec<Record>,
    /// How many were read.
    pub read: u64,
    /// How many could not be, where the source says to drop them.
    pub unreadable: u64,
    /// How many its `where` and `require` leave out.
    pub left_out: u64,
}

/// Reads the records of a source that its `limit`, `where` and `require` choose,
/// as a build does before it cleans them; bad records are left out where it says
/// so.
///
/// # Errors
/// As [`sample_records`]; the syntax of `where`, or a field of it that a record
/// does not have.
pub fn selected_records(source: &SourceSection, data_root: &Path, seed: u64) -> Result<Selected> {
    let condition = source.condition.as_deref().map(condition).transpose()?;
    let mut selected = Selected::default();
    let mut unreadable = 0;
    let drops = source.on_bad_record == OnBadRecord::Drop;
    let readable = read_source(source, data_root)?.filter(|record| match record {
        Err(error) if drops && is_of_the_data(error) => {
            unreadable += 1;
            false
        }
        _ => true,
    });
    let (records, read) = limited(readable, source.limit, seed)?;
    selected.read = read + unreadable;
    selected.unreadable = unreadable;
    for record in records {
        let meets = match &condition {
            Some(condition) => !condition.render(&record)?.is_empty(),
            None => true,
        };
        let has = |name: &String| !is_empty(record.fields.get(name));
        if meets && source.require.iter().all(has) {
            selected.records.push(record);
        } else {
            selected.left_out += 1;
        }
    }
    Ok(selected)
}

/// A source's `where`: it writes something of the records for which it holds.
pub(crate) fn condition(expression: &str) -> Result<RecordTemplate> {
    let template = format!("{{% if {expression} %}}1{{% endif %}}");
    RecordTemplate::new("where", &template)
}

/// Whether a field is absent, or says nothing.
pub(crate) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    }
}
