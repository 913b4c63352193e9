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
    identity: Identity,
}

/// The smallest page there is. Where they are larger, mincore refuses most addresses, and nothing counts as cached.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Device, number and length of a file, as far as the system tells.
type Identity = (u64, u64, u64);

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.len())
}

#[cfg(not(unix))]
fn identity(metadata: &std::fs::Metadata) -> Identity {
    (0, 0, metadata.len())
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
        let metadata = file.metadata().map_err(Error::io(path))?;
        let data = if metadata.len() == 0 {
            Mapping::Empty
        } else {
            // SAFETY: the mapping is read-only and private to this process's view; as every program that maps
            // model files does, we rely on nobody truncating the file while it is in use.
            Mapping::File(unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?)
        };
        Ok(Self {
            data: Arc::new(data),
            path: path.into(),
            identity: identity(&metadata),
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

    /// Whether this is the file that is mapped, and not another that has taken its name since.
    pub(crate) fn is_of(&self, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|metadata| identity(&metadata) == self.identity)
    }

    /// Whether all of `bytes` of this file are in the page cache, as far as the system says.
    pub(crate) fn is_cached(&self, bytes: &[u8]) -> bool {
        #[cfg(target_os = "linux")]
        if let Mapping::File(map) = &*self.data {
            let Some(start) = self.offset_of(bytes) else {
                return false;
            };
            let first = start - start % PAGE;
            let length = start + bytes.len() - first;
            let mut pages = vec![0u8; length.div_ceil(PAGE)];
            // SAFETY: the pages from `first` on are mapped as long as `map` lives, and `pages` has a byte for each,
            // also where a page is larger than we take it for. On failure it says that none is there.
            unsafe {
                let address = map.as_ptr().add(first).cast_mut().cast();
                libc::mincore(address, length, pages.as_mut_ptr().cast());
            }
            return pages.iter().all(|page| page & 1 == 1);
        }
        let _ = bytes;
        false
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
