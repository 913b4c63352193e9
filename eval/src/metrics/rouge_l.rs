//! ROUGE-L (Lin 2004) as the `rouge_score` package computes it, without stemming: F-measure of
//! the longest common subsequence of words. Words are runs of a-z and 0-9 after lower-casing.

use super::{Answered, Metric, Needs, Tally, mean, one_value};

pub(super) const ROUGE_L: Metric = Metric {
    name: "rouge_l",
    about: "mean F-measure of the longest common subsequence of words with the gold text",
    needs: Needs::Text,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    one_value(item.answer.map_or(0.0, |answer| rouge_l(item.gold, answer)))
}

fn rouge_l(gold: &str, answer: &str) -> f64 {
    let (gold, answer) = (words(gold), words(answer));
    if gold.is_empty() || answer.is_empty() {
        return 0.0;
    }
    2.0 * longest_common_subsequence(&gold, &answer) as f64 / (gold.len() + answer.len()) as f64
}

fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect()
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_order_of_words() {
        // "the quick fox" within "the fox, quick": LCS 2 of 3 and 3.
        assert!((rouge_l("the quick fox", "The fox, QUICK") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(rouge_l("no acute disease", "no acute disease."), 1.0);
        assert_eq!(rouge_l("", "anything"), 0.0);
        assert_eq!(rouge_l("été", "--"), 0.0);
    }
}
