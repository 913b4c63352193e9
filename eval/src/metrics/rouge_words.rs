//! Words as the `rouge_score` package cuts them, and the parts that its measures share.
//!
//! Words are runs of a-z and 0-9 after lower-casing. With stemming, words of more than three
//! letters are reduced to their stems ([`porter`](super::porter)).

use super::porter::stem;
use super::{Answered, Tally, one_value};

/// How a text becomes words.
pub(super) type Words = fn(&str) -> Vec<String>;

/// Words as they stand.
pub(super) fn plain(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect()
}

/// Stems of words.
pub(super) fn stemmed(text: &str) -> Vec<String> {
    let mut words = plain(text);
    for word in words.iter_mut().filter(|word| word.len() > 3) {
        *word = stem(word);
    }
    words
}

/// What one item adds: the measure of the extracted answer, 0 where there is none.
pub(super) fn of_answer(
    item: &Answered<'_>,
    words: Words,
    measure: fn(gold: &str, answer: &str, words: Words) -> f64,
) -> Vec<(String, Tally)> {
    one_value(
        item.answer
            .map_or(0.0, |answer| measure(item.gold, answer, words)),
    )
}

/// F-measure of `hits` common units in texts of this many units.
pub(super) fn f_measure(hits: usize, gold: usize, answer: usize) -> f64 {
    // 2PR / (P + R) with P = hits/answer and R = hits/gold.
    if gold + answer == 0 {
        return 0.0;
    }
    2.0 * hits as f64 / (gold + answer) as f64
}

/// Length of the longest common subsequence.
pub(super) fn common_subsequence(a: &[String], b: &[String]) -> usize {
    // One row of the table is enough for the length.
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}
