//! The container: header, metadata, tensor table. Nothing is allocated on a count's word alone.

use super::metadata::{GgufMetadata, GgufValue};
use crate::mapped::MappedFile;
use crate::{Error, Result};
use kernels::{Bytes, GgmlType};
use std::collections::BTreeMap;
use std::path::Path;

/// One tensor as stored.
#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub kind: GgmlType,
    /// Outermost dimension first: (out, in) for a linear layer. The file has them the other way round.
    pub shape: Vec<usize>,
    pub bytes: Bytes,
    pub file: MappedFile,
}

pub(crate) struct GgufFile {
    pub metadata: GgufMetadata,
    pub tensors: BTreeMap<String, GgufTensor>,
}

/// Reads the header of `path` and maps its tensors.
pub(crate) fn open(path: &Path) -> Result<GgufFile> {
    let file = MappedFile::open(path)?;
    let mut cursor = Cursor {
        data: file.as_slice(),
        at: 0,
        path,
    };
    if cursor.take(4)? != b"GGUF" {
        return Err(Error::NotAModel {
            path: path.into(),
            why: "it does not start as a GGUF file does".into(),
        });
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(match version.swap_bytes() {
            2..=3 => Error::NotAModel {
                path: path.into(),
                why: "it is a GGUF file for big-endian machines".into(),
            },
            _ => Error::GgufVersion {
                path: path.into(),
                version,
            },
        });
    }
    let (tensor_count, key_count) = (cursor.u64()?, cursor.u64()?);
    let metadata = read_metadata(&mut cursor, key_count)?;
    let table = read_table(&mut cursor, tensor_count)?;

    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(_) => match metadata.integer("general.alignment") {
            Some(a) if a.is_power_of_two() && a <= 1 << 20 => a as usize,
            _ => return Err(cursor.damaged("general.alignment is not a power of two".into())),
        },
    };
    let start = cursor.at.next_multiple_of(alignment) as u64;
    let mut tensors = BTreeMap::new();
    for row in table {
        let size = row.byte_size(path)?;
        let begin = start.checked_add(row.offset);
        let Some((begin, end)) = begin.and_then(|b| Some((b, b.checked_add(size)?))) else {
            return Err(cursor.damaged(format!("tensor `{}` has an impossible offset", row.name)));
        };
        if row.offset % alignment as u64 != 0 {
            return Err(cursor.damaged(format!(
                "tensor `{}` is not aligned to {alignment} bytes",
                row.name
            )));
        }
        if end > file.as_slice().len() as u64 {
            return Err(Error::Truncated {
                path: path.into(),
                needed: end,
                found: file.as_slice().len() as u64,
            });
        }
        let bytes = file.bytes(begin as usize..end as usize)?;
        let kind = row.kind;
        let tensor = GgufTensor {
            kind,
            shape: row.shape,
            bytes,
            file: file.clone(),
        };
        if tensors.insert(row.name.clone(), tensor).is_some() {
            return Err(cursor.damaged(format!("tensor `{}` is listed twice", row.name)));
        }
    }
    Ok(GgufFile { metadata, tensors })
}

struct Row {
    name: String,
    kind: GgmlType,
    shape: Vec<usize>,
    offset: u64,
}

impl Row {
    fn byte_size(&self, path: &Path) -> Result<u64> {
        let damaged = |reason| Error::Damaged {
            path: path.into(),
            reason,
        };
        let block = self.kind.block_size();
        let columns = *self.shape.last().unwrap_or(&1);
        if !columns.is_multiple_of(block) {
            let reason = format!(
                "tensor `{}` has rows of {columns}, no multiple of its block of {block}",
                self.name
            );
            return Err(damaged(reason));
        }
        self.shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .and_then(|n| (n / block).checked_mul(self.kind.block_bytes()))
            .map(|n| n as u64)
            .ok_or_else(|| damaged(format!("tensor `{}` has an impossible shape", self.name)))
    }
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<GgufMetadata> {
    // A key takes at least 13 bytes: two lengths and a byte.
    cursor.can_hold(count, 13, "metadata keys")?;
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.string("a metadata key")?;
        let kind = cursor.u32()?;
        let value = cursor.value(&key, kind)?;
        if map.insert(key.clone(), value).is_some() {
            return Err(cursor.damaged(format!("metadata key `{key}` is listed twice")));
        }
    }
    Ok(GgufMetadata(map))
}

