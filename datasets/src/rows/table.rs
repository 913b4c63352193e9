//! Tables of cells between commas or tabs (RFC 4180): quoted cells may hold
//! separators, line ends and doubled quotation marks.
//!
//! The reader is ours because it must stop at a record that never ends, tell a
//! cell that is quoted to the end of the file, name the line of every row, and
//! go on after a bad one; the `csv` crate does the first three of neither. In
//! what it makes of well-formed and odd tables it agrees with that crate, which
//! a test holds.

use std::collections::HashSet;
use std::io::BufRead;

use serde_json::{Map, Value};

use super::input::{Input, Line, open};
use super::{NextRow, Row, Rows, rows};
use crate::error::Place;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::{Error, Result};

/// The most columns, as many as Excel's: a line of separators alone is no table.
const MAX_COLUMNS: usize = 1 << 14;

/// How cells are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialect {
    separator: u8,
    /// A cell that begins with `"` ends with the next single one.
    quoting: bool,
}

impl Dialect {
    pub const CSV: Self = Self {
        separator: b',',
        quoting: true,
    };
    pub const TSV: Self = Self {
        separator: b'\t',
        quoting: true,
    };
    /// Quotation marks are text like any other.
    pub const UNQUOTED_TSV: Self = Self {
        separator: b'\t',
        quoting: false,
    };
}

/// Where the columns' names are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Header<'h> {
    /// In the first row.
    FirstRow,
    /// Not in the file.
    Columns(&'h [String]),
}

impl<'h> Header<'h> {
    /// The recipe's `columns`, or the first row.
    pub fn of(source: &'h SourceSection) -> Self {
        match &source.columns {
            Some(columns) => Header::Columns(columns),
            None => Header::FirstRow,
        }
    }
}

/// Rows of a table, each cell a string by its column's name. A row with more or
/// fewer cells than there are columns is one bad record.
pub(crate) fn table(
    file: &SourceFile,
    dialect: Dialect,
    header: Header<'_>,
    required: &[&str],
) -> Result<Rows> {
    let mut records = Records {
        input: open(file)?,
        dialect,
        line: Vec::new(),
        cells: Cells::default(),
    };
    let (columns, at) = match header {
        Header::Columns(columns) => (columns.to_vec(), file.place(1, None)),
        Header::FirstRow => match records.next()? {
            None => return Ok(Box::new(std::iter::empty())),
            Some(found) => {
                let at = file.place(found?, None);
                if records.cells.count > MAX_COLUMNS {
                    return Err(cell_count(at, records.cells.count, MAX_COLUMNS));
                }
                let names = records.cells.iter().map(String::from_utf8_lossy);
                (column_names(names), at)
            }
        },
    };
    check_columns(&columns, required, at)?;
    Ok(rows(Table { records, columns }))
}

pub(super) fn cell_count(at: Place, cells: usize, columns: usize) -> Error {
    Error::CellCount { at, cells, columns }
}

/// Names as they are used: trimmed, and given to those that have none. An index
/// without a name is how pandas writes a table.
pub(super) fn column_names(found: impl Iterator<Item = impl AsRef<str>>) -> Vec<String> {
    let name = |(number, name): (usize, _)| match (number, AsRef::<str>::as_ref(&name).trim()) {
        (0, "") => "index".to_string(),
        (_, "") => format!("column_{}", number + 1),
        (_, name) => name.to_string(),
    };
    found.enumerate().map(name).collect()
}

/// Every column has a name of its own, and those that the format needs are there.
pub(super) fn check_columns(columns: &[String], required: &[&str], at: Place) -> Result<()> {
    let mut names = HashSet::new();
    if let Some(column) = columns.iter().find(|column| !names.insert(column.as_str())) {
        return Err(Error::ColumnTwice {
            at,
            column: column.clone(),
        });
    }
    let missing = |name: &&&str| !columns.iter().any(|column| column == **name);
    match required.iter().find(missing) {
        None => Ok(()),
        Some(column) => Err(Error::NoColumn {
            at,
            column: (*column).to_string(),
            found: columns.to_vec(),
        }),
    }
}

struct Table<R> {
    records: Records<R>,
    columns: Vec<String>,
}

impl<R: BufRead> NextRow for Table<R> {
    fn next_row(&mut self) -> Result<Option<Result<Row>>> {
        let Some(line) = self.records.next()? else {
            return Ok(None);
        };
        Ok(Some(line.and_then(|line| self.row(line))))
    }
}

impl<R> Table<R> {
    fn row(&self, line: u64) -> Result<Row> {
        let cells = &self.records.cells;
        if cells.count != self.columns.len() {
            let at = self.records.input.file.place(line, None);
            return Err(cell_count(at, cells.count, self.columns.len()));
        }
        let mut fields = Map::with_capacity(self.columns.len());
        for (column, cell) in self.columns.iter().zip(cells.iter()) {
            // Lines that are not UTF-8 have been refused.
            let text = String::from_utf8_lossy(cell).into_owned();
            fields.insert(column.clone(), Value::String(text));
        }
        Ok(Row {
            key: None,
            record: line,
            fields,
        })
    }
}

/// Cuts a table into records.
struct Records<R> {
    input: Input<R>,
    dialect: Dialect,
    line: Vec<u8>,
    /// Those of the last record read.
    cells: Cells,
}

