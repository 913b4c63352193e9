//! A stream of bytes with the file's name and the line it has come to.

use std::io::{BufRead, Read};

use crate::error::Place;
use crate::files::SourceFile;
use crate::{Error, Result};

use super::MAX_RECORD_BYTES;

/// A file opened for reading.
pub(super) struct Input<R> {
    pub reader: R,
    pub file: SourceFile,
    /// The line that the next byte is on, 1-based.
    pub line: u64,
    /// The longest record, in bytes.
    pub limit: usize,
}

pub(super) type FileInput = Input<Box<dyn BufRead + Send>>;

/// What [`Input::read_line`] found.
pub(super) enum Line {
    /// A line, without its end.
    Whole,
    /// More bytes than allowed and no end yet.
    TooLong,
    /// Nothing: the file has ended.
    End,
}

pub(super) fn open(file: &SourceFile) -> Result<FileInput> {
    Ok(Input {
        reader: file.open()?,
        file: file.clone(),
        line: 1,
        limit: MAX_RECORD_BYTES,
    })
}

impl<R: BufRead> Input<R> {
    /// The bytes at hand; none at the end of the file.
    pub fn buffer(&mut self) -> Result<&[u8]> {
        let (file, line) = (&self.file, self.line);
        self.reader
            .fill_buf()
            .map_err(|error| file.failed(line, error))
    }

    pub fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.buffer()?.first().copied())
    }

    pub fn bump(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.reader.consume(1);
    }

    pub fn peek_past_space(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => self.bump(byte),
                other => return Ok(other),
            }
        }
    }

    /// Appends a line to `bytes`, at most `allowed` of them.
    pub fn read_line(&mut self, bytes: &mut Vec<u8>, allowed: usize) -> Result<Line> {
        let (file, line, before) = (&self.file, self.line, bytes.len());
        // `read_until` looks for the end many bytes at a time.
        (&mut self.reader)
            .take(allowed as u64 + 1)
            .read_until(b'\n', bytes)
            .map_err(|error| file.failed(line, error))?;
        if bytes.len() > before && bytes.ends_with(b"\n") {
            bytes.pop();
            self.line += 1;
            Ok(Line::Whole)
        } else if bytes.len() - before > allowed {
            Ok(Line::TooLong)
        } else if bytes.len() > before {
            Ok(Line::Whole)
        } else {
            Ok(Line::End)
        }
    }

    /// Passes over the rest of a line without holding it.
    pub fn skip_line(&mut self) -> Result<()> {
        let (file, line) = (&self.file, self.line);
        self.reader
            .skip_until(b'\n')
            .map_err(|error| file.failed(line, error))?;
        self.line += 1;
        Ok(())
    }

    pub fn place(&self, line: u64, record: Option<u64>) -> Place {
        self.file.place(line, record)
    }

    pub fn too_large(&self, line: u64, record: Option<u64>) -> Error {
        Error::RecordTooLarge {
            at: self.place(line, record),
            limit_bytes: self.limit,
        }
    }

    pub fn wrong_shape(&self, wanted: &'static str, found: u8) -> Error {
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
}

pub(super) fn not_utf8(at: Place, error: std::str::Utf8Error) -> Error {
    Error::NotUtf8 {
        at,
        byte: error.valid_up_to(),
    }
}
