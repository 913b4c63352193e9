//! Scores without the items that the training data was found to hold.
//!
//! A build that decontaminates lists in `dropped.jsonl` the records it left out because they hold
//! evaluation items, with those items. That they are in one source says that they may be in
//! others, and in what the base was trained on: a score on the remaining items stands beside the
//! score on all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::run::TaskResult;
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

    /// Notes in a result which of its items are flagged, so that a report has its scores also
    /// without them.
    pub fn mark(&self, family: &str, result: &mut TaskResult) {
        for item in &mut result.items {
            item.flagged = self.items.contains_key(&format!("{family}/{}", item.id));
        }
    }
}
