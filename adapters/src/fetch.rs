//! The base's bytes, fetched in order ahead of their use, and hashed on the way.

use crate::direct::{self, Open, Pool};
use crate::mapped::MappedFile;
use crate::stream::{Item, Unit};
use crate::{Error, Result};
use kernels::Bytes;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

/// A unit's bytes, if it has some of its own in a file.
pub(crate) type Fetched = Result<Option<Bytes>>;

/// Fetches the units' bytes, one after another, until the receiver is gone. They are read past the page cache with
/// `direct`, except what is in it anyway; else they are where they are mapped, not yet read.
pub(crate) fn fetch(
    items: &[Item],
    units: &[Unit],
    direct: Option<Open>,
    pool: &Arc<Pool>,
    to: &SyncSender<Fetched>,
) {
    let mut files = Files {
        direct,
        pool,
        open: HashMap::new(),
    };
    for unit in units {
        let view = items[unit.item].view;
        let part = unit.range.clone().zip(view.mapped());
        let fetched = part
            .map(|(range, bytes)| match view.file() {
                Some(file) => files.fetch(file, bytes.part(range)),
                None => Ok(bytes.part(range)),
            })
            .transpose();
        let failed = fetched.is_err();
        if to.send(fetched).is_err() || failed {
            return;
        }
    }
}

/// The files that are read past the cache.
struct Files<'a> {
    direct: Option<Open>,
    pool: &'a Arc<Pool>,
    /// None where that was refused.
    open: HashMap<PathBuf, Option<File>>,
}

impl Files<'_> {
    /// These mapped bytes, or others that are the same.
    fn fetch(&mut self, mapped: &MappedFile, bytes: Bytes) -> Result<Bytes> {
        let Some(direct) = self.direct else {
            return Ok(bytes);
        };
        let Some(start) = mapped.offset_of(bytes.as_slice()) else {
            return Ok(bytes);
        };
        if bytes.is_empty() || mapped.is_cached(bytes.as_slice()) {
            return Ok(bytes);
        }
        let path = mapped.path();
        if !self.open.contains_key(path) {
            let file = open(direct, path)?.filter(|file| mapped.is_of(file));
            self.open.insert(path.to_owned(), file);
        }
        let Some(Some(file)) = self.open.get(path) else {
            return Ok(bytes);
        };
        let range = start as u64..(start + bytes.len()) as u64;
        match direct::read(file, range, self.pool) {
            Ok((block, at)) => Ok(Bytes::new(Arc::new(block), at..at + bytes.len())?),
            Err(e) if direct::is_refused(&e) => {
                self.open.insert(path.to_owned(), None);
                Ok(bytes)
            }
            Err(e) => Err(Error::io(path)(e)),
        }
    }
}

fn open(direct: Open, path: &Path) -> Result<Option<File>> {
    match direct(OpenOptions::new().read(true), path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if direct::is_refused(&e) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Passes the units' bytes on and hashes them: BLAKE3 of each item's tensor as the base has it.
pub(crate) fn hash(
    items: &[Item],
    units: &[Unit],
    from: &Receiver<Fetched>,
    to: &SyncSender<Fetched>,
) -> Result<Vec<[u8; 32]>> {
    let mut units = units.iter().peekable();
    let mut hashes = Vec::with_capacity(items.len());
    for (number, item) in items.iter().enumerate() {
        let mut hash = blake3::Hasher::new();
        let mut whole = true;
        while units.next_if(|unit| unit.item == number).is_some() {
            // Nobody sends or waits any more where the work has failed, and says why elsewhere.
            let Ok(fetched) = from.recv() else {
                return Ok(hashes);
            };
            if let Ok(Some(bytes)) = &fetched {
                hash.update(bytes.as_slice());
                whole = false;
            }
            if to.send(fetched).is_err() {
                return Ok(hashes);
            }
        }
        if whole {
            item.view.with_bytes(|bytes| _ = hash.update(bytes))?;
        }
        hashes.push(hash.finalize().into());
    }
    Ok(hashes)
}
