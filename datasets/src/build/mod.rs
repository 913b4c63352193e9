//! Builds a recipe's data: from its sources to files that training reads.
//!
//! A built folder has
//! - `train.jsonl` and `validation.jsonl`: one sample a line, `{"id", "messages",
//!   "provenance"}` or `{"id", "text", "provenance"}`, in the order of the
//!   sources and their files (training shuffles for itself); the same as
//!   Parquet if that is asked for;
//! - `dropped.jsonl`: `{"id", "reason", ..}` of each record left out, with the
//!   sample that is kept instead or the evaluation items that it holds;
//! - `DATACARD.md` and `composition.svg`: what it is made of, for people.
//!
//! The order of the stages: read, normalise, duplicates, evaluation items, PHI,
//! split, then sample to quota, so that totals come out whole. Two passes do
//! it: the first judges every record and keeps of each only its fate and a
//! sketch, the second reads the sources again and writes what was chosen. So
//! memory follows the number of records by a few hundred bytes each, never
//! their texts.
//!
//! The bytes depend on the sources, the recipe and the seed: not on threads, on
//! where the folders are, or on the day.

mod card;
mod choose;
mod load;
mod parquet;
mod picture;
mod prepare;
mod report;
mod scan;
mod sources;
mod tokens;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use ledger::AccessClass;

pub use load::{BuiltSamples, Samples, load_built};
pub use report::{BuildReport, ShortGroup, SourceReport, Totals};
pub use sources::{Missing, PlannedSource, inputs, planned_sources};
pub use tokens::{Counter, SampleTokens};

use crate::clean::Probe;
use crate::recipe::{DataSection, SourceSection};
use crate::{Error, Result};

/// The training samples' file.
pub const TRAIN_FILE: &str = "train.jsonl";
/// The validation samples' file.
pub const VALIDATION_FILE: &str = "validation.jsonl";
/// The list of records left out.
pub const DROPPED_FILE: &str = "dropped.jsonl";
/// The description for people.
pub const CARD_FILE: &str = "DATACARD.md";
/// The composition as a picture.
pub const PICTURE_FILE: &str = "composition.svg";

/// What a build needs beside its recipe section and the data root.
#[derive(Default)]
pub struct BuildOptions<'a> {
    /// The recipe's name, for the data card.
    pub name: &'a str,
    /// Everything random follows from it.
    pub seed: u64,
    /// Evaluation items that must not be trained on.
    pub probes: Vec<Probe>,
    /// Counts tokens.
    pub counter: Option<Counter<'a>>,
    /// Goes on without sources whose files are not there.
    pub allow_missing: bool,
    /// Writes Parquet files as well.
    pub parquet: bool,
}

/// What a build did, for its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Samples by file, and records by source.
    pub counts: BTreeMap<String, u64>,
    /// The strictest class of any source that was read.
    pub access: AccessClass,
    /// Every number.
    pub report: BuildReport,
}

/// Which side of the split a sample is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Train,
    Validation,
}

/// Builds `section` into `folder`, which exists (a stage's staging folder).
///
/// # Errors
/// Sources that are missing (all of them at once), a source that cannot be
/// read, a record that is not what its format says or gives no answer, what may
/// identify a patient where the recipe forbids it, or nothing left to train on.
pub fn build(
    section: &DataSection,
    data_root: &Path,
    folder: &Path,
    options: &BuildOptions<'_>,
) -> Result<Built> {
    check(section)?;
    let missing = sources::missing(section, data_root)?;
    if !missing.is_empty() && !options.allow_missing {
        return Err(Error::MissingSources { missing });
    }
    let is_missing = |source: &SourceSection| missing.iter().any(|m| m.source_name == source.name);
    let of = |side| {
        let sources = match side {
            Side::Train => Some(&section.source),
            Side::Validation => section.validation.as_ref(),
        };
        let sources = sources.into_iter().flatten();
        sources.map(move |source| (side, source))
    };
    // What validation holds comes first: what repeats it is not trained on.
    let (left_out, sources): (Vec<_>, Vec<_>) = of(Side::Validation)
        .chain(of(Side::Train))
        .partition(|(_, source)| is_missing(source));
    let left_out: Vec<_> = left_out.into_iter().map(|(_, source)| source).collect();

    let shares = section
        .group
        .iter()
        .any(|group| group.token_share.is_some());
    let counter = options.counter.as_ref();
    if shares && counter.is_none() {
        return Err(Error::NeedsTokenizer);
    }
    let scan = scan::Scanner::new(section, data_root, options, counter.filter(|_| shares));
    let scan = scan.run(&sources)?;
    let chosen = choose::choose(section, &sources, &scan)?;
    let writer = write::Writer::new(section, data_root, folder, counter, options.parquet)?;
    let (written, packs) = writer.run(&sources, &scan, &chosen)?;
    let mut report = report::report(
        section, &sources, &left_out, &scan, &chosen, &written, packs,
    );
    for probe in &options.probes {
        *report.decontaminated.entry(probe.task.clone()).or_insert(0) += 1;
    }
    let access = AccessClass::strictest(sources.iter().map(|(_, source)| source.access));
    write_text(
        &folder.join(CARD_FILE),
        &card::card(options.name, section, access, &report),
    )?;
    write_text(&folder.join(PICTURE_FILE), &picture::picture(&report))?;
    Ok(Built {
        counts: counts(&report),
        access,
        report,
    })
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::write(path))
}

fn counts(report: &BuildReport) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([
        ("train".to_owned(), report.total.train),
        ("validation".to_owned(), report.total.validation),
    ]);
    if report.total.tokens > 0 {
        counts.insert("tokens".into(), report.total.tokens);
        counts.insert("target_tokens".into(), report.total.target_tokens);
    }
    for source in &report.sources {
        counts.insert(format!("source.{}.read", source.name), source.read);
        counts.insert(format!("source.{}.kept", source.name), source.samples());
        for (reason, n) in &source.dropped {
            let total = counts.entry(format!("dropped.{reason}")).or_insert(0);
            *total += n;
        }
    }
    counts
}

fn check(section: &DataSection) -> Result<()> {
    let fraction = section.validation_fraction;
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::Fraction { fraction });
    }
    let share = section.sample;
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::SampleShare { share });
    }
    if fraction > 0.0 && section.validation.is_some() {
        return Err(Error::TwoValidations { fraction });
    }
    let near = section.clean.near_duplicates;
    if !(near == 0.0 || (0.3..=1.0).contains(&near)) {
        return Err(Error::Similarity { near });
    }
    let mut names = HashSet::new();
    for source in section.sources() {
        if !names.insert(source.name.as_str()) {
            return Err(Error::SourceName {
                name: source.name.clone(),
            });
        }
        let known = |group: &String| section.group.iter().any(|g| g.name == *group);
        if let Some(group) = source.group.as_ref().filter(|group| !known(group)) {
            return Err(Error::UnknownGroup {
                source_name: source.name.clone(),
                group: group.clone(),
                known: section
                    .group
                    .iter()
                    .map(|group| group.name.clone())
                    .collect(),
            });
        }
    }
    Ok(())
}
