//! What the released Me-LLaMA scorer computes (BIDS-Xu-Lab/Me-LLaMA, `src/tasks/vital_measure.py`),
//! for checking published numbers.
//!
//! Its parsers are part of its metrics, so these read the raw text and no filter's answer. Each file
//! says where it departs from what the metric's name promises; docs/metrics.md sets each beside its
//! corrected counterpart. Behaviour re-stated, no code taken.

pub(super) mod emrqa;
mod html;
pub(super) mod label;
pub(super) mod multi_label;
pub(super) mod ner;
pub(super) mod one_label;
pub(super) mod rouge;

use super::{Answered, Family, Metric, Needs, Tally, f1, mean, one_value, weighted_f1};

/// A paper-compatible metric of higher is better.
const fn metric(
    name: &'static str,
    about: &'static str,
    needs: Needs,
    mark: fn(&Answered<'_>) -> Vec<(String, Tally)>,
    score: fn(&[Tally]) -> f64,
) -> Metric {
    Metric {
        name,
        about,
        needs,
        family: Family::PaperCompatible,
        higher_is_better: true,
        mark,
        score,
    }
}

/// What stands for an answer in which the parser found no label. It is counted as a label, which no
/// average includes unless it is gold.
const MISSING: &str = "missing";

/// What the parser made of a text: the gold label and the answered one, in the parser's writing.
struct Parsed {
    gold: String,
    answer: String,
}

impl Parsed {
    fn accuracy(&self) -> Vec<(String, Tally)> {
        one_value(f64::from(self.answer == self.gold))
    }

    fn missing(&self) -> Vec<(String, Tally)> {
        one_value(f64::from(self.answer == MISSING))
    }

    fn counts(self) -> Vec<(String, Tally)> {
        if self.answer == self.gold {
            return vec![(self.gold, [1.0, 0.0, 0.0])];
        }
        vec![(self.gold, [0.0, 0.0, 1.0]), (self.answer, [0.0, 1.0, 0.0])]
    }
}

/// Unweighted mean of F1 over the labels that are gold somewhere: a label that is only ever answered
/// wrongly costs nothing by itself.
fn mean_f1_of_gold(totals: &[Tally]) -> f64 {
    let gold: Vec<f64> = totals
        .iter()
        .filter(|t| t[0] + t[2] > 0.0)
        .map(f1)
        .collect();
    if gold.is_empty() {
        return 0.0;
    }
    gold.iter().sum::<f64>() / gold.len() as f64
}
