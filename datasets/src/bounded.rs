//! Reads no more than one record's worth of bytes between two records, and
//! counts lines: parsers that keep what they have not yet understood (an
//! unclosed quote, a tag without end) so stop at a known size.

use std::io::{BufRead, Error, Read, Result};

/// A reader with a budget of bytes, renewed at each record.
pub(crate) struct Bounded {
    inner: Box<dyn BufRead + Send>,
    limit_bytes: usize,
    left_bytes: usize,
    /// The line of the next byte, 1-based.
    pub line: u64,
    /// Bytes read so far.
    pub offset: u64,
    /// The budget was spent: the reader gave an error for it.
    pub spent: bool,
    /// The input's end was seen.
    pub ended: bool,
    /// An odd number of double quotes was read: one of them is still open.
    pub quote_open: bool,
}

impl Bounded {
    /// At most `limit_bytes` between two calls of [`Bounded::renew`].
    pub fn new(inner: Box<dyn BufRead + Send>, limit_bytes: usize) -> Self {
        Self {
            inner,
            limit_bytes,
            left_bytes: limit_bytes,
            line: 1,
            offset: 0,
            spent: false,
            ended: false,
            quote_open: false,
        }
    }

    /// Another record begins.
    pub fn renew(&mut self) {
        self.left_bytes = self.limit_bytes;
    }

    /// The budget of one record.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }
}

impl BufRead for Bounded {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        if self.left_bytes == 0 {
            self.spent = true;
            return Err(Error::other("a record is too large"));
        }
        let chunk = self.inner.fill_buf()?;
        self.ended |= chunk.is_empty();
        Ok(&chunk[..chunk.len().min(self.left_bytes)])
    }

    fn consume(&mut self, amount: usize) {
        if amount == 0 {
            return;
        }
        // What is consumed is still in the buffer: this reads nothing.
        if let Ok(chunk) = self.inner.fill_buf() {
            let taken = &chunk[..amount.min(chunk.len())];
            self.line += taken.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let quotes = taken.iter().filter(|&&byte| byte == b'"').count();
            self.quote_open ^= quotes % 2 == 1;
        }
        self.offset += amount as u64;
        self.left_bytes = self.left_bytes.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(into.len());
        into[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}
