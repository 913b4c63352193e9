//! Records as a JSON array, as lines of JSON objects, or as one object.
//!
//! The line reader is ours: the `jsonl` crate's errors have no line number, and
//! it takes a blank line for an error. The array reader is ours because
//! `serde_json` reads an array whole; this one holds one element at a time.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::input::{Input, Line, not_utf8, open};
use super::{NextRow, Row, Rows, rows};
use crate::error::Place;
use crate::files::SourceFile;
use crate::record::json_kind;
use crate::{Error, Result};

/// Records as a JSON array, or as one JSON object a line: told apart by the
/// file's first character.
pub(crate) fn array_or_lines(file: &SourceFile) -> Result<Rows> {
    let mut input = open(file)?;
    match input.peek_past_space()? {
        Some(b'[') => Ok(rows(Elements {
            cursor: Cursor::new(input),
            keyed: false,
        })),
        Some(b'{') => Ok(rows(Lines {
            input,
            bytes: Vec::new(),
            within: false,
        })),
        None => Ok(Box::new(std::iter::empty())),
        Some(other) => Err(input.wrong_shape("a JSON array or lines of JSON objects", other)),
    }
}

/// Records as one JSON object, key to record.
pub(crate) fn object(file: &SourceFile) -> Result<Rows> {
    let mut input = open(file)?;
    match input.peek_past_space()? {
        Some(b'{') => Ok(rows(Elements {
            cursor: Cursor::new(input),
            keyed: true,
        })),
        None => Ok(Box::new(std::iter::empty())),
        Some(other) => Err(input.wrong_shape("a JSON object of records", other)),
    }
}

/// Parses one record's bytes, which began on line `at.line`.
fn parse(bytes: &[u8], at: Place) -> Result<Map<String, Value>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(at, error)),
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Error::NotAnObject {
            at,
            found: json_kind(&other),
        }),
        Err(error) => Err(json_error(at, &error)),
    }
}

fn json_error(at: Place, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    // The parser counts lines from the record's start; the place has the file's.
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    let line = at.line + error.line().max(1) as u64 - 1;
    Error::Json {
        at: Place { line, ..at },
        message: format!("{message} (column {})", error.column()),
    }
}

/// One JSON object a line; blank lines are skipped. A bad line is one bad
/// record: the next one begins after its end.
struct Lines<R> {
    input: Input<R>,
    bytes: Vec<u8>,
    /// In a line that was too long, whose end is still to come.
    within: bool,
}

impl<R: BufRead> NextRow for Lines<R> {
    fn next_row(&mut self) -> Result<Option<Result<Row>>> {
        if std::mem::take(&mut self.within) {
            self.input.skip_line()?;
        }
        loop {
            let line = self.input.line;
            self.bytes.clear();
            match self.input.read_line(&mut self.bytes, self.input.limit)? {
                Line::End => return Ok(None),
                Line::TooLong => {
                    self.within = true;
                    return Ok(Some(Err(self.input.too_large(line, None))));
                }
                Line::Whole if self.bytes.iter().all(u8::is_ascii_whitespace) => {}
                Line::Whole => {
                    let row = |fields| Row {
                        key: None,
                        record: line,
                        fields,
                    };
                    let at = self.input.place(line, None);
                    return Ok(Some(parse(&self.bytes, at).map(row)));
                }
            }
        }
    }
}

/// The elements of an array, or the entries of an object. Elements are cut by
/// brackets and quotation marks; one that was cut whole but does not parse is
/// one bad record.
struct Elements<R> {
    cursor: Cursor<R>,
    /// An object's entries.
    keyed: bool,
}

impl<R: BufRead> NextRow for Elements<R> {
    fn next_row(&mut self) -> Result<Option<Result<Row>>> {
        let cursor = &mut self.cursor;
        if cursor.number == 0 {
            cursor.enter();
        }
        cursor.number += 1;
        let close = if self.keyed { b'}' } else { b']' };
        if !cursor.next(close)? {
            cursor.nothing_follows()?;
            return Ok(None);
        }
        let key = if self.keyed {
            Some(cursor.key()?)
        } else {
            None
        };
        let fields = cursor.record()?;
        let record = cursor.number;
        let row = |fields| Row {
            key,
            record,
            fields,
        };
        Ok(Some(fields.map(row)))
    }
}

/// Walks through JSON without holding more than one value.
pub(super) struct Cursor<R> {
    pub input: Input<R>,
    /// The record that errors name, 1-based.
    pub number: u64,
    /// No element of the innermost list or object has been met.
    first: bool,
    bytes: Vec<u8>,
}

impl<R: BufRead> Cursor<R> {
    pub fn new(input: Input<R>) -> Self {
        Self {
            input,
            number: 0,
            first: true,
            bytes: Vec::new(),
        }
    }

