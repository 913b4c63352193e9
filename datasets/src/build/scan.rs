//! The first pass: every record is read, cleaned and judged, and of each only
//! a few hundred bytes are kept, so that memory does not follow the texts.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::Path;

use rayon::prelude::*;

use super::prepare::{Prepared, Preparer, Ready};
use super::tokens::Counter;
use super::{BuildOptions, Side};
use crate::clean::phi::PhiClass;
use crate::clean::{self, Changes, Contamination, DuplicateKind, Sketch, Sketcher};
use crate::random::Draws;
use crate::recipe::{CleanSection, DataSection, OnBadRecord, PhiPolicy, SourceSection};
use crate::record::Record;
use crate::source::{Records, read_source};
use crate::{Error, Result};

/// What is known of a record after the first pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Beyond the source's `limit`, or its `where` does not hold.
    NotSelected,
    /// It could not be read.
    Unreadable,
    /// The field of `require` with this number is absent or empty.
    Without(u32),
    /// Its answer or text is empty.
    Empty,
    /// It is not what its format's samples are made of.
    Unfit,
    /// It is the same as an earlier candidate.
    Duplicate { of: u32, near: bool },
    /// It holds an evaluation item: the number in [`Scan::hits`].
    Contaminated(u32),
    /// It can be used: its number in [`Scan::candidates`].
    Candidate(u32),
}

impl Fate {
    /// Why the record was left out, as `dropped.jsonl` and the reports say it.
    pub(super) fn reason(self, source: &SourceSection) -> Option<String> {
        Some(match self {
            Fate::NotSelected | Fate::Candidate(_) => return None,
            Fate::Unreadable => "unreadable".to_owned(),
            Fate::Unfit => "not as its format says".to_owned(),
            Fate::Empty => "empty answer".to_owned(),
            Fate::Without(field) => {
                let name = source.require.get(field as usize);
                format!("without {}", name.map_or("", String::as_str))
            }
            Fate::Duplicate { near: true, .. } => "near duplicate".to_owned(),
            Fate::Duplicate { .. } => "exact duplicate".to_owned(),
            Fate::Contaminated(_) => "evaluation item".to_owned(),
        })
    }
}

/// A record that can be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Decides which are taken where there are more than the quota.
    pub draw: u64,
    /// Stands for its split group, and decides the group's side.
    pub group: u64,
    /// Tokens it will have; 0 where they are not counted in this pass.
    pub tokens: u32,
}

/// Evaluation items that a record holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hits {
    /// The items, as `task/item`, with the words they share with the record.
    pub items: Vec<(String, u32)>,
}

/// One source after the first pass.
pub(super) struct ScannedSource {
    /// By order of reading.
    pub fates: Vec<Fate>,
    /// Findings by class, of the records that are no duplicates.
    pub phi: BTreeMap<PhiClass, u64>,
    /// How many records each kind of normalisation changed.
    pub changes: BTreeMap<&'static str, u64>,
}

/// All sources after the first pass.
pub(super) struct Scan {
    /// Those of `[[data.validation]]` first: what they hold is not trained on.
    pub sources: Vec<ScannedSource>,
    pub candidates: Vec<Candidate>,
    pub hits: Vec<Hits>,
}

/// Records held at once: this many, or these bytes of text.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 8 << 20;

/// Reads the next records of a source; an `Err` among them is a bad one.
pub(super) fn next_chunk(records: &mut Records) -> Vec<Result<Record>> {
    let (mut chunk, mut bytes) = (Vec::with_capacity(CHUNK), 0);
    while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
        match records.next() {
            Some(Ok(record)) => {
                bytes += record.text_bytes();
                chunk.push(Ok(record));
            }
            Some(error) => chunk.push(error),
            None => break,
        }
    }
    chunk
}

pub(super) struct Scanner<'a> {
    section: &'a DataSection,
    data_root: &'a Path,
    options: &'a BuildOptions<'a>,
    sketcher: Option<Sketcher>,
    contamination: Option<Contamination>,
    counter: Option<&'a Counter<'a>>,
    /// The rows of files that more than one source reads, with the number of
    /// their sketch: what several tasks make of one row is not a duplicate of
    /// itself, it stands or falls with the row.
    rows: HashMap<(String, u64), u32>,
    sketches: Vec<Sketch>,
    /// By sketch, the candidate that it was made of first.
    sketched: Vec<u32>,
    /// By candidate, its sketch.
    sketch_of: Vec<u32>,
    hits: Vec<Hits>,
    /// By candidate, the number in `hits`.
    contaminated: Vec<Option<u32>>,
    candidates: Vec<Candidate>,
    /// Sources that hold what may identify patients, and must not.
    blocked: Vec<Error>,
}

/// What a record came to, looked at alone.
enum Judgement {
    Fate(Fate),
    Unreadable(Box<Error>),
    Candidate(Box<Found>),
}

