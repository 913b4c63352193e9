//! A range of bytes that somebody else owns: a mapped file, a buffer.

use crate::{Error, Result};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Shared bytes; a clone shares them, and the owner lives as long as any clone.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<Self> {
        let available = (*owner).as_ref().len();
        if range.start > range.end || range.end > available {
            return Err(Error::Range {
                start: range.start,
                end: range.end,
                available,
            });
        }
        Ok(Self { owner, range })
    }

    /// Bytes of its own.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            owner: Arc::new(bytes),
            range,
        }
    }

    /// The bytes. Empty if the owner has shrunk since.
    pub fn as_slice(&self) -> &[u8] {
        (*self.owner)
            .as_ref()
            .get(self.range.clone())
            .unwrap_or(&[])
    }

    /// The bytes `range` of these, as far as they go.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.len());
        let start = self.range.start + range.start.min(end);
        Self {
            owner: self.owner.clone(),
            range: start..self.range.start + end,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({:?})", self.range)
    }
}
