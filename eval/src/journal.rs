//! What has been answered so far, on the disk: an evaluation that is interrupted, by a kill too, goes
//! on from there and comes to the same result.
//!
//! A file a task and model. Its first line is fixed at the start and says what is asked of whom: the
//! task with its settings, the model, the items by id and hash, and how many are given at a time.
//! Every further line holds answers, the next batch's or, from a server, one item's, and is on the
//! disk before the next batch is asked. A last line that was cut is dropped. The file's name has the
//! hash of its first line, so the answers to other items, settings or models lie in other files and
//! are never mixed in. What models wrote is as confidential as what they were asked.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ledger::files::{create_dir_all, write_atomic};
use ledger::hash::sha256_bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Error, OptionScore, Reply, Result};

/// Of the form described above.
const FORMAT: u64 = 1;

/// A folder of journals.
#[derive(Debug)]
pub struct Journals {
    folder: PathBuf,
    opened: Vec<PathBuf>,
}

impl Journals {
    /// The journals in a folder, which is made with the first of them.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Journals {
            folder: folder.into(),
            opened: Vec::new(),
        }
    }

    /// Journals in the folder that none of the evaluations so far has used: those of other items,
    /// settings or models.
    pub fn others(&self) -> Vec<PathBuf> {
        let mut others = self.files_ending("jsonl");
        others.retain(|path| !self.opened.contains(path));
        others.sort();
        others
    }

    fn files_ending(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|own| own == ending));
        files
    }

    /// Removes the journals that were used, once their answers are in a result.
    ///
    /// # Errors
    /// [`Error::Journal`].
    pub fn finish(self) -> Result<()> {
        for path in &self.opened {
            fs::remove_file(path).map_err(|source| failed(path, source))?;
        }
        // What a kill has left of a journal that was being begun.
        for draft in self.files_ending("partial") {
            fs::remove_file(&draft).map_err(|source| failed(&draft, source))?;
        }
        // Others may be in it.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Opens the journal that begins with this header, or begins it.
    pub(crate) fn open(&mut self, header: &Header, batch_items: usize) -> Result<Journal> {
        let path = self.folder.join(header.file_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_dir_all(&self.folder)?;
                write_atomic(&path, header.line(batch_items).as_bytes())?;
                Vec::new()
            }
            Err(source) => return Err(failed(&path, source)),
        };
        let journal = Journal::resume(path, &bytes, header, batch_items)?;
        self.opened.push(journal.path.clone());
        Ok(journal)
    }
}

/// What is asked of whom.
pub(crate) struct Header {
    /// The task's name, or the held-out split's.
    task: String,
    model: String,
    what: Value,
}

impl Header {
    /// `settings` and `identity` hold what the answers depend on beside the items.
    pub fn new(task: &str, model: &str, settings: Value, identity: &Value, items: Value) -> Self {
        let what = json!({
            "journal": FORMAT,
            "program": env!("CARGO_PKG_VERSION"),
            "task": task,
            "model": model,
            "settings": settings,
            "identity": identity,
            "items": items,
        });
        Header {
            task: task.to_owned(),
            model: model.to_owned(),
            what,
        }
    }

    fn file_name(&self) -> String {
        let hash = sha256_bytes(self.what.to_string().as_bytes());
        let (model, task) = (plain(&self.model), plain(&self.task));
        format!("{model}-{task}-{}.jsonl", &hash[..16])
    }

    /// How many are given at a time is fixed with the journal and is no part of its name.
    fn line(&self, batch_items: usize) -> String {
        let mut what = self.what.clone();
        what["batch_items"] = json!(batch_items);
        format!("{what}\n")
    }
}

/// A part of a file's name.
fn plain(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let plain = text.chars().map(|c| if kept(c) { c } else { '_' });
    plain.take(60).collect()
}

/// An open journal.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// How many items are given at a time, since the journal was begun.
    pub batch_items: usize,
    /// The lines after the header.
    entries: Vec<Value>,
}

