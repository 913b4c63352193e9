//! The second pass: the sources are read again, what was chosen is rendered and
//! written, and what was left out is listed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::choose::{Choice, Chosen};
use super::prepare::{Prepared, Preparer, Ready};
use super::scan::{Fate, Scan, next_chunk};
use super::tokens::{Counter, Packs, SampleTokens};
use super::{DROPPED_FILE, Side, TRAIN_FILE, VALIDATION_FILE};
use crate::recipe::{DataSection, SourceSection};
use crate::record::{Record, Sample};
use crate::source::read_source;
use crate::{Error, Result};

/// What the second pass counted, a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub train: u64,
    pub validation: u64,
    pub tokens: u64,
    pub target_tokens: u64,
    /// Samples longer than `max_seq_len`.
    pub too_long: u64,
}

/// A line of `dropped.jsonl`.
#[derive(Debug, Serialize)]
pub(super) struct Dropped<'a> {
    pub id: &'a str,
    pub reason: String,
    /// The sample that is kept instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<&'a str>,
    /// The evaluation items that it holds, with the words they share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<&'a [(String, u32)]>,
}

pub(super) struct Writer<'a> {
    section: &'a DataSection,
    data_root: &'a Path,
    counter: Option<&'a Counter<'a>>,
    train: Lines,
    validation: Lines,
    dropped: Lines,
    parquet: Option<super::parquet::Files>,
    packs: Option<Packs>,
    /// Ids of the candidates that duplicates are listed with.
    keepers: HashMap<u32, String>,
    kinds: [Option<String>; 2],
}

/// A sample, rendered and counted by a worker.
struct Line {
    side: Side,
    sample: Sample,
    json: Vec<u8>,
    tokens: SampleTokens,
}

