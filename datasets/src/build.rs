//! Builds a recipe's data: from its sources to files that training reads.
//!
//! A built folder has
//! - `train.jsonl` and `validation.jsonl`: one sample a line, `{"id", "messages",
//!   "provenance"}` or `{"id", "text", "provenance"}`, in the order of the
//!   sources and their files (training shuffles for itself);
//! - `dropped.jsonl`: `{"id", "reason"}` of each record left out.
//!
//! The bytes depend on the sources, the recipe and the seed: not on threads, on
//! where the folders are, or on the day.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ledger::{AccessClass, FileHash};
use serde::Serialize;

use crate::files::{SourceFile, source_files};
use crate::random::Draws;
use crate::recipe::{DataSection, SourceSection};
use crate::record::{Conversation, Document, Sample};
use crate::source::sample_records;
use crate::task::Task;
use crate::{Error, Place, Result, rows};

/// The training samples' file.
pub const TRAIN_FILE: &str = "train.jsonl";
/// The validation samples' file.
pub const VALIDATION_FILE: &str = "validation.jsonl";
/// The list of records left out.
pub const DROPPED_FILE: &str = "dropped.jsonl";

/// What a build did, for its manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Built {
    /// Samples by file, and records by source.
    pub counts: BTreeMap<String, u64>,
    /// The strictest class of any sample.
    pub access: AccessClass,
}

/// The files that a build reads, by their names relative to the data root, with
/// their hashes.
///
/// # Errors
/// A file that cannot be read.
pub fn inputs(section: &DataSection, data_root: &Path) -> Result<Vec<FileHash>> {
    let mut files = BTreeMap::new();
    for source in section
        .source
        .iter()
        .chain(section.validation.iter().flatten())
    {
        for file in source_files(source, data_root)? {
            files.insert(file.name, file.path);
        }
    }
    files
        .into_iter()
        .map(|(name, path)| Ok(FileHash::of(&path, name)?))
        .collect()
}

/// Builds `section` into `folder`, which exists (a stage's staging folder).
///
/// # Errors
/// A source that cannot be read, a record that is not what its format says or
/// gives no answer, or nothing left to train on.
pub fn build(section: &DataSection, data_root: &Path, folder: &Path, seed: u64) -> Result<Built> {
    check(section)?;
    let mut built = Built::default();
    let mut train = read(&section.source, data_root, seed, &mut built)?;
    let mut validation = read(
        section.validation.as_deref().unwrap_or_default(),
        data_root,
        seed,
        &mut built,
    )?;
    one_kind(train.iter().chain(&validation))?;
    let read = train.len();
    hold_out(
        section.validation_fraction,
        seed,
        &mut train,
        &mut validation,
    );
    if train.is_empty() {
        return Err(Error::NoSamples {
            read,
            held_out: validation.len(),
        });
    }
    write_lines(&folder.join(TRAIN_FILE), &train)?;
    write_lines(&folder.join(VALIDATION_FILE), &validation)?;
    // Nothing is left out by this build but what `limit` does not take, which
    // the counts say; cleaning will list its records here.
    write_lines::<Dropped>(&folder.join(DROPPED_FILE), &[])?;
    built.counts.insert("train".into(), train.len() as u64);
    built
        .counts
        .insert("validation".into(), validation.len() as u64);
    Ok(built)
}

/// A line of `dropped.jsonl`.
#[derive(Serialize)]
struct Dropped {
    id: String,
    reason: String,
}

fn check(section: &DataSection) -> Result<()> {
    let fraction = section.validation_fraction;
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::Fraction { fraction });
    }
    if fraction > 0.0 && section.validation.is_some() {
        return Err(Error::TwoValidations { fraction });
    }
    let mut names = HashSet::new();
    let sources = section
        .source
        .iter()
        .chain(section.validation.iter().flatten());
    match sources
        .map(|source| &source.name)
        .find(|name| !names.insert(name.as_str()))
    {
        Some(name) => Err(Error::SourceName { name: name.clone() }),
        None => Ok(()),
    }
}

fn read(
    sources: &[SourceSection],
    data_root: &Path,
    seed: u64,
    built: &mut Built,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for source in sources {
        let (kept, read) = samples_of(source, data_root, seed)?;
        built
            .counts
            .insert(format!("source.{}.read", source.name), read);
        built
            .counts
            .insert(format!("source.{}.kept", source.name), kept.len() as u64);
        built.access = built.access.max(source.access);
        samples.extend(kept);
    }
    Ok(samples)
}

