//! Share of items whose answer is the gold answer, exactly. No answer is a wrong answer.

use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const ACCURACY: Metric = Metric {
    name: "accuracy",
    about: "share of items answered right; no answer counts as wrong",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    one_value(f64::from(item.answer == Some(item.gold)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_answer_is_wrong() {
        let item = |answer| Answered {
            gold: "yes",
            answer,
            ..Answered::default()
        };
        let marks = super::super::Marks::new(
            &ACCURACY,
            [Some("yes"), Some("no"), None].map(item).into_iter(),
        );
        assert_eq!(marks.score(), 1.0 / 3.0);
    }
}
