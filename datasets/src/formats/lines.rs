//! Lines of text files, for formats that are lines.

use std::io::BufRead;

use crate::bounded::Bounded;
use crate::files::SourceFile;
use crate::rows::MAX_RECORD_BYTES;
use crate::{Error, Result};

/// A file's lines with their numbers, without line ends. After a line that is
/// too long or not UTF-8 the next one follows; after a failure to read none.
pub(crate) struct Lines {
    reader: Bounded,
    file: SourceFile,
    done: bool,
}

impl Lines {
    pub fn open(file: &SourceFile) -> Result<Self> {
        Ok(Self {
            reader: Bounded::new(file.open()?, usize::MAX),
            file: file.clone(),
            done: false,
        })
    }

    fn next_line(&mut self) -> Result<Option<(u64, String)>> {
        let line = self.reader.line;
        let mut bytes = Vec::new();
        let mut too_long = false;
        loop {
            let chunk = self.reader.fill_buf().map_err(Error::read(&self.file.path));
            let chunk = chunk.inspect_err(|_| self.done = true)?;
            if chunk.is_empty() {
                self.done = true;
                if bytes.is_empty() && !too_long {
                    return Ok(None);
                }
                break;
            }
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let take = end.unwrap_or(chunk.len());
            too_long |= bytes.len() + take > MAX_RECORD_BYTES;
            if !too_long {
                bytes.extend_from_slice(&chunk[..take]);
            }
            self.reader.consume(take + usize::from(end.is_some()));
            if end.is_some() {
                break;
            }
        }
        if too_long {
            return Err(Error::RecordTooLarge {
                at: self.file.place(line, None),
                limit_bytes: MAX_RECORD_BYTES,
            });
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
            at: self.file.place(line, None),
            byte: error.utf8_error().valid_up_to(),
        })?;
        Ok(Some((line, text)))
    }
}

impl Iterator for Lines {
    type Item = Result<(u64, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        self.next_line().transpose()
    }
}