impl<R: BufRead> Records<R> {
    /// Reads one record into `cells` and gives the line it begins on; blank
    /// lines are skipped. The outer error ends the file.
    fn next(&mut self) -> Result<Option<Result<u64>>> {
        let (mut start, mut length) = (self.input.line, 0);
        let mut bad_byte = None;
        self.cells.clear();
        loop {
            self.line.clear();
            let allowed = self.input.limit.saturating_sub(length);
            match self.input.read_line(&mut self.line, allowed)? {
                Line::End if self.cells.open => return Err(self.open_quote(start)),
                Line::End => return Ok(None),
                Line::TooLong => return Err(self.input.too_large(start, None)),
                Line::Whole => {}
            }
            if !self.cells.open && matches!(&self.line[..], b"" | b"\r") {
                start = self.input.line;
                continue;
            }
            if let Err(error) = std::str::from_utf8(&self.line) {
                bad_byte.get_or_insert(length + error.valid_up_to());
            }
            length += self.line.len() + 1;
            self.cells.take_line(&self.line, self.dialect);
            if !self.cells.open {
                break;
            }
        }
        Ok(Some(match bad_byte {
            None => Ok(start),
            Some(byte) => Err(Error::NotUtf8 {
                at: self.input.place(start, None),
                byte,
            }),
        }))
    }

    fn open_quote(&self, start: u64) -> Error {
        Error::OpenQuote {
            at: self.input.place(start, None),
            cell: self.cells.count + 1,
        }
    }
}

/// The cells of one record, without their quotation marks.
#[derive(Default)]
struct Cells {
    text: Vec<u8>,
    /// Where each of the first [`MAX_COLUMNS`] cells ends in `text`.
    ends: Vec<usize>,
    /// Number of cells.
    count: usize,
    /// The last line ended inside a quoted cell.
    open: bool,
}

impl Cells {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.count = 0;
        self.open = false;
    }

    fn end_cell(&mut self) {
        self.count += 1;
        if self.count <= MAX_COLUMNS {
            self.ends.push(self.text.len());
        }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let start = |i: usize| if i == 0 { 0 } else { self.ends[i - 1] };
        (0..self.ends.len()).map(move |i| &self.text[start(i)..self.ends[i]])
    }

    /// Takes in one line, without its end.
    fn take_line(&mut self, line: &[u8], dialect: Dialect) {
        let find = |text: &[u8], wanted| text.iter().position(|&byte| byte == wanted);
        let mut rest = line;
        let mut begins = !self.open;
        if self.open {
            // The end of the line before belongs to the cell.
            self.text.push(b'\n');
        }
        loop {
            if begins && dialect.quoting && rest.first() == Some(&b'"') {
                rest = &rest[1..];
                self.open = true;
            }
            while self.open {
                let Some(quote) = find(rest, b'"') else {
                    self.text.extend_from_slice(rest);
                    return;
                };
                self.text.extend_from_slice(&rest[..quote]);
                rest = &rest[quote + 1..];
                if rest.first() == Some(&b'"') {
                    self.text.push(b'"');
                    rest = &rest[1..];
                } else {
                    self.open = false;
                }
            }
            // Text between a closing mark and the separator stays, as it does
            // in Python and the csv crate.
            match find(rest, dialect.separator) {
                Some(end) => {
                    self.text.extend_from_slice(&rest[..end]);
                    self.end_cell();
                    rest = &rest[end + 1..];
                    begins = true;
                }
                None => {
                    let end = rest.strip_suffix(b"\r").unwrap_or(rest);
                    self.text.extend_from_slice(end);
                    self.end_cell();
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    /// The records of `text` by this reader and by the csv crate.
    fn both(text: &[u8], quoting: bool) -> [Vec<Vec<Vec<u8>>>; 2] {
        let dialect = Dialect {
            separator: b',',
            quoting,
        };
        let mut records = Records {
            input: Input {
                reader: text,
                file: SourceFile::new("x", "x"),
                line: 1,
                limit: 1000,
            },
            dialect,
            line: Vec::new(),
            cells: Cells::default(),
        };
        let mut ours = Vec::new();
        while let Ok(Some(_)) = records.next() {
            ours.push(records.cells.iter().map(<[u8]>::to_vec).collect());
        }
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(quoting)
            .from_reader(text);
        let theirs = reader
            .byte_records()
            .map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect());
        [ours, theirs.collect()]
    }

    #[test]
    fn cells_are_those_of_the_csv_crate() {
        let draws = Draws::new(7, "tables");
        let alphabet = ["a", "b c", ",", ",", "\"", "\"", "\"\"", "\n", "\r\n", "é"];
        let mut several_lines = 0;
        for table in 0..4000 {
            let piece = |i: usize| {
                let drawn = draws.of(&format!("{table}/{i}")) >> 8;
                alphabet[drawn as usize % alphabet.len()]
            };
            let mut text: String = (0..table % 40).map(piece).collect();
            // What an open quotation mark holds is not compared: it is an error here.
            if text.matches('"').count() % 2 == 1 {
                text.push('"');
            }
            text.push('\n');
            for quoting in [true, false] {
                let [ours, mut theirs] = both(text.as_bytes(), quoting);
                if ours.len() + 1 == theirs.len() {
                    // The last record of theirs ended inside a quoted cell.
                    let last = theirs.pop().unwrap();
                    assert!(quoting && last.last().unwrap().ends_with(b"\n"), "{text:?}");
                }
                assert_eq!(ours, theirs, "{text:?}");
                several_lines += usize::from(ours.iter().flatten().any(|c| c.contains(&b'\n')));
            }
        }
        assert!(several_lines > 100, "{several_lines}");
    }
}
