//! MIMIC's tables: CSV with a header, text cells quoted and over many lines,
//! column names in upper case (MIMIC-III) or lower case (MIMIC-IV).

use csv::{ByteRecord, ReaderBuilder};

use crate::bounded::Bounded;
use crate::error::Place;
use crate::files::SourceFile;
use crate::rows::MAX_RECORD_BYTES;
use crate::{Error, Result};

/// A table's rows, one at a time, with the columns that were asked for.
pub(super) struct Table {
    reader: csv::Reader<Bounded>,
    file: SourceFile,
    /// Where the columns asked for are; `None` for one that is not there.
    columns: Vec<Option<usize>>,
    record: ByteRecord,
    number: u64,
    done: bool,
}

impl Table {
    /// Opens a table that has `needed` columns and may have `optional` ones.
    /// They are numbered in this order.
    pub fn open(
        file: &SourceFile,
        needed: &[&'static str],
        optional: &[&'static str],
    ) -> Result<Self> {
        let bounded = Bounded::new(file.open()?, MAX_RECORD_BYTES);
        let reader = ReaderBuilder::new().has_headers(false).from_reader(bounded);
        let mut table = Self {
            reader,
            file: file.clone(),
            columns: Vec::new(),
            record: ByteRecord::new(),
            number: 0,
            done: false,
        };
        if !table.advance()? {
            return Ok(table);
        }
        let header: Vec<String> = table
            .record
            .iter()
            .map(|name| String::from_utf8_lossy(name).trim().to_lowercase())
            .collect();
        let find = |name: &str| header.iter().position(|column| column == name);
        for name in needed {
            let found = find(name).ok_or_else(|| Error::MissingColumn {
                at: table.file.place(1, None),
                column: name,
                available: header
                    .iter()
                    .map(|name| crate::xml::name_only(name))
                    .collect(),
            })?;
            table.columns.push(Some(found));
        }
        table.columns.extend(optional.iter().map(|name| find(name)));
        table.number = 0;
        Ok(table)
    }

    /// Goes to the next row; false at the end. After a row with another number
    /// of cells the next one follows, after any other error there are no more.
    pub fn advance(&mut self) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        self.reader.get_mut().renew();
        let line = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.record);
        self.number += 1;
        let input = self.reader.get_ref();
        match read {
            Ok(true) if input.ended && input.quote_open => {
                self.done = true;
                Err(Error::Csv {
                    at: self.place(),
                    message: "a quoted cell has no end: is the file cut short?",
                })
            }
            Ok(more) => {
                self.done = !more;
                Ok(more)
            }
            Err(error) => Err(self.problem(error, line)),
        }
    }

    /// What the parser found wrong with the record that begins on `line`.
    fn problem(&mut self, error: csv::Error, line: u64) -> Error {
        let at = self.file.place(line, Some(self.number));
        let input = self.reader.get_ref();
        match error.into_kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => Error::FieldCount {
                at,
                wanted: expected_len as usize,
                found: len as usize,
            },
            csv::ErrorKind::Io(_) if input.spent => {
                self.done = true;
                Error::RecordTooLarge {
                    at,
                    limit_bytes: input.limit_bytes(),
                }
            }
            csv::ErrorKind::Io(source) => {
                self.done = true;
                Error::read(&self.file.path)(source)
            }
            _ => {
                self.done = true;
                Error::Csv {
                    at,
                    message: "not a table",
                }
            }
        }
    }

    /// The row's number, from 1, the header not counted.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where the row begins.
    pub fn place(&self) -> Place {
        let line = self.record.position().map_or(1, |position| position.line());
        self.file.place(line, Some(self.number))
    }

    /// The cell of a column; empty where the table has no such column.
    pub fn cell(&self, column: usize) -> Result<&str> {
        let found = self.columns.get(column).copied().flatten();
        let bytes = found.and_then(|found| self.record.get(found));
        std::str::from_utf8(bytes.unwrap_or_default()).map_err(|error| Error::NotUtf8 {
            at: self.place(),
            byte: error.valid_up_to(),
        })
    }

    /// A cell that is a whole number; `None` where it is empty.
    pub fn number_in(&self, column: usize, name: &'static str) -> Result<Option<u64>> {
        let text = self.cell(column)?.trim();
        // Tables that went through a data frame have 145834.0.
        let digits = text.strip_suffix(".0").unwrap_or(text);
        match digits {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| Error::BadRecord {
                at: self.place(),
                id: name.to_string(),
                problem: "is not a whole number".into(),
            }),
        }
    }
}
