//! Scalars for TensorBoard.
//!
//! Our own writer of the event format rather than `tensorboard-rs`: that crate panics on I/O errors (a full disk would
//! end the run) and brings protobuf 2 and image 0.23, which carry advisories RUSTSEC-2024-0437 and RUSTSEC-2025-0056.
//! An event file is a sequence of TFRecords (length, masked CRC-32C of it, payload, masked CRC-32C of that), each
//! payload a `tensorflow.Event` protobuf.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Appends scalars to one event file.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Makes `dir/events.out.tfevents.<step>.medtune` for what comes after `step`: a resumed run starts a file of its
    /// own, as TensorBoard expects. What earlier files say of later steps is cut off, since these steps come again.
    pub fn open(dir: &Path, step: u64, wall_secs: f64) -> Result<Self> {
        let path = dir.join(file_name(step));
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(io)?;
        forget_after(dir, step).map_err(io)?;
        let file = BufWriter::new(File::create(&path).map_err(io)?);
        let mut writer = Self {
            path: path.clone(),
            file,
        };
        // Event { wall_time = 1: double, file_version = 3: string }
        let mut event = double_field(1, wall_secs);
        event.extend(bytes_field(3, b"brain.Event:2"));
        writer.record(&event)?;
        Ok(writer)
    }

    /// Writes one step's scalars and flushes them, so that a watcher sees them at once.
    pub fn scalars(&mut self, step: u64, wall_secs: f64, scalars: &[(&str, f64)]) -> Result<()> {
        for (tag, value) in scalars {
            // Summary.Value { tag = 1: string, simple_value = 2: float }
            let mut inner = bytes_field(1, tag.as_bytes());
            inner.push((2 << 3) | 5);
            inner.extend((*value as f32).to_le_bytes());
            // Event { wall_time = 1, step = 2: int64, summary = 5: Summary { value = 1 } }
            let mut event = double_field(1, wall_secs);
            event.push(2 << 3);
            event.extend(varint(step));
            event.extend(bytes_field(5, &bytes_field(1, &inner)));
            self.record(&event)?;
        }
        self.file.flush().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// Forces what was written to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file.get_ref().sync_data().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn record(&mut self, payload: &[u8]) -> Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut out = Vec::with_capacity(payload.len() + 16);
        out.extend(length);
        out.extend(masked_crc(&length).to_le_bytes());
        out.extend(payload);
        out.extend(masked_crc(payload).to_le_bytes());
        self.file.write_all(&out).map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

fn file_name(step: u64) -> String {
    format!("events.out.tfevents.{step:010}.medtune")
}

/// Removes files that begin at or after `step`, and cuts the others off where a later step begins, or half a record.
fn forget_after(dir: &Path, step: u64) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let begins = path.file_name().and_then(|name| {
            let name = name.to_str()?.strip_prefix("events.out.tfevents.")?;
            name.strip_suffix(".medtune")?.parse::<u64>().ok()
        });
        match begins {
            Some(begins) if begins >= step => std::fs::remove_file(&path)?,
            Some(_) => {
                let length = length_until(&path, step)?;
                File::options().write(true).open(&path)?.set_len(length)?;
            }
            None => {}
        }
    }
    Ok(())
}

/// Bytes of the whole records up to `step`.
fn length_until(path: &Path, step: u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut at = 0;
    let mut payload = Vec::new();
    // A record is its payload and 16 bytes.
    while size - at > 16 {
        let (mut length, mut crc) = ([0; 8], [0; 4]);
        file.read_exact(&mut length)?;
        file.read_exact(&mut crc)?;
        let bytes = u64::from_le_bytes(length);
        if bytes > size - at - 16 || u32::from_le_bytes(crc) != masked_crc(&length) {
            break;
        }
        payload.resize(bytes as usize, 0);
        file.read_exact(&mut payload)?;
        file.read_exact(&mut crc)?;
        if u32::from_le_bytes(crc) != masked_crc(&payload) || step_of(&payload) > step {
            break;
        }
        at += bytes + 16;
    }
    Ok(at)
}

/// The step of an event as we write it: after the nine bytes of its time; 0 where it has none.
fn step_of(event: &[u8]) -> u64 {
    let Some((&tag, varint)) = event.get(9..).and_then(<[u8]>::split_first) else {
        return 0;
    };
    if tag != 2 << 3 {
        return 0;
    }
    let mut step = 0;
    for (i, byte) in varint.iter().take(9).enumerate() {
        step |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            break;
        }
    }
    step
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn double_field(number: u8, value: f64) -> Vec<u8> {
    let mut out = vec![(number << 3) | 1];
    out.extend(value.to_le_bytes());
    out
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(number << 3) | 2];
    out.extend(varint(bytes.len() as u64));
    out.extend(bytes);
    out
}

/// TFRecord's mask over CRC-32C (Castagnoli, reflected polynomial 0x82F63B78).
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= *byte as u32;
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_castagnoli() {
        // RFC 3720, B.4: 32 bytes of zeros give 0x8a9136aa.
        let crc = masked_crc(&[0; 32])
            .wrapping_sub(0xa282_ead8)
            .rotate_left(15);
        assert_eq!(crc, 0x8a91_36aa);
    }

    #[test]
    fn records_follow_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 3, 12.5).unwrap();
        writer
            .scalars(300, 13.0, &[("train/loss", 0.5), ("train/lr", 1e-4)])
            .unwrap();
        let bytes =
            std::fs::read(dir.path().join("events.out.tfevents.0000000003.medtune")).unwrap();
        let (mut at, mut payloads) = (0, Vec::new());
        while at < bytes.len() {
            let n = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let payload = &bytes[at + 12..at + 12 + n];
            let crc = u32::from_le_bytes(bytes[at + 12 + n..at + 16 + n].try_into().unwrap());
            assert_eq!(crc, masked_crc(payload));
            payloads.push(payload);
            at += n + 16;
        }
        assert_eq!(payloads.len(), 3);
        assert!(payloads[1].windows(10).any(|w| w == b"train/loss"));
        assert!(payloads[1].ends_with(&0.5f32.to_le_bytes()));
    }
}
