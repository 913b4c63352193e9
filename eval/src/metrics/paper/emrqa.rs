//! EmrQA: exact match and F1 of *characters*.
//!
//! The scorer's normalisation lower-cases, drops ASCII punctuation and joins what is left with
//! spaces character by character, so its "tokens" are single characters, white space gone. Exact
//! match compares those strings. F1 divides the number of *distinct* characters in common by the
//! number of all characters, so that a perfect answer scores less the longer it is: 6/7 for
//! "aspirin".

use std::collections::BTreeSet;

use super::super::token_f1::is_python_space;
use super::super::{Answered, Metric, Needs};
use super::{mean, metric, one_value};

pub(in super::super) const EXACT_MATCH: Metric = metric(
    "paper_emrqa_exact_match",
    "as released (EmrQA): share of texts with gold's characters, white space and punctuation aside",
    Needs::Text,
    |item| one_value(f64::from(characters(item.written) == characters(item.gold))),
    mean,
);

pub(in super::super) const F1: Metric = metric(
    "paper_emrqa_f1",
    "as released (EmrQA): mean F1 of the distinct characters shared with gold",
    Needs::Text,
    |item| one_value(f1(item)),
    mean,
);

fn characters(text: &str) -> Vec<char> {
    text.to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation() && !is_python_space(*c))
        .collect()
}

fn f1(item: &Answered<'_>) -> f64 {
    let (gold, answer) = (characters(item.gold), characters(item.written));
    if gold.is_empty() || answer.is_empty() {
        return f64::from(gold.is_empty() && answer.is_empty());
    }
    let distinct = |text: &[char]| text.iter().copied().collect::<BTreeSet<char>>();
    let common = distinct(&gold).intersection(&distinct(&answer)).count();
    // 2PR / (P + R) with P = common/|answer| and R = common/|gold|.
    2.0 * common as f64 / (gold.len() + answer.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_answer_scores_less_than_one() {
        let score = |gold, written| {
            f1(&Answered {
                gold,
                written,
                ..Answered::default()
            })
        };
        assert!((score("aspirin", "Aspirin.") - 6.0 / 7.0).abs() < 1e-12);
        assert!((score("aspirin", "pains, iris") - 2.0 * 6.0 / 16.0).abs() < 1e-12);
        assert_eq!(score("?", ""), 1.0);
    }
}
