//! ROUGE-1 and ROUGE-2 (Lin 2004) as the `rouge_score` package computes them: F-measure of the bags
//! of words, or of pairs of neighbouring words.

use std::collections::HashMap;

use super::rouge_words::{Words, f_measure, of_answer, plain, stemmed};
use super::{Answered, Family, Metric, Needs, Tally, mean};

const fn rouge(
    name: &'static str,
    about: &'static str,
    mark: fn(&Answered<'_>) -> Vec<(String, Tally)>,
) -> Metric {
    Metric {
        name,
        about,
        needs: Needs::Text,
        family: Family::Corrected,
        higher_is_better: true,
        mark,
        score: mean,
    }
}

pub(super) const ROUGE_1: Metric = rouge(
    "rouge_1",
    "mean F-measure of the words shared with the gold text",
    |item| of_answer(item, plain, rouge_n::<1>),
);

pub(super) const ROUGE_2: Metric = rouge(
    "rouge_2",
    "mean F-measure of the pairs of words shared with the gold text",
    |item| of_answer(item, plain, rouge_n::<2>),
);

pub(super) const ROUGE_1_STEMMED: Metric = rouge(
    "rouge_1_stemmed",
    "rouge_1 of word stems (Porter)",
    |item| of_answer(item, stemmed, rouge_n::<1>),
);

pub(super) const ROUGE_2_STEMMED: Metric = rouge(
    "rouge_2_stemmed",
    "rouge_2 of word stems (Porter)",
    |item| of_answer(item, stemmed, rouge_n::<2>),
);

pub(super) fn rouge_n<const N: usize>(gold: &str, answer: &str, words: Words) -> f64 {
    let (gold, answer) = (words(gold), words(answer));
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for run in gold.windows(N) {
        *left.entry(run).or_default() += 1;
    }
    let mut hits = 0;
    for run in answer.windows(N) {
        if let Some(count) = left.get_mut(run).filter(|count| **count > 0) {
            *count -= 1;
            hits += 1;
        }
    }
    let runs = |words: &[String]| (words.len() + 1).saturating_sub(N);
    f_measure(hits, runs(&gold), runs(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_repeated_runs_once_each() {
        let (gold, answer) = ("no acute no acute", "no acute disease");
        // Words: 2 of 4 and 3. Pairs: 1 of 3 and 2.
        assert!((rouge_n::<1>(gold, answer, plain) - 4.0 / 7.0).abs() < 1e-12);
        assert!((rouge_n::<2>(gold, answer, plain) - 2.0 / 5.0).abs() < 1e-12);
        assert_eq!(rouge_n::<2>("no", "no", plain), 0.0);
        assert_eq!(rouge_n::<1>("", "", plain), 0.0);
    }
}
