//! Tensors' bytes to files: one thread hashes them and lays them out in blocks, another writes the blocks.

use crate::direct::{ALIGNMENT, Block, Open, Pool, is_refused};
use crate::{Error, Result, WeightView};
use kernels::Bytes;
use ledger::FileHash;
use ledger::hash::Sha256;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes that are written at a time.
const WRITE: usize = 4 << 20;
/// Bytes that are hashed and then copied, while the first-level or second-level cache still has them.
const SOME: usize = 1 << 16;
/// Blocks that may wait for the disk.
const AHEAD: usize = 4;

/// What the writer is told.
pub(crate) enum Message {
    /// A new file, and its header.
    Begin(String, Vec<u8>),
    /// Bytes, and the tensor whose memory they may fill.
    Data(Data, WeightView),
}

/// Bytes on their way to the file.
pub(crate) enum Data {
    Made(Vec<u8>),
    Block(Block),
    Stored(Bytes),
}

impl Data {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Data::Made(bytes) => bytes,
            Data::Block(block) => block.as_slice(),
            Data::Stored(bytes) => bytes.as_slice(),
        }
    }
}

/// Writes what it is told into files in `dir`, past the page cache with `direct`, and hashes it.
pub(crate) fn write(
    dir: &Path,
    messages: &Receiver<Message>,
    direct: Option<Open>,
    pool: &Arc<Pool>,
) -> Result<Vec<FileHash>> {
    std::thread::scope(|scope| {
        let (to_disk, parts) = sync_channel(AHEAD);
        let disk = scope.spawn(move || write_parts(&parts, direct));
        let hashed = lay_out(dir, messages, to_disk, pool);
        disk.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(hashed)
    })
}

/// What the disk's thread is told: a file to go on with, or the next bytes of it, so many of a block.
enum Part {
    File(PathBuf),
    Bytes(Block, usize),
}

/// Hashes what it is told and puts it into blocks. Ends when the disk's thread has, which then says why.
fn lay_out(
    dir: &Path,
    messages: &Receiver<Message>,
    to_disk: SyncSender<Part>,
    pool: &Arc<Pool>,
) -> Vec<FileHash> {
    let mut files = Vec::new();
    let mut layout: Option<Layout> = None;
    for message in messages {
        let sent = match message {
            Message::Begin(name, header) => {
                let ended = layout.take().is_none_or(|layout| {
                    let (file, sent) = layout.end(&to_disk);
                    files.push(file);
                    sent
                });
                let mut next = Layout::begin(name, pool);
                let path = dir.join(&next.name);
                let length = (header.len() as u64).to_le_bytes();
                let sent = ended
                    && to_disk.send(Part::File(path)).is_ok()
                    && next.add(&length, &to_disk)
                    && next.add(&header, &to_disk);
                layout = Some(next);
                sent
            }
            Message::Data(data, view) => {
                let sent = layout
                    .as_mut()
                    .is_none_or(|layout| layout.add(data.bytes(), &to_disk));
                if let Data::Stored(bytes) = &data {
                    view.release_bytes(bytes.as_slice());
                }
                sent
            }
        };
        if !sent {
            return files;
        }
    }
    files.extend(layout.map(|layout| layout.end(&to_disk).0));
    files
}

/// A file's bytes as they come, in blocks as they go.
struct Layout<'a> {
    name: String,
    hash: Sha256,
    bytes: u64,
    pool: &'a Arc<Pool>,
    block: Block,
    filled: usize,
}

impl<'a> Layout<'a> {
    fn begin(name: String, pool: &'a Arc<Pool>) -> Self {
        Self {
            name,
            hash: Sha256::new(),
            bytes: 0,
            pool,
            block: pool.take(WRITE),
            filled: 0,
        }
    }

