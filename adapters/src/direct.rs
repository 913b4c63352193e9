//! Files read and written past the page cache (`O_DIRECT`), and the memory that this needs.
//!
//! A model that is read once and written once gains nothing from the cache, and pays for it: each page is found, filled,
//! mapped, copied and given up again. Under virtualisation that was a third of a merge's processor time. Past the cache the
//! device writes into our buffers and reads from them.
//!
//! Not every file system can do it, and those that can want whole blocks: what is refused goes through the cache.

use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What offsets, lengths and addresses are multiples of. Devices of larger blocks refuse, and are read another way.
pub(crate) const ALIGNMENT: usize = 4096;

/// How a file is opened past the cache. [`open`], or in a test what refuses.
pub(crate) type Open = fn(&mut OpenOptions, &Path) -> io::Result<File>;

/// Opens a file with `O_DIRECT`.
#[cfg(target_os = "linux")]
pub(crate) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_DIRECT).open(path)
}

/// Other systems have other ways, which we do not know.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open(_: &mut OpenOptions, _: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether an error says that this cannot be done past the cache, rather than that it cannot be done.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// The bytes `range` of a file that was opened past the cache, in a block: the whole blocks around them are read. Returns
/// where in the block they begin.
pub(crate) fn read(file: &File, range: Range<u64>, pool: &Arc<Pool>) -> io::Result<(Block, usize)> {
    let first = range.start - range.start % ALIGNMENT as u64;
    let before = (range.start - first) as usize;
    let wanted = before + (range.end - range.start) as usize;
    let mut block = pool.take(wanted.next_multiple_of(ALIGNMENT));
    let mut read = 0;
    while read < wanted {
        let at = first + read as u64;
        match read_at(file, &mut block.as_mut_slice()[read..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) if read + n >= wanted => break,
            // Only at its end does a file give part of a block; else the rest of it is asked for again.
            Ok(n) if n < ALIGNMENT => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => read += n - n % ALIGNMENT,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok((block, before))
}

#[cfg(unix)]
fn read_at(file: &File, to: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, to, at)
}

#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Blocks that were used and will be again: fresh memory costs page faults.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<MmapMut>>);

impl Pool {
    /// Bytes of a usual block. A larger one is made for the occasion.
    pub(crate) const BYTES: usize = 4 << 20;

    /// A block of this length, filled with whatever was in it last.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Block {
        let free = (length <= Self::BYTES).then(|| self.free().pop());
        Block {
            memory: Some(free.flatten().unwrap_or_else(|| fresh(length))),
            length,
            pool: self.clone(),
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<MmapMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for a block of this length.
fn fresh(length: usize) -> MmapMut {
    let Ok(memory) = MmapMut::map_anon(length.max(Pool::BYTES)) else {
        // As anything that has no room in memory ends.
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; Pool::BYTES]>());
    };
    // For direct I/O each page of a block is looked up and held; of huge ones there are few. A hint.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory
}

/// Bytes at an address that is a multiple of [`ALIGNMENT`]. Dropped, they go back to their pool.
pub(crate) struct Block {
    /// Pages of its own, from a page's beginning on. There until the block is dropped.
    memory: Option<MmapMut>,
    length: usize,
    pool: Arc<Pool>,
}

impl Block {
    pub(crate) fn as_slice(&self) -> &[u8] {
        let memory = self.memory.as_deref();
        memory.map_or(&[], |memory| &memory[..self.length])
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let length = self.length;
        let memory = self.memory.as_deref_mut();
        memory.map_or(&mut [], |memory| &mut memory[..length])
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let usual = |memory: &MmapMut| memory.len() == Pool::BYTES;
        if let Some(memory) = self.memory.take().filter(usual) {
            self.pool.free().push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_come_back() {
        let pool = Arc::new(Pool::default());
        for length in [1, 5, Pool::BYTES, Pool::BYTES + 1, 0] {
            let mut block = pool.take(length);
            assert_eq!(block.as_slice().len(), length);
            assert_eq!(block.as_mut_slice().as_ptr().addr() % ALIGNMENT, 0);
        }
        assert_eq!(pool.free().len(), 1);
        let _both = (pool.take(5), pool.take(5));
        assert_eq!(pool.free().len(), 0);
    }

    #[test]
    fn any_range_of_a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..3 * ALIGNMENT + 123)
            .map(|i: usize| (i * 31 % 251) as u8)
            .collect();
        std::fs::write(&path, &bytes).unwrap();
        let plain: Open = |options, path| options.open(path);
        let pool = Arc::new(Pool::default());
        let mut seen = 0;
        for open in [plain, open] {
            let file = match open(OpenOptions::new().read(true), &path) {
                Err(e) if is_refused(&e) => continue,
                file => file.unwrap(),
            };
            let size = bytes.len();
            for range in [
                0..1,
                5..4101,
                4096..8192,
                8191..size,
                size - 7..size,
                0..size,
            ] {
                let wide = range.start as u64..range.end as u64;
                let (block, at) = read(&file, wide, &pool).unwrap();
                let found = &block.as_slice()[at..at + range.len()];
                assert_eq!(found, &bytes[range]);
            }
            let beyond = read(&file, 5..size as u64 + 1, &pool).err().unwrap();
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
            seen += 1;
        }
        assert!(seen > 0);
    }
}
