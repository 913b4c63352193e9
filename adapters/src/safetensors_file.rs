//! One safetensors file: its header read with every claim checked, and written by streaming.
//!
//! Layout: u64 little-endian header length, JSON header, data. The header maps tensor names to
//! `{"dtype", "shape", "data_offsets"}` relative to the start of the data, and `__metadata__` to strings.
//! Source: the format section of <https://github.com/huggingface/safetensors>. The `safetensors` crate provides the
//! types of a header entry; its own reader is not used because its errors name neither file, tensor nor sizes.

use crate::mapped::MappedFile;
use crate::{Error, Result};
use kernels::Bytes;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Where one tensor lies.
#[derive(Clone)]
pub(crate) struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
    /// The file that `bytes` are mapped from.
    pub file: MappedFile,
}

/// Reads the header of `path` and maps its tensors.
pub(crate) fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    let file = MappedFile::open(path)?;
    let data = file.as_slice();
    let truncated = |needed: u64| Error::Truncated {
        path: path.into(),
        needed,
        found: data.len() as u64,
    };
    let damaged = |reason: String| Error::Damaged {
        path: path.into(),
        reason,
    };

    let Some((length, rest)) = data.split_first_chunk::<8>() else {
        return Err(truncated(8));
    };
    let header_bytes = u64::from_le_bytes(*length);
    // No writer makes headers of more than 100 MB (the format's own limit), so this is not a safetensors file.
    if header_bytes > 100_000_000 {
        return Err(damaged(format!(
            "its header claims {header_bytes} bytes, more than the format allows"
        )));
    }
    let start = 8 + header_bytes as usize;
    let Some(header) = rest.get(..header_bytes as usize) else {
        return Err(truncated(start as u64));
    };
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| damaged(format!("its header does not parse: {e}")))?;

    // Checked before any byte is looked at: no gaps, no overlaps, sizes as shapes and types say.
    let mut order: Vec<&(String, TensorInfo)> = header.0.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut expected = 0usize;
    for (name, info) in order {
        let (begin, end) = info.data_offsets;
        let size = byte_size(info.dtype, &info.shape)
            .ok_or_else(|| damaged(format!("tensor `{name}` has an impossible shape")))?;
        if begin != expected || end < begin {
            return Err(damaged(format!(
                "tensor `{name}` lies at {begin}..{end}, and {expected} was expected"
            )));
        }
        if end - begin != size {
            return Err(damaged(format!(
                "tensor `{name}` needs {size} bytes and has {}",
                end - begin
            )));
        }
        expected = end;
    }
    let needed = (start as u64)
        .checked_add(expected as u64)
        .ok_or_else(|| damaged("impossible offsets".into()))?;
    if needed > data.len() as u64 {
        return Err(truncated(needed));
    }
    if needed < data.len() as u64 {
        return Err(damaged(format!(
            "{} bytes follow the last tensor",
            data.len() as u64 - needed
        )));
    }
    let mut tensors = BTreeMap::new();
    for (name, info) in header.0 {
        let (begin, end) = info.data_offsets;
        let stored = Stored {
            dtype: info.dtype,
            shape: info.shape,
            bytes: file.bytes(start + begin..start + end)?,
            file: file.clone(),
        };
        if tensors.insert(name.clone(), stored).is_some() {
            return Err(damaged(format!("tensor `{name}` is listed twice")));
        }
    }
    Ok(tensors)
}

/// Bytes of a tensor, or nothing if that overflows or is no whole number of bytes.
pub(crate) fn byte_size(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// Header entries in file order, so that a name listed twice is seen.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a safetensors header")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<Option<BTreeMap<String, String>>>()?;
                        continue;
                    }
                    let info = map
                        .next_value::<TensorInfo>()
                        .map_err(|e| A::Error::custom(format!("`{name}`: {e}")))?;
                    entries.push((name, info));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// One tensor of a file about to be written.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Writes `entries` in the given order, asking `produce` for each tensor's bytes as it goes; `path` is for messages. Same
/// entries and bytes, same file.
pub(crate) fn write_into(
    out: impl Write,
    path: &Path,
    entries: &[Entry],
    mut produce: impl FnMut(&Entry, &mut dyn Write) -> Result<()>,
) -> Result<u64> {
    let mut out = Counted {
        inner: out,
        written: 0,
    };
    let header = header(entries);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(Error::io(path))?;
    out.write_all(&header).map_err(Error::io(path))?;
    for entry in entries {
        let before = out.written;
        produce(entry, &mut out)?;
        let size = byte_size(entry.dtype, &entry.shape).unwrap_or(usize::MAX) as u64;
        if out.written - before != size {
            let reason = format!(
                "{} bytes were made for `{}`, which needs {size}",
                out.written - before,
                entry.name
            );
            return Err(Error::Damaged {
                path: path.into(),
                reason,
            });
        }
    }
    Ok(out.written)
}

/// The header's bytes, padded with spaces so that the data is aligned to 8.
pub(crate) fn header(entries: &[Entry]) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    // transformers refuses files without it.
    map.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    let mut begin = 0;
    for entry in entries {
        let end = begin + byte_size(entry.dtype, &entry.shape).unwrap_or(0);
        map.insert(
            entry.name.clone(),
            serde_json::json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, end]}),
        );
        begin = end;
    }
    let mut text = serde_json::Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    text
}

struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(data)?;
        self.written += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