    /// Whether the disk's thread still listens.
    fn add(&mut self, bytes: &[u8], to_disk: &SyncSender<Part>) -> bool {
        for mut some in bytes.chunks(SOME) {
            self.hash.update(some);
            self.bytes += some.len() as u64;
            while !some.is_empty() {
                let (now, later) = some.split_at(some.len().min(WRITE - self.filled));
                let end = self.filled + now.len();
                self.block.as_mut_slice()[self.filled..end].copy_from_slice(now);
                self.filled = end;
                some = later;
                if self.filled == WRITE {
                    let full = std::mem::replace(&mut self.block, self.pool.take(WRITE));
                    self.filled = 0;
                    if to_disk.send(Part::Bytes(full, WRITE)).is_err() {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn end(self, to_disk: &SyncSender<Part>) -> (FileHash, bool) {
        let sent = self.filled == 0 || to_disk.send(Part::Bytes(self.block, self.filled)).is_ok();
        let file = FileHash {
            path: self.name,
            sha256: ledger::hash::hex(&self.hash.finalize()),
            bytes: self.bytes,
        };
        (file, sent)
    }
}

fn write_parts(parts: &Receiver<Part>, direct: Option<Open>) -> Result<()> {
    let mut output: Option<Output> = None;
    for part in parts {
        match part {
            Part::File(path) => {
                output.take().map_or(Ok(()), Output::end)?;
                output = Some(Output::begin(path, direct)?);
            }
            Part::Bytes(mut block, length) => {
                if let Some(output) = &mut output {
                    output.write(block.as_mut_slice(), length)?;
                }
            }
        }
    }
    output.map_or(Ok(()), Output::end)
}

/// A file being written.
struct Output {
    path: PathBuf,
    file: File,
    /// Whether it is written past the cache, in whole blocks.
    direct: bool,
    written: u64,
    /// Bytes that the system has been asked to bring to the disk.
    started: u64,
}

impl Output {
    fn begin(path: PathBuf, direct: Option<Open>) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let opened = match direct.map(|open| open(&mut options.clone(), &path)) {
            Some(Err(e)) if !is_refused(&e) => Err(e),
            Some(Ok(file)) => Ok((file, true)),
            _ => options.open(&path).map(|file| (file, false)),
        };
        let (file, direct) = opened.map_err(Error::io(&path))?;
        Ok(Self {
            path,
            file,
            direct,
            written: 0,
            started: 0,
        })
    }

    /// Writes the first `length` bytes; what follows them in the block may be overwritten.
    fn write(&mut self, block: &mut [u8], length: usize) -> Result<()> {
        self.try_write(block, length)
            .map_err(Error::io(&self.path))?;
        self.written += length as u64;
        // Begun early, so that the disk works while we compute and the final sync has little to wait for.
        if !self.direct && self.written - self.started >= 16 * WRITE as u64 {
            start_writeback(&self.file, self.started, self.written - self.started);
            self.started = self.written;
        }
        Ok(())
    }

    fn try_write(&mut self, block: &mut [u8], length: usize) -> io::Result<()> {
        if self.direct {
            // Only a file's last block is not full: what is too much is cut off at its end.
            let whole = length.next_multiple_of(ALIGNMENT);
            block[length..whole].fill(0);
            match write_at(&self.file, &block[..whole], self.written) {
                Err(e) if is_refused(&e) => {
                    self.file = OpenOptions::new().write(true).open(&self.path)?;
                    self.direct = false;
                }
                written => return written,
            }
        }
        write_at(&self.file, &block[..length], self.written)
    }

    fn end(self) -> Result<()> {
        if self.direct {
            return self
                .file
                .set_len(self.written)
                .map_err(Error::io(&self.path));
        }
        start_writeback(&self.file, self.started, self.written - self.started);
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// Asks the system to bring these bytes of a file to the disk, without waiting for it.
fn start_writeback(file: &File, offset: u64, bytes: u64) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open; the call touches no memory. It is a hint: the final sync is what counts.
        let _ = unsafe {
            libc::sync_file_range(
                file.as_raw_fd(),
                offset as libc::off64_t,
                bytes as libc::off64_t,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, bytes);
}
