//! Ranked answers: whether one of the first k is right, as differential diagnoses are marked.
//!
//! The gold answer has one acceptable name a line (the diagnosis, then its aliases); the answer has
//! one candidate a line, the likeliest first. Names are compared as SQuAD compares answers: without
//! case, punctuation and articles. The judged metrics take a judge's word for it instead.

use super::token_f1::squad_words;
use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const TOP_1: Metric = named::<1>(
    "top_1",
    "share of items whose first candidate is the gold answer or one of its aliases",
);
pub(super) const TOP_3: Metric = named::<3>(
    "top_3",
    "share of items with the gold answer or an alias among the first three candidates",
);
pub(super) const TOP_5: Metric = named::<5>(
    "top_5",
    "share of items with the gold answer or an alias among the first five candidates",
);
pub(super) const JUDGED_TOP_1: Metric = judged::<1>(
    "judged_top_1",
    "share of items whose first candidate is right, as a judge sees it",
);
pub(super) const JUDGED_TOP_3: Metric = judged::<3>(
    "judged_top_3",
    "share of items with a right one among the first three candidates, as a judge sees it",
);
pub(super) const JUDGED_TOP_5: Metric = judged::<5>(
    "judged_top_5",
    "share of items with a right one among the first five candidates, as a judge sees it",
);

const fn named<const FIRST: usize>(name: &'static str, about: &'static str) -> Metric {
    Metric {
        name,
        about,
        needs: Needs::Text,
        family: Family::Corrected,
        higher_is_better: true,
        mark: mark_named::<FIRST>,
        score: mean,
    }
}

const fn judged<const FIRST: usize>(name: &'static str, about: &'static str) -> Metric {
    Metric {
        needs: Needs::Verdicts(FIRST),
        mark: mark_judged::<FIRST>,
        ..named::<FIRST>(name, about)
    }
}

/// The candidates of an answer, or the names of a gold answer.
pub(crate) fn candidates(text: &str) -> impl Iterator<Item = Candidate<'_>> {
    let candidates = text.lines().map(|line| Candidate {
        text: line.trim(),
        words: squad_words(line),
    });
    candidates.filter(|candidate| !candidate.words.is_empty())
}

/// One line of a ranked answer.
pub(crate) struct Candidate<'t> {
    pub text: &'t str,
    words: Vec<String>,
}

impl Candidate<'_> {
    /// Whether it is one of the names of the gold answer.
    pub(crate) fn is_one_of(&self, gold: &str) -> bool {
        candidates(gold).any(|name| name.words == self.words)
    }
}

fn mark_named<const FIRST: usize>(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let hit = item.answer.is_some_and(|answer| {
        let mut first = candidates(answer).take(FIRST);
        first.any(|candidate| candidate.is_one_of(item.gold))
    });
    one_value(f64::from(hit))
}

/// An item about which the judge gave no verdict that would decide it adds nothing: neither right
/// nor wrong.
fn mark_judged<const FIRST: usize>(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let first = &item.judged[..item.judged.len().min(FIRST)];
    let hit = first.contains(&Some(true));
    if !hit && first.contains(&None) {
        return Vec::new();
    }
    one_value(f64::from(hit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_at_its_rank() {
        let marks = |answer| {
            let item = Answered {
                options: &[],
                gold: "Granulomatosis with polyangiitis\nWegener's granulomatosis\nGPA",
                answer,
                ..Answered::default()
            };
            [TOP_1, TOP_3, TOP_5].map(|metric| (metric.mark)(&item)[0].1[0])
        };
        assert_eq!(
            marks(Some("The granulomatosis with polyangiitis.")),
            [1.0; 3]
        );
        assert_eq!(
            marks(Some("Sarcoidosis\n\nWegeners granulomatosis")),
            [0.0, 1.0, 1.0]
        );
        assert_eq!(marks(Some("asthma\nTB\nflu\nlupus\nHIV\nGPA")), [0.0; 3]);
        assert_eq!(marks(Some("flu\nlupus\nHIV\ngpa")), [0.0, 0.0, 1.0]);
        // A part of a name is another disease.
        assert_eq!(marks(Some("granulomatosis")), [0.0; 3]);
        assert_eq!(marks(Some("")), [0.0; 3]);
        assert_eq!(marks(None), [0.0; 3]);
    }

    #[test]
    fn a_verdict_counts_at_its_rank_and_a_missing_one_decides_nothing() {
        let marks = |judged: &[Option<bool>]| {
            let item = Answered {
                judged,
                ..Answered::default()
            };
            [JUDGED_TOP_1, JUDGED_TOP_3, JUDGED_TOP_5]
                .map(|metric| (metric.mark)(&item).first().map(|mark| mark.1[0]))
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(marks(&[yes]), [Some(1.0); 3]);
        assert_eq!(marks(&[no, no, yes]), [Some(0.0), Some(1.0), Some(1.0)]);
        assert_eq!(marks(&[no, no, no, yes]), [Some(0.0), Some(0.0), Some(1.0)]);
        // Whether the first one is right is not known; that one of three is, is.
        assert_eq!(marks(&[None, yes]), [None, Some(1.0), Some(1.0)]);
        assert_eq!(marks(&[no, None, no, no]), [Some(0.0), None, None]);
        assert_eq!(marks(&[]), [Some(0.0); 3]);
    }
}