impl Journal {
    fn resume(path: PathBuf, bytes: &[u8], header: &Header, batch_items: usize) -> Result<Self> {
        let damaged = |line| Error::JournalDamaged {
            path: path.clone(),
            line,
        };
        let mut lines: Vec<Value> = Vec::new();
        let (mut whole, mut cut) = (0, false);
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let ended = line.ends_with(b"\n");
            match serde_json::from_slice(line) {
                Ok(value) if ended => {
                    if cut {
                        return Err(damaged(number));
                    }
                    whole += line.len();
                    lines.push(value);
                }
                // What was being written when it was interrupted; nothing may come after it.
                _ if !cut => cut = true,
                _ => return Err(damaged(number)),
            }
        }
        let mut lines = lines.into_iter();
        let given = match lines.next() {
            Some(mut first) => {
                let batch = first.as_object_mut().and_then(|o| o.remove("batch_items"));
                if first != header.what {
                    return Err(Error::JournalOfOther { path });
                }
                batch.and_then(|batch| batch.as_u64())
            }
            // Just begun.
            None if bytes.is_empty() => Some(batch_items as u64),
            None => return Err(damaged(1)),
        };
        let batch_items = given.filter(|items| *items > 0).ok_or_else(|| damaged(1))? as usize;
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            if whole > 0 {
                file.set_len(whole as u64)?;
            }
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(|source| failed(&path, source))?;
        Ok(Journal {
            file,
            batch_items,
            entries: lines.collect(),
            path,
        })
    }

    /// The lines so far.
    pub fn entries<T: DeserializeOwned>(&mut self) -> Result<Vec<T>> {
        let entries = std::mem::take(&mut self.entries).into_iter().enumerate();
        let read = |(index, entry)| serde_json::from_value(entry).map_err(|_| self.damaged(index));
        entries.map(read).collect()
    }

    /// The error of a line after the header that cannot have been written for it.
    pub fn damaged(&self, entry: usize) -> Error {
        Error::JournalDamaged {
            path: self.path.clone(),
            line: entry + 2,
        }
    }

    /// Adds a line and forces it to the disk.
    pub fn append(&mut self, entry: &impl Serialize) -> Result<()> {
        let write = |file: &mut File| -> std::io::Result<()> {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            file.write_all(&line)?;
            file.sync_data()
        };
        write(&mut self.file).map_err(|source| failed(&self.path, source))
    }
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Journal {
        path: path.to_owned(),
        source,
    }
}

/// A line of a task's journal.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Answers {
    /// The items' places in the header.
    pub items: Vec<usize>,
    pub answers: Vec<Written>,
}

/// An answer as it came from the model, before anything is made of it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Written {
    Reply(Reply),
    /// Log-probability, tokens, bytes and whether it is greedy, of each option.
    Scores(Vec<(Exact, usize, usize, bool)>),
}

impl From<&[OptionScore]> for Written {
    fn from(scores: &[OptionScore]) -> Self {
        let score = |s: &OptionScore| (Exact(s.log_prob), s.tokens, s.bytes, s.greedy);
        Written::Scores(scores.iter().map(score).collect())
    }
}

/// A number whose every bit comes back, also where JSON has none for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Exact).map_err(serde::de::Error::custom)
    }
}

/// A line of the journal of a held-out split.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Losses {
    pub loss_sum: Exact,
    pub tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_bit_by_bit() {
        for number in [
            -0.1,
            1.0 / 3.0,
            1e-308,
            -0.0,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
        ] {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), number.to_bits(), "{text}");
        }
        assert!(serde_json::from_str::<Exact>("\"one\"").is_err());
    }

    #[test]
    fn names_are_plain() {
        let header = |task: &str| Header::new(task, "a b/../c", json!(1), &json!(2), json!([]));
        let name = header("x:y").file_name();
        assert!(
            name.starts_with("a_b_.._c-x_y-") && name.ends_with(".jsonl"),
            "{name}"
        );
        assert_ne!(header("x:y").file_name(), header("x/y").file_name());
    }
}