enum Outcome {
    Nothing,
    Line(Box<Line>),
    Dropped(String),
    /// It is not written, and others are listed as its duplicates.
    Keeper(String),
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        section: &'a DataSection,
        data_root: &'a Path,
        folder: &Path,
        counter: Option<&'a Counter<'a>>,
        parquet: bool,
    ) -> Result<Self> {
        Ok(Self {
            section,
            data_root,
            counter,
            train: Lines::create(&folder.join(TRAIN_FILE))?,
            validation: Lines::create(&folder.join(VALIDATION_FILE))?,
            dropped: Lines::create(&folder.join(DROPPED_FILE))?,
            parquet: parquet.then(|| super::parquet::Files::new(folder)),
            packs: counter.map(|counter| Packs::new(counter.max_seq_len())),
            keepers: HashMap::new(),
            kinds: [None, None],
        })
    }

    /// Writes every source; returns what each gave, and the packs of training.
    pub(super) fn run(
        mut self,
        sources: &[(Side, &'a SourceSection)],
        scan: &Scan,
        chosen: &Chosen,
    ) -> Result<(Vec<Written>, Option<u64>)> {
        let wanted: HashSet<u32> = scan
            .sources
            .iter()
            .flat_map(|source| &source.fates)
            .filter_map(|fate| match fate {
                Fate::Duplicate { of, .. } => Some(*of),
                _ => None,
            })
            .collect();
        let mut written = Vec::with_capacity(sources.len());
        for (number, (_, source)) in sources.iter().enumerate() {
            let fates = &scan.sources[number].fates;
            written.push(self.source(source, fates, scan, chosen, &wanted)?);
        }
        self.train.finish()?;
        self.validation.finish()?;
        self.dropped.finish()?;
        if let Some(parquet) = self.parquet {
            parquet.finish()?;
        }
        Ok((written, self.packs.map(Packs::count)))
    }

    fn source(
        &mut self,
        source: &'a SourceSection,
        fates: &[Fate],
        scan: &Scan,
        chosen: &Chosen,
        wanted: &HashSet<u32>,
    ) -> Result<Written> {
        let preparer = Preparer::new(source, &self.section.clean)?;
        let mut written = Written::default();
        let mut records = read_source(source, self.data_root)?;
        let mut fates = fates.iter();
        let mut chunk = next_chunk(&mut records);
        while !chunk.is_empty() {
            let of_chunk: Vec<Fate> = fates.by_ref().take(chunk.len()).copied().collect();
            if of_chunk.len() != chunk.len() {
                return Err(Error::SourceChanged {
                    source_name: source.name.clone(),
                });
            }
            let counter = self.counter;
            let (next, outcomes) = rayon::join(
                || next_chunk(&mut records),
                || {
                    let pairs = chunk.into_par_iter().zip(&of_chunk);
                    let outcome = |(record, &fate)| {
                        outcome(&preparer, source, counter, chosen, wanted, record, fate)
                    };
                    pairs.map(outcome).collect::<Vec<Result<Outcome>>>()
                },
            );
            for (outcome, fate) in outcomes.into_iter().zip(&of_chunk) {
                self.write(source, outcome?, *fate, scan, &mut written)?;
            }
            chunk = next;
        }
        Ok(written)
    }

    fn write(
        &mut self,
        source: &SourceSection,
        outcome: Outcome,
        fate: Fate,
        scan: &Scan,
        written: &mut Written,
    ) -> Result<()> {
        let id = match outcome {
            Outcome::Nothing => return Ok(()),
            Outcome::Keeper(id) => id,
            Outcome::Dropped(id) => return self.list(source, &id, fate, scan),
            Outcome::Line(line) => {
                self.one_kind(&line.sample)?;
                let (lines, count) = match line.side {
                    Side::Train => (&mut self.train, &mut written.train),
                    Side::Validation => (&mut self.validation, &mut written.validation),
                };
                lines.write(&line.json)?;
                *count += 1;
                written.tokens += u64::from(line.tokens.tokens);
                written.target_tokens += u64::from(line.tokens.target_tokens);
                if let (Some(packs), Some(counter)) = (&mut self.packs, self.counter) {
                    written.too_long +=
                        u64::from(line.tokens.tokens as usize > counter.max_seq_len());
                    if line.side == Side::Train {
                        packs.add(line.tokens.tokens);
                    }
                }
                if let Some(parquet) = &mut self.parquet {
                    parquet.add(line.side, &line.sample)?;
                }
                line.sample.id().to_owned()
            }
        };
        if let Fate::Candidate(number) = fate {
            self.keepers.insert(number, id);
        }
        Ok(())
    }

    fn list(&mut self, source: &SourceSection, id: &str, fate: Fate, scan: &Scan) -> Result<()> {
        let (mut of, mut items) = (None, None);
        match fate {
            Fate::Duplicate { of: keeper, .. } => {
                of = self.keepers.get(&keeper).map(String::as_str);
            }
            Fate::Contaminated(hits) => items = Some(scan.hits[hits as usize].items.as_slice()),
            _ => {}
        }
        let Some(reason) = fate.reason(source) else {
            return Ok(());
        };
        let line = Dropped {
            id,
            reason,
            of,
            items,
        };
        self.dropped.write(&json(&line))
    }

    /// A model is tuned on conversations or pre-trained on documents.
    fn one_kind(&mut self, sample: &Sample) -> Result<()> {
        let kind = usize::from(matches!(sample, Sample::Document(_)));
        if self.kinds[kind].is_none() {
            self.kinds[kind] = Some(sample.provenance().source.clone());
        }
        match &self.kinds {
            [Some(other), Some(documents)] => Err(Error::MixedSamples {
                source_name: documents.clone(),
                other: other.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn outcome(
    preparer: &Preparer<'_>,
    source: &SourceSection,
    counter: Option<&Counter<'_>>,
    chosen: &Chosen,
    wanted: &HashSet<u32>,
    record: Result<Record>,
    fate: Fate,
) -> Result<Outcome> {
    let record = match (record, fate) {
        (Err(error), Fate::Unreadable) => {
            return Ok(Outcome::Dropped(error.place_in(&source.name)));
        }
        (Err(_), _) | (Ok(_), Fate::Unreadable) => {
            return Err(Error::SourceChanged {
                source_name: source.name.clone(),
            });
        }
        (Ok(record), _) => record,
    };
    let number = match fate {
        Fate::NotSelected => return Ok(Outcome::Nothing),
        Fate::Candidate(number) => number,
        _ => return Ok(Outcome::Dropped(record.id)),
    };
    let side = match chosen.choices[number as usize] {
        Choice::Taken(side) => side,
        Choice::OverQuota if wanted.contains(&number) => return Ok(Outcome::Keeper(record.id)),
        Choice::OverQuota => return Ok(Outcome::Nothing),
    };
    let Prepared::Ready(ready) = preparer.prepare(record)? else {
        return Err(Error::SourceChanged {
            source_name: source.name.clone(),
        });
    };
    let Ready { sample, .. } = *ready;
    let tokens = match counter {
        Some(counter) => counter.count(&sample)?,
        None => SampleTokens::default(),
    };
    let json = json(&sample);
    Ok(Outcome::Line(Box::new(Line {
        side,
        sample,
        json,
        tokens,
    })))
}

/// Strings and numbers: this cannot fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A file of lines.
struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::write(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::with_capacity(1 << 18, file),
        })
    }

    fn write(&mut self, line: &[u8]) -> Result<()> {
        let written = self
            .file
            .write_all(line)
            .and_then(|()| self.file.write_all(b"\n"));
        written.map_err(Error::write(&self.path))
    }

    fn finish(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::write(&self.path))
    }
}
