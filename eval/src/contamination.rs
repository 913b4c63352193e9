//! Scores without the items that the training data was found to hold.
//!
//! A build that decontaminates lists in `dropped.jsonl` the records it left out because they hold
//! evaluation items, with those items. That they are in one source says that they may be in
//! others, and in what the base was trained on: a score on the remaining items stands beside the
//! score on all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::metrics::MetricName;
use crate::run::TaskResult;
use crate::statistics::{Bootstrap, Interval};
use crate::{Error, Result};

/// The evaluation items that a build found in its sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlaggedItems {
    /// As `family/item id`, with how many records hold each.
    items: BTreeMap<String, usize>,
}

/// What is read of a line of `dropped.jsonl`.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    items: Vec<(String, u64)>,
}

/// The longest line that is read, in bytes: ids, and no text.
const MAX_LINE_BYTES: usize = 16 << 20;

impl FlaggedItems {
    /// Reads a build's `dropped.jsonl`.
    ///
    /// # Errors
    /// [`Error::Dropped`]: a file that cannot be read, or a line that is none of a build's.
    pub fn read(path: &Path) -> Result<FlaggedItems> {
        let failed = |line: usize, problem: String| Error::Dropped {
            path: path.to_owned(),
            line,
            problem,
        };
        let file = std::fs::File::open(path).map_err(|error| failed(0, error.to_string()))?;
        let mut reader = BufReader::new(file);
        let mut flagged = FlaggedItems::default();
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let mut part = std::io::Read::take(&mut reader, MAX_LINE_BYTES as u64);
            let read = part.read_until(b'\n', &mut bytes);
            if read.map_err(|error| failed(number, error.to_string()))? == 0 {
                break;
            }
            if bytes.len() == MAX_LINE_BYTES {
                let problem = format!("it is longer than {MAX_LINE_BYTES} bytes");
                return Err(failed(number, problem));
            }
            let line: Line = serde_json::from_slice(&bytes).map_err(|error| {
                failed(
                    number,
                    format!("column {} is not as a build writes it", error.column()),
                )
            })?;
            for (item, _) in line.items {
                *flagged.items.entry(item).or_insert(0) += 1;
            }
        }
        Ok(flagged)
    }

    /// These items: for tests, and for reports that come from elsewhere.
    pub fn of<'i>(items: impl IntoIterator<Item = (&'i str, &'i str)>) -> FlaggedItems {
        let mut flagged = FlaggedItems::default();
        for (family, item) in items {
            *flagged.items.entry(format!("{family}/{item}")).or_insert(0) += 1;
        }
        flagged
    }

    /// Whether nothing was flagged.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The ids of a family's flagged items, of those given.
    pub fn among<'i>(
        &self,
        family: &str,
        ids: impl IntoIterator<Item = &'i str>,
    ) -> BTreeSet<&'i str> {
        let flagged = |id: &&str| self.items.contains_key(&format!("{family}/{id}"));
        ids.into_iter().filter(flagged).collect()
    }

    /// A result's scores without its flagged items. `None` where none of them is among it.
    pub fn clean(
        &self,
        family: &str,
        result: &TaskResult,
        bootstrap: &Bootstrap,
    ) -> Option<CleanScores> {
        let flagged = self.among(family, result.items.iter().map(|item| item.id.as_str()));
        if flagged.is_empty() {
            return None;
        }
        let kept: Vec<usize> = (0..result.items.len())
            .filter(|&item| !flagged.contains(result.items[item].id.as_str()))
            .collect();
        let scores = result.scores.iter().map(|score| {
            let marks = score.marks.of_items(&kept);
            CleanScore {
                metric: score.metric,
                value: (!kept.is_empty()).then(|| marks.score()),
                interval: bootstrap.interval(&marks),
            }
        });
        Some(CleanScores {
            items: kept.len(),
            flagged: flagged.into_iter().map(str::to_owned).collect(),
            scores: scores.collect(),
        })
    }
}

/// A result's scores without the items that the training data was found to hold.
#[derive(Debug, Clone)]
pub struct CleanScores {
    /// Items that the scores are over.
    pub items: usize,
    /// The ids of those that were left out.
    pub flagged: BTreeSet<String>,
    /// One score a metric, in the task's order.
    pub scores: Vec<CleanScore>,
}

/// One metric's score without the flagged items.
#[derive(Debug, Clone)]
pub struct CleanScore {
    /// The metric.
    pub metric: MetricName,
    /// Its value; `None` where every item was flagged.
    pub value: Option<f64>,
    /// The value's 95 % interval.
    pub interval: Option<Interval>,
}
