//! Tensors from where they lie to the files of a new model: read in the order of the base's files, changed by panels of
//! rows on all threads, and written in order, with their proof made on the bytes on their way to the file.
//!
//! Four things go on at once: one thread hashes the base (and so fetches it ahead of its use), all threads compute, one
//! writes and hashes what it writes, and the system brings written pages to the disk. Each is a bounded distance ahead
//! of the next, so what is in memory are some panels, whatever the size of the model.

use crate::change::{Change, Changed, Way, panels};
use crate::encode;
use crate::safetensors_file::{Entry, byte_size, header};
use crate::shards::Shard;
use crate::{Error, Result, WeightView};
use candle_core::DType;
use kernels::{Bytes, Deviation};
use ledger::FileHash;
use ledger::hash::Sha256;
use rayon::prelude::*;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// Elements of a unit of work, which one thread does.
const UNIT: usize = 1 << 19;
/// Elements that a thread works on at a time: its four buffers of them fit the second-level cache.
const PANEL: usize = 1 << 16;
/// Bytes that are copied, hashed or written at a time.
const CHUNK: usize = 1 << 22;
/// Chunks that the hash of the base may be ahead, and units that may wait for being written.
const AHEAD: usize = 16;

/// One tensor to be written.
pub(crate) struct Item<'a> {
    pub view: &'a WeightView,
    pub change: Change<'a>,
    /// What it is stored as; nothing for integers and other buffers, which stay as they are.
    pub dtype: Option<DType>,
}

/// Told how many bytes of the base are done, and of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What is found out on the way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Watch<'a> {
    /// Hold each changed tensor's bytes against the change, computed another way.
    pub prove: bool,
    /// Hash the base's tensors.
    pub hash_base: bool,
    pub progress: Option<Progress<'a>>,
}

/// What was written, and found out on the way.
pub(crate) struct Written {
    pub files: Vec<FileHash>,
    /// By item, where asked for.
    pub deviations: Vec<Deviation>,
    /// BLAKE3 of the base's bytes by item, where asked for.
    pub base_hashes: Vec<[u8; 32]>,
}

/// Writes the items, which `entries` describe one for one, into the shards' files in `dir`.
pub(crate) fn write_files(
    dir: &Path,
    items: &[Item],
    entries: &[Entry],
    shards: &[Shard],
    watch: Watch,
) -> Result<Written> {
    std::thread::scope(|scope| {
        let (to_writer, messages) = sync_channel(AHEAD);
        let writer = scope.spawn(move || write_messages(dir, &messages));
        let (progress, hashed) = sync_channel(AHEAD);
        let hasher = (watch.hash_base).then(|| scope.spawn(move || hash_base(items, &progress)));
        let hashed = hasher.is_some().then_some(hashed);
        let sent = send_all(dir, items, entries, shards, watch, &to_writer, hashed);
        drop(to_writer);
        let files = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let deviations = sent?;
        let base_hashes = match hasher {
            Some(hasher) => hasher
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            None => Vec::new(),
        };
        Ok(Written {
            files,
            deviations,
            base_hashes,
        })
    })
}

/// A part of an item.
#[derive(Clone, Debug)]
struct Unit {
    item: usize,
    part: Part,
    /// Bytes of the base, from the first item's on, that must have been read before this is begun.
    needs: u64,
}

#[derive(Clone, Debug)]
enum Part {
    /// These bytes of the base's file.
    Stored(Bytes),
    /// All bytes, made at once.
    Whole,
    /// Rows that are read and rounded.
    Rows(Range<usize>),
}

