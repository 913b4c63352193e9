//! Ranked answers: whether one of the first k is right, as differential diagnoses are marked.
//!
//! The gold answer has one acceptable name a line (the diagnosis, then its aliases); the answer has
//! one candidate a line, the likeliest first. Names are compared as SQuAD compares answers: without
//! case, punctuation and articles.

use super::token_f1::squad_words;
use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const TOP_1: Metric = Metric {
    name: "top_1",
    about: "share of items whose first candidate is the gold answer or one of its aliases",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item| mark(item, 1),
    score: mean,
};

pub(super) const TOP_3: Metric = Metric {
    name: "top_3",
    about: "share of items with the gold answer or an alias among the first three candidates",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item| mark(item, 3),
    score: mean,
};

pub(super) const TOP_5: Metric = Metric {
    name: "top_5",
    about: "share of items with the gold answer or an alias among the first five candidates",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item| mark(item, 5),
    score: mean,
};

fn mark(item: &Answered<'_>, first: usize) -> Vec<(String, Tally)> {
    let names = |text: &str| -> Vec<Vec<String>> {
        let names = text.lines().map(squad_words);
        names.filter(|words| !words.is_empty()).collect()
    };
    let gold = names(item.gold);
    let hit = item.answer.is_some_and(|answer| {
        names(answer)
            .iter()
            .take(first)
            .any(|name| gold.contains(name))
    });
    one_value(f64::from(hit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_at_its_rank() {
        let marks = |answer| {
            [1, 3, 5].map(|first| {
                let item = Answered {
                    options: &[],
                    gold: "Granulomatosis with polyangiitis\nWegener's granulomatosis\nGPA",
                    answer,
                    ..Answered::default()
                };
                mark(&item, first)[0].1[0]
            })
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
}
