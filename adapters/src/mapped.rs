//! Files mapped into memory: weights are paged in by the operating system as they are read, and never copied.

use crate::{Error, Result};
use kernels::Bytes;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A whole file, mapped for reading.
#[derive(Clone)]
pub(crate) struct MappedFile {
    data: Arc<Mapping>,
    path: Arc<Path>,
}

/// An empty file cannot be mapped, and is a perfectly good thing to report about.
enum Mapping {
    Empty,
    File(memmap2::Mmap),
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        match self {
            Mapping::Empty => &[],
            Mapping::File(map) => map,
        }
    }
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
            _ => Error::Io {
                path: path.into(),
                source: e,
            },
        })?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let data = if length == 0 {
            Mapping::Empty
        } else {
            // SAFETY: the mapping is read-only and private to this process's view; as every program that maps
            // model files does, we rely on nobody truncating the file while it is in use.
            Mapping::File(unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?)
        };
        Ok(Self {
            data: Arc::new(data),
            path: path.into(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where these bytes of the file begin; nothing if they are not of this file.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let file = self.as_slice();
        let start = bytes.as_ptr().addr().checked_sub(file.as_ptr().addr())?;
        (start + bytes.len() <= file.len()).then_some(start)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        (*self.data).as_ref()
    }

    /// Lets go of the memory that reading `bytes` of this file has filled: it is read again if it is asked for again.
    /// For weights that have been copied, so that a process does not hold them twice.
    pub(crate) fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Mapping::File(map) = &*self.data {
            let Some(start) = self.offset_of(bytes) else {
                return;
            };
            // SAFETY: the mapping is of a file and never written, so that its pages come back as they were.
            let released = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes.len())
            };
            // A hint: where it is not taken, the pages stay.
            let _ = released;
        }
    }

    /// A window of the file that keeps the mapping alive.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<Bytes> {
        Ok(Bytes::new(self.data.clone(), range)?)
    }
}
