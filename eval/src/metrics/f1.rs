//! F1 over the classes of a single-choice task: macro, weighted by support, and micro.
//!
//! As scikit-learn's `f1_score(labels=..., zero_division=0)` with the labels that occur as gold or
//! as an extracted answer. An answer that could not be extracted is a miss of its gold class; it
//! is no class of its own, so it lowers recall and nobody's precision.

use super::{Answered, Family, Metric, Needs, Tally, mean_f1_of_seen, pooled_f1, weighted_f1};

pub(super) const MACRO_F1: Metric = Metric {
    name: "macro_f1",
    about: "unweighted mean of F1 over the classes seen in gold or answers",
    needs: Needs::Choice,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean_f1_of_seen,
};

pub(super) const WEIGHTED_F1: Metric = Metric {
    name: "weighted_f1",
    about: "mean of F1 over the classes, weighted by how often each is gold",
    needs: Needs::Choice,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: weighted_f1,
};

pub(super) const MICRO_F1: Metric = Metric {
    name: "micro_f1",
    about: "F1 of the pooled counts; equals accuracy when every answer could be extracted",
    needs: Needs::Choice,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: pooled_f1,
};

/// Classes are positions among the options, not their texts: texts can differ from item to item.
fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let class = |index: usize| index.to_string();
    let gold = item.option_index(item.gold);
    let answer = item.answer.and_then(|text| item.option_index(text));
    match (gold, answer) {
        (Some(gold), Some(answer)) if gold == answer => vec![(class(gold), [1.0, 0.0, 0.0])],
        (gold, answer) => {
            let missed = gold.map(|index| (class(index), [0.0, 0.0, 1.0]));
            let spurious = answer.map(|index| (class(index), [0.0, 1.0, 0.0]));
            missed.into_iter().chain(spurious).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;

    fn score(metric: &Metric, gold: &[&str], answers: &[Option<&str>]) -> f64 {
        let options = ["yes", "no", "maybe"].map(String::from);
        let items = gold.iter().zip(answers).map(|(gold, answer)| Answered {
            options: &options,
            gold,
            answer: *answer,
            ..Answered::default()
        });
        Marks::new(metric, items).score()
    }

    #[test]
    fn a_class_that_never_occurs_is_not_averaged() {
        let gold = ["yes", "yes", "no", "no"];
        let answers = [Some("yes"), Some("no"), Some("no"), Some("no")];
        // yes: 2/3, no: 4/5; maybe occurs nowhere.
        assert!((score(&MACRO_F1, &gold, &answers) - (2.0 / 3.0 + 0.8) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_class_that_is_only_answered_counts_as_zero() {
        let gold = ["yes", "yes"];
        let answers = [Some("yes"), Some("maybe")];
        assert!((score(&MACRO_F1, &gold, &answers) - (2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!((score(&WEIGHTED_F1, &gold, &answers) - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_missing_answer_lowers_recall_only() {
        let gold = ["yes", "yes", "no"];
        let answers = [Some("yes"), None, Some("no")];
        assert!((score(&MICRO_F1, &gold, &answers) - 4.0 / 5.0).abs() < 1e-12);
        assert!((score(&MACRO_F1, &gold, &answers) - (2.0 / 3.0 + 1.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn no_answers_at_all_is_zero() {
        assert_eq!(score(&MACRO_F1, &["yes"], &[None]), 0.0);
        assert_eq!(score(&MICRO_F1, &[], &[]), 0.0);
        assert_eq!(score(&WEIGHTED_F1, &[], &[]), 0.0);
    }
}
