//! Sheets of XLSX workbooks. A workbook is a zip archive whose texts stand in
//! one table of their own, so it is read whole, after its size unpacked is known
//! to be one that fits.

use std::io::{Cursor, Read};

use calamine::{DataRef, Reader, Xlsx};
use serde_json::{Map, Number, Value};

use super::table::{cell_count, check_columns, column_names};
use super::{Row, Rows};
use crate::files::SourceFile;
use crate::{Error, Result};

/// Largest workbook, packed.
const MAX_PACKED_BYTES: usize = 128 << 20;
/// Largest workbook, unpacked: a workbook packs to about a tenth.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Rows of a sheet (the first if none is named); the first row that is not
/// empty has the names. Numbers stay numbers, dates become ISO 8601, an empty
/// cell is an empty text.
pub(crate) fn workbook(file: &SourceFile, sheet: Option<&str>, required: &[&str]) -> Result<Rows> {
    let bytes = file.bytes(MAX_PACKED_BYTES)?;
    if bytes.is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    check_unpacked_size(file, &bytes)?;
    let failed = |error: calamine::XlsxError| unreadable(file, error.to_string());
    let mut book: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).map_err(failed)?;
    let sheets = book.sheet_names();
    let chosen = match sheet {
        None => sheets.first(),
        Some(name) => sheets.iter().find(|sheet| *sheet == name),
    };
    let Some(chosen) = chosen.cloned() else {
        return Err(Error::NoSheet {
            file: file.name.clone(),
            sheet: sheet.unwrap_or_default().to_string(),
            sheets,
        });
    };
    let mut reader = book.worksheet_cells_reader(&chosen).map_err(failed)?;
    let mut sheet = Sheet::new(file, required);
    while let Some(cell) = reader.next_cell().map_err(failed)? {
        let (row, column) = cell.get_position();
        let value = value(cell.get_value());
        if value != Value::Null {
            sheet.take(row, column as usize, value)?;
        }
    }
    sheet.finish_row()?;
    Ok(Box::new(sheet.rows.into_iter()))
}

fn unreadable(file: &SourceFile, problem: String) -> Error {
    Error::Unreadable {
        file: file.name.clone(),
        kind: "XLSX workbook",
        problem,
    }
}

/// Unpacks every member without keeping it: what an archive says of its sizes
/// may be a lie.
fn check_unpacked_size(file: &SourceFile, bytes: &[u8]) -> Result<()> {
    let failed = |error: String| unreadable(file, error);
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| failed(error.to_string()))?;
    let mut left = MAX_UNPACKED_BYTES;
    for index in 0..archive.len() {
        let member = archive
            .by_index(index)
            .map_err(|error| failed(error.to_string()))?;
        let size = std::io::copy(&mut member.take(left + 1), &mut std::io::sink())
            .map_err(|error| failed(error.to_string()))?;
        if size > left {
            let limit = MAX_UNPACKED_BYTES >> 20;
            return Err(failed(format!("it unpacks to more than {limit} MiB")));
        }
        left -= size;
    }
    Ok(())
}

/// Null for an empty cell.
fn value(cell: &DataRef<'_>) -> Value {
    match cell {
        DataRef::Empty => Value::Null,
        DataRef::Int(number) => (*number).into(),
        // Excel has no whole numbers; 2^53 is where they stop being exact.
        DataRef::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            (*number as i64).into()
        }
        DataRef::Float(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => {
            text.as_str().into()
        }
        DataRef::SharedString(text) => (*text).into(),
        DataRef::Bool(value) => (*value).into(),
        DataRef::DateTime(time) if time.is_datetime() => {
            let (year, month, day, hour, minute, second, _) = time.to_ymd_hms_milli();
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").into()
        }
        DataRef::DateTime(time) => {
            Number::from_f64(time.as_f64()).map_or(Value::Null, Value::Number)
        }
        DataRef::Error(error) => error.to_string().into(),
    }
}

/// Collects cells, which come row by row, into rows.
struct Sheet<'s> {
    file: &'s SourceFile,
    required: &'s [&'s str],
    columns: Option<Vec<String>>,
    /// The row being collected, 0-based, and its cells by column.
    row: u32,
    cells: Vec<(usize, Value)>,
    rows: Vec<Result<Row>>,
}

impl<'s> Sheet<'s> {
    fn new(file: &'s SourceFile, required: &'s [&'s str]) -> Self {
        Self {
            file,
            required,
            columns: None,
            row: 0,
            cells: Vec::new(),
            rows: Vec::new(),
        }
    }

    fn take(&mut self, row: u32, column: usize, value: Value) -> Result<()> {
        if row != self.row {
            self.finish_row()?;
            self.row = row;
        }
        self.cells.push((column, value));
        Ok(())
    }

    fn finish_row(&mut self) -> Result<()> {
        let cells = std::mem::take(&mut self.cells);
        let Some(last) = cells.iter().map(|(column, _)| *column).max() else {
            return Ok(());
        };
        let number = u64::from(self.row) + 1;
        let at = self.file.place(number, None);
        let Some(columns) = &self.columns else {
            let mut names = vec![String::new(); last + 1];
            for (column, value) in cells {
                names[column] = match value {
                    Value::String(name) => name,
                    other => other.to_string(),
                };
            }
            let columns = column_names(names.iter());
            check_columns(&columns, self.required, at)?;
            self.columns = Some(columns);
            return Ok(());
        };
        if last >= columns.len() {
            let error = cell_count(at, last + 1, columns.len());
            self.rows.push(Err(error));
            return Ok(());
        }
        let empty = columns.iter().map(|c| (c.clone(), Value::from("")));
        let mut fields: Map<String, Value> = empty.collect();
        for (column, value) in cells {
            fields.insert(columns[column].clone(), value);
        }
        self.rows.push(Ok(Row {
            key: None,
            record: number,
            fields,
        }));
        Ok(())
    }
}
