//! Parquet by its record interface: column chunks are decoded page by page, so
//! a file of any number of rows is read in bounded memory.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::SchemaDescriptor;
use serde_json::{Map, Number, Value};

use super::table::check_columns;
use super::{NextRow, Row, Rows, rows};
use crate::files::SourceFile;
use crate::{Error, Result};

/// Rows of a Parquet file by their columns: lists, structs and maps become
/// lists and objects, dates and times text, decimals text.
pub(crate) fn parquet(file: &SourceFile, required: &[&str]) -> Result<Rows> {
    let mut raw = File::open(&file.path).map_err(Error::read(&file.path))?;
    let mut start = Vec::new();
    (&mut raw)
        .take(4)
        .read_to_end(&mut start)
        .map_err(|error| file.failed(1, error))?;
    if start.is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    if file.member.is_some() || file.plain_name() != file.name {
        return Err(unreadable(
            file,
            "its directory is at its end, so it cannot be read inside another archive: unpack it",
        ));
    }
    if start != b"PAR1" {
        return Err(unreadable(file, "it does not begin with PAR1"));
    }
    let open = || {
        let reader = SerializedFileReader::new(raw);
        let reader = reader.map_err(|error| unreadable(file, problem(&error)))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        check_types(file, schema)?;
        let names = schema.root_schema().get_fields().iter();
        let columns: Vec<String> = names.map(|field| field.name().to_string()).collect();
        check_columns(&columns, required, file.place(1, None))?;
        Ok(RowIter::from_file_into(Box::new(reader)))
    };
    let iter = guarded(open).unwrap_or_else(|| Err(unreadable(file, DAMAGED)))?;
    Ok(rows(ParquetRows {
        rows: iter,
        file: file.clone(),
        number: 0,
    }))
}

/// What is damaged can make the decoder panic, and a date that is none the text
/// of it; `None` if it did. That is the file's error, not ours.
fn guarded<T>(decode: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decode)).ok()
}

const DAMAGED: &str = "its pages cannot be decoded: the file is cut short or damaged";

fn unreadable(file: &SourceFile, problem: impl Into<String>) -> Error {
    Error::Unreadable {
        file: file.name.clone(),
        kind: "Parquet file",
        problem: problem.into(),
    }
}

/// The decoder's own words are left out: they quote values.
fn problem(error: &ParquetError) -> &'static str {
    match error {
        ParquetError::NYI(_) => "it uses an encoding or a compression that is not supported",
        _ => DAMAGED,
    }
}

/// Refuses the column types that the record interface panics on.
fn check_types(file: &SourceFile, schema: &SchemaDescriptor) -> Result<()> {
    use ConvertedType as C;
    for column in schema.columns() {
        let converted = column.converted_type();
        let supported = match column.physical_type() {
            Physical::INT32 => !matches!(
                converted,
                C::INT_64 | C::UINT_64 | C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS
            ),
            Physical::INT64 => matches!(
                converted,
                C::NONE
                    | C::INT_64
                    | C::UINT_64
                    | C::TIME_MICROS
                    | C::TIMESTAMP_MILLIS
                    | C::TIMESTAMP_MICROS
                    | C::DECIMAL
            ),
            Physical::FIXED_LEN_BYTE_ARRAY => matches!(converted, C::NONE | C::DECIMAL),
            _ => !matches!(converted, C::INTERVAL),
        };
        if !supported {
            let column = column.path().string();
            return Err(unreadable(
                file,
                format!("column {column:?} has the type {converted}, which is not supported"),
            ));
        }
    }
    Ok(())
}

struct ParquetRows {
    rows: RowIter<'static>,
    file: SourceFile,
    /// Rows read so far.
    number: u64,
}

impl NextRow for ParquetRows {
    fn next_row(&mut self) -> Result<Option<Result<Row>>> {
        self.number += 1;
        let decoded = guarded(|| {
            let row = self.rows.next()?;
            Some(row.map(|row| {
                let columns = row.into_columns().into_iter();
                let fields = columns.map(|(name, field)| match value(&field) {
                    Some(value) => Ok((name, value)),
                    None => Err(name),
                });
                fields.collect::<std::result::Result<Map<_, _>, String>>()
            }))
        });
        let fields = match decoded {
            Some(None) => return Ok(None),
            Some(Some(Ok(fields))) => fields,
            Some(Some(Err(error))) => return Err(self.failed(problem(&error))),
            None => return Err(self.failed(DAMAGED)),
        };
        let row = |fields| Row {
            key: None,
            record: self.number,
            fields,
        };
        let not_text = |name| self.failed(&format!("column {name:?} is not text"));
        Ok(Some(fields.map(row).map_err(not_text)))
    }
}

impl ParquetRows {
    fn failed(&self, problem: &str) -> Error {
        unreadable(&self.file, format!("row {}: {problem}", self.number))
    }
}

/// A cell as JSON; `None` for bytes that are not text.
fn value(field: &Field) -> Option<Value> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(f64::from(f32::from(*number))),
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => field.to_string().into(),
        Field::Group(row) => {
            let entry = |(name, field): (&String, &Field)| Some((name.clone(), value(field)?));
            Value::Object(row.get_column_iter().map(entry).collect::<Option<_>>()?)
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(value).collect::<Option<_>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(name, field): &(Field, Field)| {
                let name = match name {
                    Field::Str(name) => name.clone(),
                    other => other.to_string(),
                };
                Some((name, value(field)?))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Option<_>>()?)
        }
    })
}
