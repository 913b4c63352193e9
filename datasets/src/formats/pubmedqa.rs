//! PubMedQA's labelled set (`ori_pqal.json`, Jin et al. 2019): an object of
//! records by PubMed id, and the official split, which is the output of the
//! authors' script rather than a field.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::Format;
use super::fields::wrong_field;
use crate::files::SourceFile;
use crate::python_random::PythonRandom;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, object};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format {
    name: "pubmedqa",
    about: "ori_pqal.json: question, contexts (list), context (joined), long_answer, final_decision, pmid",
    splits: &["train", "dev", "test"],
    read,
    sample: None,
};

/// Folds of the official cross-validation.
pub const FOLDS: usize = 10;

const LABELS: [&str; 3] = ["yes", "no", "maybe"];

/// The official split: `repository/preprocess/split_dataset.py pqal` under Python 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The 500 test ids.
    pub test: Vec<String>,
    /// The 10 folds of the other 500. Fold i's development set is `folds[i]`,
    /// its training set the other nine.
    pub folds: Vec<Vec<String>>,
}

/// Splits PubMed ids with their labels, in the file's order. Ids whose label
/// is none of yes, no and maybe are left out.
pub fn official_split(labelled: &[(String, String)]) -> Split {
    let mut random = PythonRandom::seed(0);
    let mut halves = stratified(labelled, 2, &mut random).into_iter();
    let cross_validation = halves.next().unwrap_or_default();
    let ids = |part: Vec<(String, String)>| part.into_iter().map(|(id, _)| id).collect();
    Split {
        test: halves.next().map(ids).unwrap_or_default(),
        folds: stratified(&cross_validation, FOLDS, &mut random)
            .into_iter()
            .map(ids)
            .collect(),
    }
}

/// Cuts each label's shuffled ids into `parts` pieces of equal size but the
/// last; part i is every label's piece i. Rounding up makes the last part
/// small, so then each other part gives it one id.
fn stratified(
    labelled: &[(String, String)],
    parts: usize,
    random: &mut PythonRandom,
) -> Vec<Vec<(String, String)>> {
    let mut output = vec![Vec::new(); parts];
    for label in LABELS {
        let mut ids: Vec<_> = labelled
            .iter()
            .filter(|(_, l)| l == label)
            .cloned()
            .collect();
        random.shuffle(&mut ids);
        let size = ids.len().div_ceil(parts).max(1);
        for (i, entry) in ids.into_iter().enumerate() {
            output[(i / size).min(parts - 1)].push(entry);
        }
    }
    if output[parts - 1].len() != output[0].len() {
        for i in 0..parts - 1 {
            if !output[i].is_empty() {
                let picked = random.choice(output[i].len());
                let entry = output[i].remove(picked);
                output[parts - 1].push(entry);
            }
        }
    }
    output
}

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let wanted = match &source.split {
        None => None,
        Some(split) => Some(split_ids(file, source, split)?),
    };
    let name = file.name.clone();
    let rows = object(file)?.filter_map(move |row| {
        let row = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let keep = match (&wanted, &row.key) {
            (Some(wanted), Some(pmid)) => wanted.contains(pmid),
            _ => true,
        };
        keep.then(|| named_fields(row, &name))
    });
    Ok(Box::new(rows))
}

/// The ids of a split; reads the file's labels once.
fn split_ids(file: &SourceFile, source: &SourceSection, split: &str) -> Result<HashSet<String>> {
    let fold = source.fold.unwrap_or(0);
    if fold >= FOLDS {
        return Err(Error::Fold {
            source_name: source.name.clone(),
            fold,
            folds: FOLDS,
        });
    }
    let mut labelled = Vec::new();
    for row in object(file)? {
        let row = row?;
        let label = row.fields.get("final_decision");
        match label.and_then(Value::as_str) {
            Some(known) if LABELS.contains(&known) => {
                labelled.push((row.key.unwrap_or_default(), known.to_string()));
            }
            _ => {
                return Err(wrong_field(
                    &row,
                    &file.name,
                    "final_decision",
                    "yes, no or maybe",
                ));
            }
        }
    }
    let mut official = official_split(&labelled);
    Ok(match split {
        "test" => official.test.into_iter().collect(),
        "dev" => official.folds.swap_remove(fold).into_iter().collect(),
        // The registry's `splits` has been checked: only train is left.
        _ => {
            official.folds.remove(fold);
            official.folds.into_iter().flatten().collect()
        }
    })
}

/// Lower-case names, and the contexts joined by newlines as Me-LLaMA's prompt
/// and the set's own baselines read them.
fn named_fields(row: Row, file: &str) -> Result<Row> {
    let list = row.fields.get("CONTEXTS").and_then(Value::as_array);
    let parts: Option<Vec<&str>> = list.and_then(|list| list.iter().map(Value::as_str).collect());
    let Some(parts) = parts else {
        return Err(wrong_field(&row, file, "CONTEXTS", "a list of strings"));
    };
    let context = Value::String(parts.join("\n"));
    let pmid = row.key.clone().map_or(Value::Null, Value::String);
    let named = row
        .fields
        .into_iter()
        .map(|(name, value)| (name.to_lowercase(), value));
    let mut fields: Map<String, Value> = named.collect();
    fields.insert("context".into(), context);
    fields.insert("pmid".into(), pmid);
    Ok(Row { fields, ..row })
}
