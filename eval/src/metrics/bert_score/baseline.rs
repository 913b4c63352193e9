//! What unrelated texts score, by which values are rescaled.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The first line of a baseline file.
const HEADER: &str = "LAYER,P,R,F";

/// A line of the `bert_score` package's `rescale_baseline` files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Precision of unrelated texts, below 1.
    pub precision: f64,
    /// Recall of unrelated texts, below 1.
    pub recall: f64,
    /// F1 of unrelated texts, below 1.
    pub f1: f64,
}

/// What is wrong with a baseline file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineProblem {
    /// It begins otherwise than the package's.
    #[error("its first line is not `{HEADER}`")]
    Header,
    /// A line is not a layer and three numbers below 1.
    #[error("line {line} is not a layer and three numbers below 1")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// It has no line for the layer.
    #[error("it has no line for layer {layer}")]
    NoLayer {
        /// The layer.
        layer: usize,
    },
}

impl Baseline {
    /// Reads a layer's line of a file such as the package's `rescale_baseline/en/roberta-large.tsv`:
    /// the line `LAYER,P,R,F`, then a line a layer, 0 being the embeddings.
    ///
    /// # Errors
    /// A file that cannot be read or is none, and one without the layer.
    pub fn read(path: &Path, layer: usize) -> Result<Baseline> {
        let text = std::fs::read(path).map_err(|source| ledger::Error::Read {
            path: path.to_owned(),
            source,
        })?;
        parse(&String::from_utf8_lossy(&text), layer).map_err(|problem| Error::Baseline {
            path: path.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str, layer: usize) -> Result<Baseline, BaselineProblem> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    if lines.next().map(|(_, line)| line.trim()) != Some(HEADER) {
        return Err(BaselineProblem::Header);
    }
    let mut found = None;
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let (of, baseline) = values(line).ok_or(BaselineProblem::Line { line: index + 1 })?;
        if of == layer {
            found.get_or_insert(baseline);
        }
    }
    found.ok_or(BaselineProblem::NoLayer { layer })
}

fn values(line: &str) -> Option<(usize, Baseline)> {
    let mut fields = line.split(',').map(str::trim);
    let layer = fields.next()?.parse().ok()?;
    let mut number = || -> Option<f64> {
        let value = fields.next()?.parse().ok()?;
        // 1 would be divided by zero; below -1 no cosine lies.
        (-1.0..1.0).contains(&value).then_some(value)
    };
    let baseline = Baseline {
        precision: number()?,
        recall: number()?,
        f1: number()?,
    };
    fields.next().is_none().then_some((layer, baseline))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "LAYER,P,R,F\n0,0.25,0.5,0.375\n1,-0.5,0.125,0.0\n";

    #[test]
    fn a_layer_is_found_by_its_number() {
        let baseline = parse(FILE, 1).unwrap();
        assert_eq!(
            (baseline.precision, baseline.recall, baseline.f1),
            (-0.5, 0.125, 0.0)
        );
        assert_eq!(parse(&FILE.replace('\n', "\r\n"), 0).unwrap().f1, 0.375);
    }

    #[test]
    fn what_is_no_baseline_is_named() {
        let problem = |text: &str, layer| parse(text, layer).unwrap_err().to_string();
        assert_eq!(problem(FILE, 2), "it has no line for layer 2");
        assert_eq!(problem("", 0), "its first line is not `LAYER,P,R,F`");
        assert_eq!(
            problem("LAYER\tP\tR\tF\n", 0),
            "its first line is not `LAYER,P,R,F`"
        );
        for line in [
            "2,1.0,0.5,0.5",
            "2,0.5,0.5",
            "2,0.5,nan,0.5",
            "2,0,0,0,0",
            "x,0,0,0",
        ] {
            let text = format!("{FILE}\n{line}\n");
            let named = "line 5 is not a layer and three numbers below 1";
            assert_eq!(problem(&text, 0), named, "{line}");
        }
    }
}