fn units(items: &[Item]) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut before = 0;
    for (item, of) in items.iter().enumerate() {
        let size = of.view.stored_bytes();
        let mut add = |part, end: u64| {
            let needs = before + end.min(size);
            units.push(Unit { item, part, needs });
        };
        match (&of.change, of.dtype) {
            // An f64 tensor would lose digits on the way through f32.
            (Change::Replace(tensor), Some(DType::F64)) if tensor.dtype() == DType::F64 => {
                add(Part::Whole, size);
            }
            (Change::Keep, dtype) if dtype.is_none_or(|dtype| of.view.bytes_are(dtype)) => {
                match of.view.mapped() {
                    Some(bytes) => {
                        for first in (0..bytes.len()).step_by(CHUNK) {
                            let part = first..(first + CHUNK).min(bytes.len());
                            let end = part.end as u64;
                            add(Part::Stored(bytes.part(part)), end);
                        }
                    }
                    None => add(Part::Whole, size),
                }
            }
            _ => {
                let (rows, columns) = of.view.rows_and_columns();
                for part in panels(0..rows, columns, UNIT) {
                    // llama.cpp's row order is not the file's: all of the tensor then.
                    let end = (size as usize).div_ceil(rows.max(1)) * part.end;
                    add(
                        Part::Rows(part),
                        if of.view.in_order() { end as u64 } else { size },
                    );
                }
            }
        }
        before += size;
    }
    units
}

/// Computes all units in order and sends their bytes to the writer. Returns the items' deviations.
fn send_all(
    dir: &Path,
    items: &[Item],
    entries: &[Entry],
    shards: &[Shard],
    watch: Watch,
    to_writer: &SyncSender<Message>,
    hashed: Option<Receiver<u64>>,
) -> Result<Vec<Deviation>> {
    let units = units(items);
    let mut deviations = vec![Deviation::default(); items.len()];
    let mut sizes = vec![0; items.len()];
    let mut next_shards = shards.iter();
    let mut begun = 0;
    let mut begin = |item: usize| {
        // An item's file is begun with its first unit; files of no units follow at the end. Says whether the writer goes on.
        while begun <= item
            && let Some(shard) = next_shards.next()
        {
            begun = shard.entries.end;
            let header = header(&entries[shard.entries.clone()]);
            let begin = Message::Begin(shard.name.clone(), header);
            if to_writer.send(begin).is_err() {
                return false;
            }
        }
        true
    };
    let mut open: Option<(usize, Arc<Changed>)> = None;
    let scratch = Scratch::default();
    let total = items.iter().map(|item| item.view.stored_bytes()).sum();
    let mut seen = 0;
    for group in units.chunks(4 * rayon::current_num_threads()) {
        let needs = group.iter().map(|unit| unit.needs).max().unwrap_or(0);
        while seen < needs
            && let Some(Ok(bytes)) = hashed.as_ref().map(Receiver::recv)
        {
            seen = bytes;
        }
        let mut opened = Vec::with_capacity(group.len());
        for unit in group {
            let is_open = |open: &&(usize, Arc<Changed>)| open.0 == unit.item;
            let changed = match (&unit.part, open.as_ref().filter(is_open)) {
                (Part::Rows(_), Some((_, changed))) => Some(changed.clone()),
                (Part::Rows(_), None) => {
                    let item = &items[unit.item];
                    // The one before goes first: of a quantized or a random tensor it is a copy.
                    drop(open.take());
                    let changed = Arc::new(Changed::open(item.view, item.change.clone())?);
                    Some(open.insert((unit.item, changed)).1.clone())
                }
                _ => None,
            };
            opened.push(changed);
        }
        let done: Vec<_> = (group.par_iter().zip(opened))
            .map(|(unit, changed)| done(&items[unit.item], unit, changed, watch.prove, &scratch))
            .collect::<Result<_>>()?;
        if let Some(progress) = watch.progress {
            progress(needs, total);
        }
        for (unit, (data, deviation)) in group.iter().zip(done) {
            sizes[unit.item] += data.bytes().len();
            deviations[unit.item] = deviations[unit.item].with(deviation);
            let data = Message::Data(data, items[unit.item].view.clone());
            if !begin(unit.item) || to_writer.send(data).is_err() {
                // The writer has stopped, and says why itself.
                return Ok(deviations);
            }
        }
    }
    begin(items.len());
    for (entry, found) in entries.iter().zip(sizes) {
        let size = byte_size(entry.dtype, &entry.shape).unwrap_or(usize::MAX);
        if found != size {
            let reason = format!(
                "{found} bytes were made for `{}`, which needs {size}",
                entry.name
            );
            return Err(Error::Damaged {
                path: dir.into(),
                reason,
            });
        }
    }
    Ok(deviations)
}

