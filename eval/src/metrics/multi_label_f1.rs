//! F1 of a task where several options can be right at once (Hallmarks of Cancer): averaged over
//! options, pooled, or averaged over items.
//!
//! Gold and answer are lists of options separated by `;`. As scikit-learn's
//! `f1_score(Y, P, average=.., zero_division=0)` on indicator matrices, with `macro`, `micro` and
//! `samples`: every option is a column and counts, seen or not. An item whose gold and answer are
//! both empty adds 0 to the mean over items, as there.

use super::{Answered, Family, Metric, Needs, Tally, f1, mean, one_value, pooled_f1};

pub(super) const MULTI_LABEL_F1: Metric = Metric {
    name: "multi_label_f1",
    about: "unweighted mean over all options of the F1 of naming that option",
    needs: Needs::Labels,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean_f1_of_all,
};

pub(super) const MULTI_LABEL_MICRO_F1: Metric = Metric {
    name: "multi_label_micro_f1",
    about: "F1 of the counts of all options pooled",
    needs: Needs::Labels,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: pooled_f1,
};

pub(super) const MULTI_LABEL_EXAMPLE_F1: Metric = Metric {
    name: "multi_label_example_f1",
    about: "mean over items of the F1 of the labels named",
    needs: Needs::Labels,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item| {
        let totals: Vec<Tally> = mark(item).into_iter().map(|(_, tally)| tally).collect();
        one_value(pooled_f1(&totals))
    },
    score: mean,
};

/// The texts of a `;`-separated list of labels.
pub(crate) fn labels_of(list: &str) -> impl Iterator<Item = &str> {
    list.split(';')
        .map(str::trim)
        .filter(|label| !label.is_empty())
}

/// A list that [`labels_of`] reads.
pub(crate) fn join_labels<'a>(labels: impl Iterator<Item = &'a str>) -> String {
    labels.collect::<Vec<_>>().join("; ")
}

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let named = |list: &str, option: &str| labels_of(list).any(|label| label == option);
    item.options
        .iter()
        .enumerate()
        .map(|(index, option)| {
            let gold = named(item.gold, option);
            let answer = item.answer.is_some_and(|list| named(list, option));
            let tally = [gold && answer, answer && !gold, gold && !answer].map(f64::from);
            (index.to_string(), tally)
        })
        .collect()
}

pub(super) fn mean_f1_of_all(totals: &[Tally]) -> f64 {
    if totals.is_empty() {
        return 0.0;
    }
    totals.iter().map(f1).sum::<f64>() / totals.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;

    #[test]
    fn counts_each_label_of_a_list() {
        let options = ["a b", "c", "d"].map(String::from);
        let item = |gold, answer| Answered {
            options: &options,
            gold,
            answer,
            ..Answered::default()
        };
        let items = [
            item("a b; c", Some("c;a b")),
            item("c", Some("a b")),
            item("", None),
        ];
        // "a b": tp 1 fp 1 -> 2/3; c: tp 1 fn 1 -> 2/3; d: never -> 0.
        let score = Marks::new(&MULTI_LABEL_F1, items.into_iter()).score();
        assert!((score - (4.0 / 3.0) / 3.0).abs() < 1e-12);
    }
}
