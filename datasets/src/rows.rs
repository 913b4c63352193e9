//! Cuts files into rows, one at a time, and knows where each began.
//!
//! The line reader is ours: the `jsonl` crate's errors have no line number, and
//! it takes a blank line for an error. The array reader is ours because
//! `serde_json` reads an array whole; this one holds one element at a time.

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::error::Place;
use crate::files::SourceFile;
use crate::record::json_kind;
use crate::{Error, Result};

/// Longest record that is read into memory. The largest honest ones (a book as
/// one document) are a few megabytes.
pub(crate) const MAX_RECORD_BYTES: usize = 32 << 20;

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its key, in an object of records.
    pub key: Option<String>,
    /// Its line (JSONL) or its number in the array or object; 1-based.
    pub record: u64,
    pub fields: Map<String, Value>,
}

/// Rows, read as they are asked for. A reader that can tell where the next
/// record begins goes on after a bad one; another ends after its error.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// A file opened for reading, with the name that errors call it by.
struct Input<R> {
    reader: R,
    file: SourceFile,
    line: u64,
    limit: usize,
}

type FileInput = Input<Box<dyn BufRead + Send>>;

fn open(file: &SourceFile) -> Result<FileInput> {
    Ok(Input {
        reader: file.open()?,
        file: file.clone(),
        line: 1,
        limit: MAX_RECORD_BYTES,
    })
}

/// A whole text file as one row with the field `text`.
pub(crate) fn whole_text(file: &SourceFile) -> Result<Rows> {
    let text = match String::from_utf8(file.bytes(MAX_RECORD_BYTES)?) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(file.place(1, None), error.utf8_error())),
    };
    let fields = Map::from_iter([("text".to_string(), Value::String(text))]);
    Ok(Box::new(std::iter::once(Ok(Row {
        key: None,
        record: 1,
        fields,
    }))))
}

/// Records as a JSON array, or as one JSON object a line: told apart by the
/// file's first character.
pub(crate) fn array_or_lines(file: &SourceFile) -> Result<Rows> {
    let mut input = open(file)?;
    match input.peek_past_space()? {
        Some(b'[') => Ok(fuse(Elements {
            input,
            number: 0,
            keyed: false,
        })),
        Some(b'{') => Ok(fuse(Lines { input })),
        None => Ok(Box::new(std::iter::empty())),
        Some(other) => Err(input.wrong_shape("a JSON array or lines of JSON objects", other)),
    }
}

/// Records as one JSON object, key to record.
pub(crate) fn object(file: &SourceFile) -> Result<Rows> {
    let mut input = open(file)?;
    match input.peek_past_space()? {
        Some(b'{') => Ok(fuse(Elements {
            input,
            number: 0,
            keyed: true,
        })),
        None => Ok(Box::new(std::iter::empty())),
        Some(other) => Err(input.wrong_shape("a JSON object of records", other)),
    }
}

/// Ends after the first error: what follows a bad record cannot be trusted.
fn fuse(rows: impl NextRow + Send + 'static) -> Rows {
    let mut rows = Some(rows);
    Box::new(std::iter::from_fn(move || {
        let next = rows.as_mut()?.next_row().transpose();
        if !matches!(next, Some(Ok(_))) {
            rows = None;
        }
        next
    }))
}

trait NextRow {
    fn next_row(&mut self) -> Result<Option<Row>>;
}

impl<R: BufRead> Input<R> {
    fn buffer(&mut self) -> Result<&[u8]> {
        // The path is cloned only when reading fails.
        let path = &self.file.path;
        self.reader.fill_buf().map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.buffer()?.first().copied())
    }

    fn bump(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.reader.consume(1);
    }

    fn peek_past_space(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => self.bump(byte),
                other => return Ok(other),
            }
        }
    }

    fn place(&self, line: u64, record: Option<u64>) -> Place {
        self.file.place(line, record)
    }

    fn too_large(&self, line: u64, record: Option<u64>) -> Error {
        Error::RecordTooLarge {
            at: self.place(line, record),
            limit_bytes: self.limit,
        }
    }

    fn wrong_shape(&self, wanted: &'static str, found: u8) -> Error {
        let found = match found {
            b'[' => "an array".to_string(),
            b'{' => "an object".to_string(),
            byte if byte.is_ascii_graphic() => format!("{:?}", char::from(byte)),
            byte => format!("the byte {byte:#04x}"),
        };
        Error::WrongShape {
            at: self.place(self.line, None),
            wanted,
            found,
        }
    }

    /// Parses one record's bytes, which began on `line`.
    fn parse(&self, bytes: &[u8], line: u64, record: Option<u64>) -> Result<Map<String, Value>> {
        let place = |line| self.place(line, record);
        std::str::from_utf8(bytes).map_err(|error| not_utf8(place(line), error))?;
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(other) => Err(Error::NotAnObject {
                at: place(line),
                found: json_kind(&other),
            }),
            Err(error) => Err(json_error(
                place(line + error.line().max(1) as u64 - 1),
                &error,
            )),
        }
    }
}