/// Bytes on their way to the file.
enum Data {
    Made(Vec<u8>),
    Stored(Bytes),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Made(bytes) => bytes,
            Data::Stored(bytes) => bytes.as_slice(),
        }
    }
}

/// Buffers of threads, kept for their next unit.
#[derive(Default)]
struct Scratch(Mutex<Vec<Buffers>>);

#[derive(Default)]
pub(crate) struct Buffers {
    pub base: Vec<f32>,
    pub wanted: Vec<f32>,
    pub plain: Vec<f32>,
    pub found: Vec<f32>,
    pub rounded: Vec<f32>,
    pub bytes: Vec<u8>,
}

impl Scratch {
    fn with<R>(&self, work: impl FnOnce(&mut Buffers) -> R) -> R {
        let lock = || {
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let mut buffers = lock().pop().unwrap_or_default();
        let result = work(&mut buffers);
        lock().push(buffers);
        result
    }
}

fn done(
    item: &Item,
    unit: &Unit,
    changed: Option<Arc<Changed>>,
    prove: bool,
    scratch: &Scratch,
) -> Result<(Data, Deviation)> {
    let none = Deviation::default();
    match (&unit.part, changed) {
        (Part::Stored(bytes), _) => Ok((Data::Stored(bytes.clone()), none)),
        (Part::Rows(rows), Some(changed)) => scratch.with(|buffers| {
            let dtype = item.dtype.unwrap_or(DType::F32);
            let made = rounded_rows(&changed, rows.clone(), dtype, prove, buffers)?;
            item.view.release_rows(rows.clone());
            Ok((Data::Made(made.0), made.1))
        }),
        _ => match &item.change {
            Change::Replace(tensor) => Ok((Data::Made(encode::tensor_bytes(tensor)?), none)),
            _ => Ok((Data::Made(item.view.with_bytes(<[u8]>::to_vec)?), none)),
        },
    }
}

/// The rows' bytes, and how far they are from what they should be.
fn rounded_rows(
    changed: &Changed,
    rows: Range<usize>,
    dtype: DType,
    prove: bool,
    buffers: &mut Buffers,
) -> Result<(Vec<u8>, Deviation)> {
    let mut bytes = vec![0u8; rows.len() * changed.columns * dtype.size_in_bytes()];
    let mut rest = &mut bytes[..];
    let mut deviation = Deviation::default();
    for panel in panels(rows, changed.columns, PANEL) {
        let Buffers { base, wanted, .. } = buffers;
        changed.read_base(panel.clone(), base)?;
        changed.read(panel.clone(), base, Way::Gemm, wanted)?;
        let (out, after) = rest.split_at_mut(wanted.len() * dtype.size_in_bytes());
        encode::encode(&changed.view.name, wanted, dtype, out)?;
        rest = after;
        if prove {
            buffers.found.resize(buffers.base.len(), 0.0);
            kernels::widen_bytes(out, dtype, &mut buffers.found);
            deviation = deviation.with(deviation_of(changed, panel, dtype, buffers)?);
        }
    }
    Ok((bytes, deviation))
}

/// How far `found` is from the rows of `changed`, whose base is in the buffers too.
pub(crate) fn deviation_of(
    changed: &Changed,
    rows: Range<usize>,
    dtype: DType,
    buffers: &mut Buffers,
) -> Result<Deviation> {
    let Buffers {
        base,
        plain,
        found,
        rounded,
        bytes,
        ..
    } = buffers;
    let rounded: &[f32] = if changed.view.float_dtype() == Some(dtype) {
        base
    } else {
        bytes.resize(base.len() * dtype.size_in_bytes(), 0);
        rounded.resize(base.len(), f32::NAN);
        if kernels::round_to_bytes(base, dtype, bytes) {
            kernels::widen_bytes(bytes, dtype, rounded);
        }
        rounded
    };
    let factors = changed.read(rows.clone(), base, Way::Plain, plain)?;
    let mut deviation = Deviation::default();
    for (i, row) in rows.enumerate() {
        let at = i * changed.columns..(i + 1) * changed.columns;
        let (base, rounded) = (&base[at.clone()], &rounded[at.clone()]);
        let (plain, found) = (&plain[at.clone()], &found[at]);
        let tolerance = changed.tolerance(row, factors.get(i).copied().unwrap_or(1.0));
        let of_row = Deviation::of(base, rounded, plain, found, dtype, tolerance);
        deviation = deviation.with(of_row);
    }
    Ok(deviation)
}

/// BLAKE3 of each item's tensor as the base has it. Says how many bytes it has read, so that others follow.
fn hash_base(items: &[Item], progress: &SyncSender<u64>) -> Result<Vec<[u8; 32]>> {
    let mut read = 0;
    let mut hashes = Vec::with_capacity(items.len());
    for item in items {
        let mut hash = blake3::Hasher::new();
        match item.view.mapped() {
            Some(bytes) => {
                for chunk in bytes.as_slice().chunks(CHUNK) {
                    hash.update(chunk);
                    read += chunk.len() as u64;
                    // Nobody waits any more where the work has failed.
                    if progress.send(read).is_err() {
                        return Ok(hashes);
                    }
                }
            }
            None => {
                item.view.with_bytes(|bytes| _ = hash.update(bytes))?;
                read += item.view.stored_bytes();
                if progress.send(read).is_err() {
                    return Ok(hashes);
                }
            }
        }
        hashes.push(hash.finalize().into());
    }
    Ok(hashes)
}

/// What the writer is told.
enum Message {
    /// A new file, and its header.
    Begin(String, Vec<u8>),
    /// Bytes, and the tensor whose memory they may fill.
    Data(Data, WeightView),
}

/// Writes what it is told, and hashes it.
fn write_messages(dir: &Path, messages: &Receiver<Message>) -> Result<Vec<FileHash>> {
    let mut files = Vec::new();
    let mut current: Option<Output> = None;
    for message in messages {
        match message {
            Message::Begin(name, header) => {
                files.extend(current.take().map(Output::end).transpose()?);
                let mut output = Output::begin(dir, name)?;
                output.write(&(header.len() as u64).to_le_bytes())?;
                output.write(&header)?;
                current = Some(output);
            }
            Message::Data(data, view) => {
                let Some(output) = &mut current else {
                    continue;
                };
                for chunk in data.bytes().chunks(CHUNK) {
                    output.write(chunk)?;
                }
                if let Data::Stored(bytes) = &data {
                    view.release_bytes(bytes.as_slice());
                }
            }
        }
    }
    files.extend(current.map(Output::end).transpose()?);
    Ok(files)
}

/// A file being written.
struct Output {
    path: PathBuf,
    name: String,
    file: File,
    hash: Sha256,
    written: u64,
    /// Bytes that the system has been asked to bring to the disk.
    started: u64,
}

impl Output {
    fn begin(dir: &Path, name: String) -> Result<Self> {
        let path = dir.join(&name);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self {
            path,
            name,
            file,
            hash: Sha256::new(),
            written: 0,
            started: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        // Begun early, so that the disk works while we compute and the final sync has little to wait for.
        if self.written - self.started >= 16 * CHUNK as u64 {
            start_writeback(&self.file, self.started, self.written - self.started);
            self.started = self.written;
        }
        Ok(())
    }

    fn end(self) -> Result<FileHash> {
        start_writeback(&self.file, self.started, self.written - self.started);
        Ok(FileHash {
            path: self.name,
            sha256: ledger::hash::hex(&self.hash.finalize()),
            bytes: self.written,
        })
    }
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