struct Found {
    ready_id: String,
    row: Option<(String, u64)>,
    candidate: Candidate,
    sketch: Option<Sketch>,
    hits: Option<Hits>,
    phi: BTreeMap<PhiClass, u64>,
    changes: Changes,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(
        section: &'a DataSection,
        data_root: &'a Path,
        options: &'a BuildOptions<'a>,
        counter: Option<&'a Counter<'a>>,
    ) -> Self {
        let CleanSection {
            exact_duplicates,
            near_duplicates,
            shingle_words,
            decontaminate_words,
            ..
        } = section.clean;
        let compare = exact_duplicates || near_duplicates > 0.0;
        let probes = &options.probes;
        Self {
            section,
            data_root,
            options,
            sketcher: compare.then(|| Sketcher::new(shingle_words)),
            contamination: (!probes.is_empty())
                .then(|| Contamination::new(probes, decontaminate_words)),
            counter,
            rows: HashMap::new(),
            sketches: Vec::new(),
            sketched: Vec::new(),
            sketch_of: Vec::new(),
            hits: Vec::new(),
            contaminated: Vec::new(),
            candidates: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// Reads every source. `sources` are those that are there.
    pub(super) fn run(mut self, sources: &[(Side, &'a SourceSection)]) -> Result<Scan> {
        let mut scanned = Vec::with_capacity(sources.len());
        for &(_, source) in sources {
            scanned.push(self.source(source)?);
        }
        match self.blocked.len() {
            0 => {}
            1 => return Err(self.blocked.remove(0)),
            _ => return Err(Error::Several(self.blocked)),
        }
        self.settle(&mut scanned);
        Ok(Scan {
            sources: scanned,
            candidates: self.candidates,
            hits: self.hits,
        })
    }

    fn source(&mut self, source: &'a SourceSection) -> Result<ScannedSource> {
        let preparer = Preparer::new(source, &self.section.clean)?;
        let limited = match source.limit {
            Some(limit) => Some(limited(source, self.data_root, self.options.seed, limit)?),
            None => None,
        };
        let mut scanned = ScannedSource {
            fates: Vec::new(),
            phi: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        let mut blocked = Blocked::default();
        let mut first_bad = None;
        let mut records = read_source(source, self.data_root)?;
        let mut chunk = next_chunk(&mut records);
        while !chunk.is_empty() {
            let first = scanned.fates.len() as u64;
            // The next records are read while these are judged.
            let (next, judged) = rayon::join(
                || next_chunk(&mut records),
                || self.judge(&preparer, source, first, limited.as_ref(), chunk),
            );
            for judged in judged {
                let fate = match judged? {
                    Judgement::Fate(fate) => fate,
                    Judgement::Unreadable(error) => {
                        first_bad.get_or_insert(error);
                        Fate::Unreadable
                    }
                    Judgement::Candidate(found) => {
                        if preparer.phi() == PhiPolicy::Block && !found.phi.is_empty() {
                            blocked.add(&found.ready_id, &found.phi);
                        }
                        for name in found.changes.names() {
                            *scanned.changes.entry(name).or_insert(0) += 1;
                        }
                        for (&class, &n) in &found.phi {
                            *scanned.phi.entry(class).or_insert(0) += n;
                        }
                        self.add(*found)
                    }
                };
                scanned.fates.push(fate);
            }
            chunk = next;
        }
        if blocked.records > 0 {
            self.blocked.push(blocked.error(source));
        }
        let readable = scanned.fates.iter().any(|fate| *fate != Fate::Unreadable);
        if let (false, Some(error)) = (readable, first_bad) {
            // What is wrong with all of them is no bad record.
            return Err(*error);
        }
        if !readable || source.limit == Some(0) {
            return Err(Error::NoRecords {
                source_name: source.name.clone(),
                path: source.path.clone(),
            });
        }
        Ok(scanned)
    }

    /// Judges a chunk in parallel; each result depends on its record alone.
    fn judge(
        &self,
        preparer: &Preparer<'_>,
        source: &SourceSection,
        first: u64,
        limited: Option<&BTreeSet<u64>>,
        chunk: Vec<Result<Record>>,
    ) -> Vec<Result<Judgement>> {
        let draws = Draws::new(self.options.seed, "quota");
        let groups = Draws::new(self.options.seed, "validation");
        let shared = is_shared(self.section, source);
        let one = |(i, record): (usize, Result<Record>)| {
            let fate = |fate| Ok(Judgement::Fate(fate));
            let record = match record {
                Ok(record) => record,
                Err(error) if source.on_bad_record == OnBadRecord::Drop => {
                    return Ok(Judgement::Unreadable(Box::new(error)));
                }
                Err(error) => return Err(error),
            };
            if limited.is_some_and(|orders| !orders.contains(&(first + i as u64))) {
                return fate(Fate::NotSelected);
            }
            let row = (record.provenance.file.clone(), record.provenance.record);
            let ready = match preparer.prepare(record)? {
                Prepared::Left(left) => return fate(left),
                Prepared::Ready(ready) => *ready,
            };
            let Ready {
                sample,
                text,
                group,
                phi,
                changes,
            } = ready;
            let id = sample.id();
            let group = match group {
                Some(group) => groups.of(&group),
                None if shared => groups.of(&format!("{}#{}", row.0, row.1)),
                None => groups.of(id),
            };
            let tokens = match self.counter {
                Some(counter) => counter.count(&sample)?.tokens,
                None => 0,
            };
            let found = Found {
                ready_id: id.to_owned(),
                row: shared.then_some(row),
                candidate: Candidate {
                    draw: draws.of(id),
                    group,
                    tokens,
                },
                sketch: self
                    .sketcher
                    .as_ref()
                    .map(|sketcher| sketcher.sketch(&text)),
                hits: self
                    .contamination
                    .as_ref()
                    .and_then(|index| hits(index, &self.options.probes, &text)),
                phi,
                changes,
            };
            Ok(Judgement::Candidate(Box::new(found)))
        };
        chunk.into_par_iter().enumerate().map(one).collect()
    }

    fn add(&mut self, found: Found) -> Fate {
        let number = self.candidates.len() as u32;
        self.candidates.push(found.candidate);
        self.contaminated.push(found.hits.map(|hits| {
            self.hits.push(hits);
            self.hits.len() as u32 - 1
        }));
        if let Some(sketch) = found.sketch {
            let same = found
                .row
                .as_ref()
                .and_then(|row| self.rows.get(row).copied());
            let index = same.unwrap_or_else(|| {
                self.sketches.push(sketch);
                self.sketched.push(number);
                self.sketches.len() as u32 - 1
            });
            self.sketch_of.push(index);
            if let Some(row) = found.row {
                self.rows.insert(row, index);
            }
        }
        Fate::Candidate(number)
    }

    /// Duplicates first, then contamination, as the order of cleaning is.
    fn settle(&mut self, scanned: &mut [ScannedSource]) {
        let CleanSection {
            exact_duplicates,
            near_duplicates,
            ..
        } = self.section.clean;
        let duplicates = clean::duplicates(&self.sketches, exact_duplicates, near_duplicates);
        for source in scanned {
            for fate in &mut source.fates {
                let Fate::Candidate(number) = *fate else {
                    continue;
                };
                let number = number as usize;
                let sketch = self.sketch_of.get(number).map(|&sketch| sketch as usize);
                if let Some(duplicate) = sketch.and_then(|sketch| duplicates[sketch]) {
                    *fate = Fate::Duplicate {
                        of: self.sketched[duplicate.keeper as usize],
                        near: duplicate.kind == DuplicateKind::Near,
                    };
                } else if let Some(hits) = self.contaminated[number] {
                    *fate = Fate::Contaminated(hits);
                }
            }
        }
    }
}

/// The orders of the records that a `limit` takes: those whose ids draw the
/// smallest numbers. Only numbers are held, whatever the length of the texts.
fn limited(
    source: &SourceSection,
    data_root: &Path,
    seed: u64,
    limit: usize,
) -> Result<BTreeSet<u64>> {
    let draws = Draws::new(seed, "limit");
    let mut kept: BinaryHeap<(u64, u64)> = BinaryHeap::with_capacity(limit + 1);
    for (order, record) in read_source(source, data_root)?.enumerate() {
        let record = match record {
            Ok(record) => record,
            Err(_) if source.on_bad_record == OnBadRecord::Drop => continue,
            Err(error) => return Err(error),
        };
        kept.push((draws.of(&record.id), order as u64));
        if kept.len() > limit {
            kept.pop();
        }
    }
    Ok(kept.into_iter().map(|(_, order)| order).collect())
}

fn hits(index: &Contamination, probes: &[clean::Probe], text: &str) -> Option<Hits> {
    let hits = index.hits(text);
    let item = |hit: clean::Hit| {
        let probe = &probes[hit.probe];
        (
            format!("{}/{}", probe.task, probe.item_id),
            hit.words as u32,
        )
    };
    (!hits.is_empty()).then(|| Hits {
        items: hits.into_iter().map(item).collect(),
    })
}

/// Whether another source reads the same path.
pub(super) fn is_shared(section: &DataSection, source: &SourceSection) -> bool {
    let sources = section.sources();
    sources.filter(|other| other.path == source.path).count() > 1
}

/// What a source holds that must not be there.
#[derive(Default)]
struct Blocked {
    records: u64,
    classes: BTreeMap<PhiClass, u64>,
    first: Vec<String>,
}

impl Blocked {
    const SHOWN: usize = 5;

    fn add(&mut self, id: &str, found: &BTreeMap<PhiClass, u64>) {
        self.records += 1;
        for (&class, &n) in found {
            *self.classes.entry(class).or_insert(0) += n;
        }
        if self.first.len() < Self::SHOWN {
            self.first.push(id.to_owned());
        }
    }

    fn error(self, source: &SourceSection) -> Error {
        let classes = self
            .classes
            .iter()
            .map(|(class, n)| format!("{} {n}", class.name()));
        Error::Phi {
            source_name: source.name.clone(),
            records: self.records,
            classes: classes.collect(),
            first: self.first,
        }
    }
}