fn not_utf8(at: Place, error: std::str::Utf8Error) -> Error {
    Error::NotUtf8 {
        at,
        byte: error.valid_up_to(),
    }
}

fn json_error(at: Place, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    // The parser counts lines from the record's start; the place has the file's.
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    Error::Json {
        at,
        message: format!("{message} (column {})", error.column()),
    }
}

/// One JSON object a line; blank lines are skipped.
struct Lines<R> {
    input: Input<R>,
}

impl<R: BufRead> NextRow for Lines<R> {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let mut bytes = Vec::new();
        loop {
            let line = self.input.line;
            bytes.clear();
            if !self.read_line(&mut bytes)? {
                return Ok(None);
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                let fields = self.input.parse(&bytes, line, None)?;
                return Ok(Some(Row {
                    key: None,
                    record: line,
                    fields,
                }));
            }
        }
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads to the end of the line; false at the end of the file.
    fn read_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        let line = self.input.line;
        loop {
            let limit = self.input.limit;
            let chunk = self.input.buffer()?;
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let take = end.unwrap_or(chunk.len());
            if chunk.is_empty() {
                return Ok(!bytes.is_empty());
            }
            if bytes.len() + take > limit {
                return Err(self.input.too_large(line, None));
            }
            bytes.extend_from_slice(&chunk[..take]);
            self.input.reader.consume(take + usize::from(end.is_some()));
            if end.is_some() {
                self.input.line += 1;
                return Ok(true);
            }
        }
    }
}

/// The elements of an array, or the entries of an object.
struct Elements<R> {
    input: Input<R>,
    /// Elements read so far.
    number: u64,
    /// An object's entries.
    keyed: bool,
}

impl<R: BufRead> NextRow for Elements<R> {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let close = if self.keyed { b'}' } else { b']' };
        let first = self.number == 0;
        self.number += 1;
        if first {
            self.input.bump(b'[');
        }
        match self.input.peek_past_space()? {
            Some(byte) if byte == close => {
                self.input.bump(byte);
                return self.nothing_follows();
            }
            Some(b',') if !first => self.input.bump(b','),
            Some(_) if first => {}
            other => {
                return Err(self.unexpected(
                    other,
                    if self.keyed {
                        "`,` or `}`"
                    } else {
                        "`,` or `]`"
                    },
                ));
            }
        }
        let key = if self.keyed { Some(self.key()?) } else { None };
        self.input.peek_past_space()?;
        let line = self.input.line;
        let bytes = self.value(line)?;
        let fields = self.input.parse(&bytes, line, Some(self.number))?;
        Ok(Some(Row {
            key,
            record: self.number,
            fields,
        }))
    }
}

impl<R: BufRead> Elements<R> {
    fn key(&mut self) -> Result<String> {
        self.input.peek_past_space()?;
        let line = self.input.line;
        let bytes = self.value(line)?;
        let place = self.input.place(line, Some(self.number));
        std::str::from_utf8(&bytes).map_err(|error| not_utf8(place.clone(), error))?;
        let key = serde_json::from_slice(&bytes).map_err(|error| {
            let _ = error;
            Error::Json {
                at: place,
                message: "expected a record's key (a string)".into(),
            }
        })?;
        match self.input.peek_past_space()? {
            Some(b':') => self.input.bump(b':'),
            other => return Err(self.unexpected(other, "`:`")),
        }
        Ok(key)
    }

    /// The bytes of one value: to the first `,` `:` or closing bracket outside
    /// strings and inner brackets. Whether they are a value is the parser's to say.
    fn value(&mut self, line: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (mut depth, mut string, mut escaped) = (0usize, false, false);
        while let Some(byte) = self.input.peek()? {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if string => escaped = true,
                b'"' => string = !string,
                _ if string => {}
                b'[' | b'{' => depth += 1,
                b',' | b':' | b']' | b'}' if depth == 0 && bytes.is_empty() => {
                    return Err(self.unexpected(Some(byte), "a record"));
                }
                b',' | b':' | b']' | b'}' if depth == 0 => return Ok(bytes),
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            if bytes.len() == self.input.limit {
                return Err(self.input.too_large(line, Some(self.number)));
            }
            bytes.push(byte);
            self.input.bump(byte);
        }
        Err(self.unexpected(None, "the rest of the record"))
    }

    fn nothing_follows(&mut self) -> Result<Option<Row>> {
        match self.input.peek_past_space()? {
            None => Ok(None),
            other => Err(self.unexpected(other, "the end of the file")),
        }
    }

    fn unexpected(&self, found: Option<u8>, wanted: &str) -> Error {
        let at = self.input.place(self.input.line, Some(self.number));
        let found = if found.is_some() {
            "something else"
        } else {
            "the end of the file"
        };
        Error::Json {
            at,
            message: format!("expected {wanted}, found {found}"),
        }
    }
}
