//! Tensors from where they lie to the files of a new model: read in the order of the base's files, changed by panels of
//! rows on all threads, and written in order, with their proof made on the bytes on their way to the file.
//!
//! Five things go on at once: one thread fetches the base, one hashes it, all threads compute, one hashes what they have
//! made and lays it out, one writes. Each is a bounded distance ahead of the next, so what is in memory are some units,
//! whatever the size of the model.

use crate::change::{Change, Changed, panels};
use crate::direct::{ALIGNMENT, Open, Pool};
use crate::fetch::{Fetched, fetch, hash};
use crate::output::{self, Message};
use crate::rounded::{Scratch, done};
use crate::safetensors_file::{Entry, byte_size, header};
use crate::shards::Shard;
use crate::{Error, Result, WeightView};
use candle_core::DType;
use kernels::Deviation;
use ledger::FileHash;
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a unit of work, which one thread does, as they are read or as they are written: with what has to be read
/// before and after them they fit a block.
const UNIT: usize = Pool::BYTES - 2 * ALIGNMENT;
/// Units that a thread may be ahead of the next.
const AHEAD: usize = 4;

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
    /// Read and write past the page cache, opening files so, as far as the file systems let us.
    pub direct: Option<Open>,
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
    let units = units(items);
    let pool = Arc::new(Pool::default());
    let (units, pool) = (&units[..], &pool);
    std::thread::scope(|scope| {
        let (to_writer, messages) = sync_channel(AHEAD);
        let writer = scope.spawn(move || output::write(dir, &messages, watch.direct, pool));
        let (sender, mut fetched) = sync_channel(AHEAD);
        scope.spawn(move || fetch(items, units, watch.direct, pool, &sender));
        let hasher = watch.hash_base.then(|| {
            let (sender, hashed) = sync_channel(AHEAD);
            let from = std::mem::replace(&mut fetched, hashed);
            scope.spawn(move || hash(items, units, &from, &sender))
        });
        let scratch = Scratch::new(pool);
        let sent = send_all(
            dir, items, units, entries, shards, watch, fetched, &to_writer, &scratch,
        );
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
pub(crate) struct Unit {
    pub item: usize,
    pub part: Part,
    /// Its bytes among those of the base's tensor, where that lies in a file and no others are needed.
    pub range: Option<Range<usize>>,
    /// Bytes of the base that are done with, from the first item's on, when this is.
    done: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// These bytes of the base's file, as they are.
    Stored,
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
        let mut add = |part, range: Option<Range<usize>>| {
            let done = before + range.as_ref().map_or(size, |range| range.end as u64);
            units.push(Unit {
                item,
                part,
                range,
                done,
            });
        };
        match (&of.change, of.dtype) {
            // An f64 tensor would lose digits on the way through f32.
            (Change::Replace(tensor), Some(DType::F64)) if tensor.dtype() == DType::F64 => {
                add(Part::Whole, None);
            }
            (Change::Keep, dtype) if dtype.is_none_or(|dtype| of.view.bytes_are(dtype)) => {
                match of.view.mapped() {
                    Some(bytes) => panels(0..bytes.len(), 1, UNIT)
                        .into_iter()
                        .for_each(|part| add(Part::Stored, Some(part))),
                    None => add(Part::Whole, None),
                }
            }
            (_, dtype) => {
                let (rows, columns) = of.view.rows_and_columns();
                let stored = size as usize / rows.max(1);
                let made = columns * dtype.unwrap_or(DType::F32).size_in_bytes();
                // llama.cpp's row order is not the file's: all of the tensor then.
                let apart = of.view.mapped().is_some() && of.view.in_order();
                for part in panels(0..rows, stored.max(made), UNIT) {
                    let range = apart.then(|| part.start * stored..part.end * stored);
                    add(Part::Rows(part), range);
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
    units: &[Unit],
    entries: &[Entry],
    shards: &[Shard],
    watch: Watch,
    fetched: Receiver<Fetched>,
    to_writer: &SyncSender<Message>,
    scratch: &Scratch,
) -> Result<Vec<Deviation>> {
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
    let total = items.iter().map(|item| item.view.stored_bytes()).sum();
    for group in units.chunks(2 * rayon::current_num_threads()) {
        let mut ready = Vec::with_capacity(group.len());
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
            let Ok(fetched) = fetched.recv() else {
                // Who fetches or hashes has stopped, and has said why or panicked.
                return Ok(deviations);
            };
            ready.push((changed, fetched?));
        }
        let done: Vec<_> = (group.par_iter().zip(ready))
            .map(|(unit, (changed, fetched))| {
                let item = &items[unit.item];
                done(item, unit, changed, fetched, watch.prove, scratch)
            })
            .collect::<Result<_>>()?;
        if let (Some(progress), Some(last)) = (watch.progress, group.last()) {
            progress(last.done, total);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::LowRank;
    use crate::export::{ExportOptions, write_model};
    use crate::{Init, TensorSpec, WeightView, Weights, direct};
    use candle_core::{Device, Tensor};
    use serde_json::json;
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static OPENED: AtomicUsize = AtomicUsize::new(0);

    fn counted(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        let file = direct::open(options, path);
        if file.is_ok() {
            OPENED.fetch_add(1, Ordering::SeqCst);
        }
        file
    }

    fn refused(_: &mut OpenOptions, _: &Path) -> io::Result<File> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Opens without the flag, so that what is written in whole blocks has to be cut all the same.
    fn unflagged(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.open(path)
    }

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        let number = |i| ((i as f32 + seed) * 0.731).sin() * 0.1;
        (0..count).map(number).collect()
    }

    /// Tensors of a few bytes and of several units, none of which begins or ends where a block does, in a file that the
    /// page cache does not have, if that can be.
    fn model(dir: &Path) -> Weights {
        let spec = |(name, shape): (&str, &[usize])| TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
            init: Init::Normal { std: 0.7 },
        };
        let specs = [
            ("a.weight", &[5, 123][..]),
            ("b.weight", &[7]),
            ("c.weight", &[2203, 1100]),
            ("d.weight", &[2311, 1301]),
            ("e.weight", &[1031, 1100]),
            ("f.weight", &[1, 3]),
        ];
        let config = json!({"dtype": "bfloat16"});
        let weights = Weights::random(config, specs.into_iter().map(spec).collect(), 5);
        std::fs::create_dir_all(dir).unwrap();
        let watch = Watch {
            direct: Some(direct::open),
            ..Default::default()
        };
        let keep = |_: &WeightView| Change::Keep;
        write_model(&weights, dir, &ExportOptions::default(), watch, keep).unwrap();
        Weights::open(dir).unwrap()
    }

    #[test]
    fn past_the_cache_or_through_it_the_bytes_and_the_findings_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let base = model(&dir.path().join("base"));
        let (rank, b) = (7, numbers(2311 * 7, 1.9));
        let a = numbers(7 * 1301, 0.3);
        let replaced = Tensor::from_vec(numbers(7, 4.0), 7, &Device::Cpu).unwrap();
        let magnitude = vec![3.5; 1031];
        let change = |view: &WeightView| {
            let (rows, columns) = view.rows_and_columns();
            let magnitude = (view.name == "e.weight").then_some(&magnitude[..]);
            match view.name.as_str() {
                "b.weight" => Change::Replace(&replaced),
                "a.weight" | "d.weight" | "e.weight" => Change::Add(LowRank {
                    module: "module",
                    a: &a[..rank * columns],
                    b: &b[..rank * rows],
                    rank,
                    scaling: 1.7,
                    magnitude,
                }),
                _ => Change::Keep,
            }
        };
        let mut all = Vec::new();
        let ways: [Option<Open>; 4] = [Some(counted), None, Some(refused), Some(unflagged)];
        for (way, direct) in ways.into_iter().enumerate() {
            let out = dir.path().join(way.to_string());
            std::fs::create_dir(&out).unwrap();
            let watch = Watch {
                prove: true,
                hash_base: true,
                progress: None,
                direct,
            };
            let options = ExportOptions::default();
            let (written, items) = write_model(&base, &out, &options, watch, change).unwrap();
            for (item, hash) in items.iter().zip(&written.base_hashes) {
                let of_bytes = item.view.with_bytes(blake3::hash).unwrap();
                assert_eq!(of_bytes.as_bytes(), hash, "{} {way}", item.view.name);
            }
            let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
            let sha256 = ledger::hash::sha256_bytes(&bytes);
            assert_eq!(written.files[0].sha256, sha256);
            assert_eq!(written.files[0].bytes, bytes.len() as u64);
            assert_ne!(bytes.len() % direct::ALIGNMENT, 0);
            base.views().for_each(WeightView::release);
            all.push((bytes, written.deviations));
        }
        // The first run found the file outside the cache, and left it there.
        let path = dir.path().join("base/model.safetensors");
        if direct::open(OpenOptions::new().read(true), &path).is_ok() {
            assert_eq!(
                OPENED.load(Ordering::SeqCst),
                2,
                "one file read, one written"
            );
        }
        let (bytes, deviations) = &all[0];
        for (way, (others, found)) in all.iter().enumerate() {
            assert!(others == bytes, "{way}");
            assert_eq!(found, deviations, "{way}");
        }
        for (deviation, changed) in deviations
            .iter()
            .zip([true, true, false, true, true, false])
        {
            assert_eq!(deviation.changed > 0, changed);
            assert!(deviation.max_steps <= 0.5);
        }
        // What is kept is the base's, and what is changed is not.
        let merged = Weights::open(&dir.path().join("1")).unwrap();
        for view in base.views() {
            let other = merged.view(&view.name).unwrap();
            let same = view
                .with_bytes(|a| other.with_bytes(|b| a == b).unwrap())
                .unwrap();
            let kept = matches!(view.name.as_str(), "c.weight" | "f.weight");
            assert_eq!(same, kept, "{}", view.name);
        }
    }
}