    /// Passes the bracket that the next byte is known to be.
    pub fn enter(&mut self) {
        self.input.bump(b'[');
        self.first = true;
    }

    /// Passes `bracket`, which must come next.
    pub fn open(&mut self, bracket: u8, wanted: &str) -> Result<()> {
        match self.input.peek_past_space()? {
            Some(byte) if byte == bracket => {
                self.enter();
                Ok(())
            }
            other => Err(self.unexpected(other, wanted)),
        }
    }

    /// Moves to the next element; past `close` and false if there is none.
    pub fn next(&mut self, close: u8) -> Result<bool> {
        let first = std::mem::take(&mut self.first);
        match self.input.peek_past_space()? {
            Some(byte) if byte == close => {
                self.input.bump(byte);
                return Ok(false);
            }
            Some(b',') if !first => self.input.bump(b','),
            Some(_) if first => {}
            other if close == b'}' => return Err(self.unexpected(other, "`,` or `}`")),
            other => return Err(self.unexpected(other, "`,` or `]`")),
        }
        self.input.peek_past_space()?;
        Ok(true)
    }

    /// An entry's key and the colon after it.
    pub fn key(&mut self) -> Result<String> {
        let at = self.place();
        self.value(true)?;
        if let Err(error) = std::str::from_utf8(&self.bytes) {
            return Err(not_utf8(at, error));
        }
        let key = serde_json::from_slice(&self.bytes).map_err(|_| Error::Json {
            at,
            message: "expected a record's key (a string)".into(),
        })?;
        match self.input.peek_past_space()? {
            Some(b':') => self.input.bump(b':'),
            other => return Err(self.unexpected(other, "`:`")),
        }
        self.input.peek_past_space()?;
        Ok(key)
    }

    /// The next value as a record.
    pub fn record(&mut self) -> Result<Result<Map<String, Value>>> {
        let at = self.place();
        self.value(true)?;
        Ok(parse(&self.bytes, at))
    }

    /// The next value where it is a string.
    pub fn string(&mut self) -> Result<Option<String>> {
        self.value(true)?;
        Ok(serde_json::from_slice(&self.bytes).ok())
    }

    /// Passes over the next value without holding it.
    pub fn skip(&mut self) -> Result<()> {
        self.value(false)
    }

    pub fn nothing_follows(&mut self) -> Result<()> {
        match self.input.peek_past_space()? {
            None => Ok(()),
            other => Err(self.unexpected(other, "the end of the file")),
        }
    }

    /// Moves past one value, to the first `,` `:` or closing bracket outside
    /// strings and inner brackets, and keeps its bytes if they are wanted.
    /// Whether they are a value is the parser's to say.
    fn value(&mut self, keep: bool) -> Result<()> {
        let (line, limit) = (self.input.line, self.input.limit);
        let (mut ends, mut length) = (ValueEnd::default(), 0);
        self.bytes.clear();
        loop {
            let chunk = self.input.buffer()?;
            if chunk.is_empty() {
                return Err(self.unexpected(None, "the rest of the record"));
            }
            let end = ends.find(chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let lines = part.iter().filter(|&&byte| byte == b'\n').count();
            let taken = part.len();
            length += taken;
            if keep {
                if length > limit {
                    return Err(self.input.too_large(line, Some(self.number)));
                }
                self.bytes.extend_from_slice(part);
            }
            let next = end.map(|end| chunk[end]);
            self.input.line += lines as u64;
            self.input.reader.consume(taken);
            match next {
                Some(_) if length == 0 => return Err(self.unexpected(next, "a record")),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }

    fn place(&self) -> Place {
        let record = (self.number > 0).then_some(self.number);
        self.input.place(self.input.line, record)
    }

    fn unexpected(&self, found: Option<u8>, wanted: &str) -> Error {
        let found = match found {
            Some(_) => "something else",
            None => "the end of the file",
        };
        Error::Json {
            at: self.place(),
            message: format!("expected {wanted}, found {found}"),
        }
    }
}

/// Looks for the byte after a value, chunk by chunk.
#[derive(Default)]
struct ValueEnd {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl ValueEnd {
    fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut i = 0;
        while i < chunk.len() {
            if self.escaped {
                self.escaped = false;
                i += 1;
            } else if self.string {
                // Most bytes are a string's: they are passed in one go.
                let rest = &chunk[i..];
                let special = rest.iter().position(|&b| b == b'"' || b == b'\\')?;
                i += special + 1;
                self.escaped = rest[special] == b'\\';
                self.string = self.escaped;
            } else {
                match chunk[i] {
                    b'"' => self.string = true,
                    b'[' | b'{' => self.depth += 1,
                    b',' | b':' | b']' | b'}' if self.depth == 0 => return Some(i),
                    b']' | b'}' => self.depth -= 1,
                    _ => {}
                }
                i += 1;
            }
        }
        None
    }
}