fn read_table(cursor: &mut Cursor, count: u64) -> Result<Vec<Row>> {
    cursor.can_hold(count, 24, "tensors")?;
    let mut rows = Vec::new();
    for _ in 0..count {
        let name = cursor.string("a tensor's name")?;
        let dimensions = cursor.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(cursor.damaged(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let d = cursor.u64()?;
            shape.push(usize::try_from(d).ok().filter(|d| *d > 0).ok_or_else(|| {
                cursor.damaged(format!("tensor `{name}` has a dimension of {d}"))
            })?);
        }
        shape.reverse();
        let id = cursor.u32()?;
        let Ok(kind) = GgmlType::from_id(id) else {
            return Err(Error::GgufType {
                path: cursor.path.into(),
                tensor: name,
                id,
            });
        };
        rows.push(Row {
            name,
            kind,
            shape,
            offset: cursor.u64()?,
        });
    }
    Ok(rows)
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    fn damaged(&self, reason: String) -> Error {
        Error::Damaged {
            path: self.path.into(),
            reason,
        }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(bytes);
        let Some(slice) = self.data.get(self.at..end) else {
            let found = self.data.len() as u64;
            return Err(Error::Truncated {
                path: self.path.into(),
                needed: end as u64,
                found,
            });
        };
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Refuses a count that the rest of the file cannot possibly hold, before anything is made of it.
    fn can_hold(&self, count: u64, bytes_each: u64, what: &str) -> Result<usize> {
        let left = (self.data.len() - self.at) as u64;
        match count.checked_mul(bytes_each) {
            Some(needed) if needed <= left => Ok(count as usize),
            Some(needed) if needed < 1 << 50 => Err(Error::Truncated {
                path: self.path.into(),
                needed: self.at as u64 + needed,
                found: self.data.len() as u64,
            }),
            _ => Err(self.damaged(format!("it claims {count} {what}"))),
        }
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.u64()?;
        let length = self.can_hold(length, 1, "bytes of text")?;
        let at = self.at;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.damaged(format!("{what} at byte {at} is not UTF-8"))),
        }
    }

    /// A value of the format's type number `kind`.
    fn value(&mut self, key: &str, kind: u32) -> Result<GgufValue> {
        Ok(match kind {
            0 => GgufValue::Int(self.array::<1>()?[0].into()),
            1 => GgufValue::Int(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Int(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Int(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Int(self.u32()?.into()),
            5 => GgufValue::Int(i32::from_le_bytes(self.array()?).into()),
            6 => GgufValue::F32(f32::from_le_bytes(self.array()?)),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::String(self.string(key)?),
            9 => self.list(key)?,
            10 => GgufValue::Int(self.u64()?.into()),
            11 => GgufValue::Int(i64::from_le_bytes(self.array()?).into()),
            12 => GgufValue::F64(f64::from_le_bytes(self.array()?)),
            _ => {
                return Err(
                    self.damaged(format!("metadata key `{key}` has the unknown type {kind}"))
                );
            }
        })
    }

    fn list(&mut self, key: &str) -> Result<GgufValue> {
        let kind = self.u32()?;
        let count = self.u64()?;
        // Bytes of one element, at least.
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.damaged(format!("metadata key `{key}` is a list of lists"))),
            _ => {
                return Err(self.damaged(format!(
                    "metadata key `{key}` is a list of the unknown type {kind}"
                )));
            }
        };
        let count = self.can_hold(count, bytes, "list elements")?;
        let outside = |cursor: &Self| {
            cursor.damaged(format!(
                "metadata key `{key}` holds an integer beyond 64 bits"
            ))
        };
        let (mut ints, mut floats, mut bools, mut strings) = (vec![], vec![], vec![], vec![]);
        for _ in 0..count {
            match self.value(key, kind)? {
                GgufValue::Int(n) => ints.push(i64::try_from(n).map_err(|_| outside(self))?),
                GgufValue::F32(x) => floats.push(x),
                GgufValue::F64(x) => floats.push(x as f32),
                GgufValue::Bool(b) => bools.push(b),
                GgufValue::String(s) => strings.push(s),
                _ => {}
            }
        }
        Ok(match kind {
            6 | 12 => GgufValue::Floats(floats),
            7 => GgufValue::Bools(bools),
            8 => GgufValue::Strings(strings),
            _ => GgufValue::Ints(ints),
        })
    }
}