/// A source's samples, and how many records it was read for.
fn samples_of(source: &SourceSection, data_root: &Path, seed: u64) -> Result<(Vec<Sample>, u64)> {
    let format = source.format.0;
    let task = source.task.as_ref().map(Task::new).transpose()?;
    if task.is_none() && format.sample.is_none() {
        return Err(Error::NeedsTask {
            source_name: source.name.clone(),
            format: format.name,
        });
    }
    let (records, read) = sample_records(source, data_root, seed)?;
    if records.is_empty() {
        return Err(Error::NoRecords {
            source_name: source.name.clone(),
            path: source.path.clone(),
        });
    }
    let make = |record| {
        let sample = match (&task, format.sample) {
            (Some(task), _) => Sample::Conversation(task.conversation(&record)?),
            (None, Some(sample)) => sample(&record)?,
            (None, None) => unreachable!("checked above"),
        };
        match &sample {
            Sample::Conversation(conversation) => conversation.check()?,
            Sample::Document(document) if document.text.trim().is_empty() => {
                return Err(Error::NoTarget {
                    at: document.site(),
                });
            }
            Sample::Document(_) => {}
        }
        Ok(sample)
    };
    Ok((records.into_iter().map(make).collect::<Result<_>>()?, read))
}

fn one_kind<'s>(samples: impl Iterator<Item = &'s Sample>) -> Result<()> {
    let (mut documents, mut conversations) = (None, None);
    for sample in samples {
        let source = &sample.provenance().source;
        match sample {
            Sample::Document(_) => documents = documents.or(Some(source)),
            Sample::Conversation(_) => conversations = conversations.or(Some(source)),
        }
    }
    match (documents, conversations) {
        (Some(documents), Some(other)) => Err(Error::MixedSamples {
            source_name: documents.clone(),
            other: other.clone(),
        }),
        _ => Ok(()),
    }
}

/// Moves a share of the samples: those whose ids draw the smallest numbers.
fn hold_out(fraction: f64, seed: u64, train: &mut Vec<Sample>, validation: &mut Vec<Sample>) {
    let count = (train.len() as f64 * fraction).round() as usize;
    if fraction == 0.0 || train.is_empty() {
        return;
    }
    let draws = Draws::new(seed, "validation");
    let mut order: Vec<usize> = (0..train.len()).collect();
    order.sort_by_cached_key(|&i| (draws.of(train[i].id()), i));
    // A share that rounds to nothing still means that some is wanted.
    let held: HashSet<usize> = order.into_iter().take(count.max(1)).collect();
    for (i, sample) in std::mem::take(train).into_iter().enumerate() {
        if held.contains(&i) {
            validation.push(sample)
        } else {
            train.push(sample)
        }
    }
}

impl Serialize for Sample {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Sample::Conversation(conversation) => conversation.serialize(serializer),
            Sample::Document(document) => document.serialize(serializer),
        }
    }
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<()> {
    let failed = |source| Error::Write {
        path: path.to_path_buf(),
        source,
    };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for line in lines {
        serde_json::to_writer(&mut file, line).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.flush().map_err(failed)
}

/// Samples of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Samples {
    /// To tune on.
    Conversations(Vec<Conversation>),
    /// To pre-train on.
    Documents(Vec<Document>),
}

impl Samples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Samples::Conversations(conversations) => conversations.len(),
            Samples::Documents(documents) => documents.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A built folder, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltSamples {
    /// To train on.
    pub train: Samples,
    /// To measure on; may be empty.
    pub validation: Samples,
}

/// Reads what [`build`] wrote.
///
/// # Errors
/// A file that is missing or is not as it was written.
pub fn load_built(folder: &Path) -> Result<BuiltSamples> {
    let train = load(&folder.join(TRAIN_FILE), TRAIN_FILE)?;
    let validation = load(&folder.join(VALIDATION_FILE), VALIDATION_FILE)?;
    Ok(BuiltSamples { train, validation })
}

fn load(path: &Path, name: &str) -> Result<Samples> {
    let (mut conversations, mut documents) = (Vec::new(), Vec::new());
    for row in rows::array_or_lines(&SourceFile::new(path, name))? {
        let row = row?;
        let document = row.fields.contains_key("text");
        let at = Place {
            file: name.to_string(),
            line: row.record,
            record: None,
        };
        // The parser's own words are left out: they quote values.
        let failed = |_| Error::NotASample { at };
        let value = serde_json::Value::Object(row.fields);
        if document {
            documents.push(serde_json::from_value(value).map_err(failed)?);
        } else {
            conversations.push(serde_json::from_value(value).map_err(failed)?);
        }
    }
    Ok(if documents.is_empty() {
        Samples::Conversations(conversations)
    } else {
        Samples::Documents(documents)
    })
}
