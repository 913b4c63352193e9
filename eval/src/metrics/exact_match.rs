//! Share of answers equal to the gold answer after SQuAD's normalisation.

use super::token_f1::squad_words;
use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const EXACT_MATCH: Metric = Metric {
    name: "exact_match",
    about: "share of answers equal to gold after SQuAD normalisation",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let same = item
        .answer
        .is_some_and(|answer| squad_words(answer) == squad_words(item.gold));
    one_value(f64::from(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_case_articles_and_punctuation() {
        let same = |gold, answer| {
            mark(&Answered {
                gold,
                answer,
                ..Answered::default()
            })[0]
                .1[0]
        };
        assert_eq!(same("Aspirin 81 mg", Some("the aspirin, 81 mg.")), 1.0);
        assert_eq!(same("Aspirin 81 mg", Some("aspirin 81")), 0.0);
        assert_eq!(same("", None), 0.0);
    }
}
