//! ROUGE-Lsum (Lin 2004, section 3.2) as the `rouge_score` package computes it: sentences are lines,
//! and each gold sentence counts the words that any answered sentence has in common with it, in
//! order, no word more often than both texts have it.

use std::collections::{BTreeSet, HashMap};

use super::rouge_words::{Words, f_measure, of_answer, plain, stemmed};
use super::{Answered, Family, Metric, Needs, mean};

pub(super) const ROUGE_LSUM: Metric = Metric {
    name: "rouge_lsum",
    about: "mean F-measure of the words that lines have in common in order, over all lines",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item: &Answered<'_>| of_answer(item, plain, rouge_lsum),
    score: mean,
};

pub(super) const ROUGE_LSUM_STEMMED: Metric = Metric {
    name: "rouge_lsum_stemmed",
    about: "rouge_lsum of word stems (Porter)",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item: &Answered<'_>| of_answer(item, stemmed, rouge_lsum),
    score: mean,
};

fn rouge_lsum(gold: &str, answer: &str, words: Words) -> f64 {
    let sentences = |text: &str| -> Vec<Vec<String>> { text.split('\n').map(words).collect() };
    let (gold, answer) = (sentences(gold), sentences(answer));
    let (mut left_gold, mut left_answer) = (counts(&gold), counts(&answer));
    let mut hits = 0;
    for sentence in &gold {
        let shared: BTreeSet<usize> = answer
            .iter()
            .flat_map(|other| common_subsequence(sentence, other))
            .collect();
        for index in shared {
            let word = sentence[index].as_str();
            let in_gold = left_gold.get_mut(word).filter(|left| **left > 0);
            let in_answer = left_answer.get_mut(word).filter(|left| **left > 0);
            if let (Some(in_gold), Some(in_answer)) = (in_gold, in_answer) {
                *in_gold -= 1;
                *in_answer -= 1;
                hits += 1;
            }
        }
    }
    let total = |sentences: &[Vec<String>]| sentences.iter().map(Vec::len).sum::<usize>();
    f_measure(hits, total(&gold), total(&answer))
}

fn counts(sentences: &[Vec<String>]) -> HashMap<&str, usize> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in sentences.iter().flatten() {
        *counts.entry(word.as_str()).or_default() += 1;
    }
    counts
}

/// Largest table of directions, in cells of a byte: a line of 8,000 words against another. Beyond
/// it two lines count as having nothing in common.
const MAX_CELLS: usize = 64 << 20;

#[derive(Clone, Copy)]
enum Step {
    Both,
    Gold,
    Answer,
}

/// Indices into the gold sentence of one longest common subsequence, in no order: the one that
/// `rouge_score` finds, walking back from the ends and leaving out a gold word in a tie.
fn common_subsequence(gold: &[String], answer: &[String]) -> Vec<usize> {
    let (rows, columns) = (gold.len(), answer.len());
    if rows.saturating_mul(columns) > MAX_CELLS {
        return Vec::new();
    }
    let mut steps = vec![Step::Gold; rows * columns];
    let mut row = vec![0u32; columns + 1];
    for i in 0..rows {
        let mut diagonal = 0;
        for j in 0..columns {
            let (above, before) = (row[j + 1], row[j]);
            (row[j + 1], steps[i * columns + j]) = if gold[i] == answer[j] {
                (diagonal + 1, Step::Both)
            } else if before > above {
                (before, Step::Answer)
            } else {
                (above, Step::Gold)
            };
            diagonal = above;
        }
    }
    let (mut i, mut j) = (rows, columns);
    let mut shared = Vec::new();
    while i > 0 && j > 0 {
        match steps[(i - 1) * columns + j - 1] {
            Step::Both => {
                shared.push(i - 1);
                (i, j) = (i - 1, j - 1);
            }
            Step::Answer => j -= 1,
            Step::Gold => i -= 1,
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_match_in_any_order() {
        let (gold, answer) = ("no effusion\nheart is normal", "heart normal\nno effusion");
        assert!((rouge_lsum(gold, answer, plain) - 8.0 / 9.0).abs() < 1e-12);
        assert_eq!(rouge_lsum("", "\n\n", plain), 0.0);
    }

    #[test]
    fn a_word_counts_no_more_often_than_the_answer_has_it() {
        // Both gold lines share "pain", which the answer has once.
        assert!((rouge_lsum("pain\npain", "pain", plain) - 2.0 / 3.0).abs() < 1e-12);
    }
}
