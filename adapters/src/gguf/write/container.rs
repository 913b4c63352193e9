//! The container's writer: header, metadata and tensor table first, then each tensor's bytes as they are made.

use super::super::metadata::{GgufMetadata, GgufValue};
use crate::{Error, Result};
use kernels::GgmlType;
use ledger::files::StagedFile;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What llama.cpp aligns tensors to where a file says nothing else.
const ALIGNMENT: u64 = 32;
/// The key that names the model's kind; it comes first, as other writers have it.
const ARCHITECTURE: &str = "general.architecture";

/// One tensor of a file about to be written.
pub(super) struct Entry {
    pub name: String,
    pub kind: GgmlType,
    /// Outermost dimension first; the file has them the other way round.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Bytes of the tensor, or nothing where that overflows or its rows are no whole blocks.
    fn size(&self) -> Option<u64> {
        let block = self.kind.block_size();
        let columns = self.shape.last()?;
        let elements = self
            .shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let whole = columns.is_multiple_of(block) && elements > 0;
        let blocks = whole.then_some(elements / block)?;
        Some(blocks.checked_mul(self.kind.block_bytes())? as u64)
    }
}

/// Takes a tensor's bytes, piece by piece.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Writes a GGUF file of version 3, asking `produce` for the bytes of each entry in turn. The file takes its name when
/// it is whole. Same metadata, entries and bytes, same file. Returns its size in bytes.
pub(super) fn write(
    path: &Path,
    metadata: &GgufMetadata,
    entries: &[Entry],
    mut produce: impl FnMut(usize, &mut Sink) -> Result<()>,
) -> Result<u64> {
    let head = head(path, metadata, entries)?;
    let mut staged = StagedFile::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, staged.file());
    let mut written = 0u64;
    let mut put = |bytes: &[u8]| {
        written += bytes.len() as u64;
        out.write_all(bytes).map_err(Error::io(path))
    };
    put(&head)?;
    for (index, entry) in entries.iter().enumerate() {
        let mut made = 0u64;
        produce(index, &mut |bytes| {
            made += bytes.len() as u64;
            put(bytes)
        })?;
        let size = entry.size().unwrap_or(u64::MAX);
        if made != size {
            let reason = format!(
                "{made} bytes were made for `{}`, which needs {size}",
                entry.name
            );
            return Err(Error::Damaged {
                path: path.into(),
                reason,
            });
        }
        put(&vec![0; padding(made) as usize])?;
    }
    out.flush().map_err(Error::io(path))?;
    drop(out);
    staged.commit()?;
    Ok(written)
}

/// Bytes from `at` to the next place where a tensor may begin.
fn padding(at: u64) -> u64 {
    at.next_multiple_of(ALIGNMENT) - at
}

/// Everything before the first tensor's bytes.
fn head(path: &Path, metadata: &GgufMetadata, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut out = Vec::from(*b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((metadata.0.len() as u64).to_le_bytes());
    let first = metadata.0.get_key_value(ARCHITECTURE);
    let others = metadata.0.iter().filter(|(key, _)| *key != ARCHITECTURE);
    for (key, value) in first.into_iter().chain(others) {
        put_text(&mut out, key);
        put_value(&mut out, value).ok_or_else(|| Error::GgufKey {
            path: path.into(),
            key: key.clone(),
            problem: "holds an integer beyond 64 bits".into(),
        })?;
    }
    let mut offset = 0u64;
    for entry in entries {
        put_text(&mut out, &entry.name);
        out.extend((entry.shape.len() as u32).to_le_bytes());
        for dimension in entry.shape.iter().rev() {
            out.extend((*dimension as u64).to_le_bytes());
        }
        out.extend(type_number(entry.kind).to_le_bytes());
        out.extend(offset.to_le_bytes());
        let end = entry.size().and_then(|size| offset.checked_add(size));
        offset = end
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
            .ok_or_else(|| Error::Damaged {
                path: path.into(),
                reason: format!("tensor `{}` has an impossible shape", entry.name),
            })?;
    }
    out.resize(out.len() + padding(out.len() as u64) as usize, 0);
    Ok(out)
}

/// `ggml_type`: the number that [`GgmlType::from_id`] reads.
fn type_number(kind: GgmlType) -> u32 {
    let reads = |id: &u32| GgmlType::from_id(*id).is_ok_and(|read| read == kind);
    (0..64).find(reads).unwrap_or(u32::MAX)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The type's number, then the value. Whole numbers are 32 bits wide wherever they fit, which is what llama.cpp
/// expects of the keys it reads. Nothing where a number fits no type.
fn put_value(out: &mut Vec<u8>, value: &GgufValue) -> Option<()> {
    match value {
        GgufValue::Int(n) => put_integer(out, *n)?,
        GgufValue::F32(x) => put(out, 6, &x.to_le_bytes()),
        GgufValue::F64(x) => put(out, 12, &x.to_le_bytes()),
        GgufValue::Bool(on) => put(out, 7, &[u8::from(*on)]),
        GgufValue::String(text) => {
            out.extend(8u32.to_le_bytes());
            put_text(out, text);
        }
        GgufValue::Ints(list) if list.iter().all(|n| i32::try_from(*n).is_ok()) => {
            put_list(out, 5, list, |out, n| out.extend((*n as i32).to_le_bytes()));
        }
        GgufValue::Ints(list) => put_list(out, 11, list, |out, n| out.extend(n.to_le_bytes())),
        GgufValue::Floats(list) => put_list(out, 6, list, |out, x| out.extend(x.to_le_bytes())),
        GgufValue::Bools(list) => put_list(out, 7, list, |out, on| out.push(u8::from(*on))),
        GgufValue::Strings(list) => put_list(out, 8, list, |out, text| put_text(out, text)),
    }
    Some(())
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn put_integer(out: &mut Vec<u8>, n: i128) -> Option<()> {
    if let Ok(n) = u32::try_from(n) {
        put(out, 4, &n.to_le_bytes());
    } else if let Ok(n) = i32::try_from(n) {
        put(out, 5, &n.to_le_bytes());
    } else if let Ok(n) = u64::try_from(n) {
        put(out, 10, &n.to_le_bytes());
    } else {
        put(out, 11, &i64::try_from(n).ok()?.to_le_bytes());
    }
    Some(())
}

fn put_list<T>(out: &mut Vec<u8>, kind: u32, list: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((list.len() as u64).to_le_bytes());
    for item in list {
        each(out, item);
    }
}
