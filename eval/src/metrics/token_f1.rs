//! Overlap of the answer's words with the gold answer's, after SQuAD's normalisation.
//!
//! The official SQuAD 2.0 script (Rajpurkar et al. 2018): lower case, ASCII punctuation removed,
//! the articles a, an, the removed, words split at white space; F1 of the two bags of words. If
//! either bag is empty, 1 when both are and 0 otherwise.

use std::collections::HashMap;

use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const TOKEN_F1: Metric = Metric {
    name: "token_f1",
    about: "mean word overlap (F1) with the gold answer after SQuAD normalisation",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    one_value(
        item.answer
            .map_or(0.0, |answer| token_f1(item.gold, answer)),
    )
}

fn token_f1(gold: &str, answer: &str) -> f64 {
    let (gold, answer) = (squad_words(gold), squad_words(answer));
    if gold.is_empty() || answer.is_empty() {
        return f64::from(gold.is_empty() && answer.is_empty());
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    // 2PR / (P + R) with P = common/|answer| and R = common/|gold|.
    2.0 * f64::from(common) / (gold.len() + answer.len()) as f64
}

/// Normalised words of a text.
pub(super) fn squad_words(text: &str) -> Vec<String> {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let mut without_articles = String::with_capacity(kept.len());
    let mut word = String::new();
    for c in kept.chars().chain([' ']) {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        // `\b(a|an|the)\b` becomes a space: an article may stand against other punctuation.
        match word.as_str() {
            "a" | "an" | "the" => without_articles.push(' '),
            _ => without_articles.push_str(&word),
        }
        word.clear();
        without_articles.push(c);
    }
    without_articles
        .split(is_python_space)
        .filter(|w| !w.is_empty())
        .map(String::from)
        .collect()
}

/// What Python's `str.split()` splits at: Unicode white space and the four ASCII separators.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_squad_does() {
        assert_eq!(
            squad_words("The patient's  heart-rate, a \"rise\"."),
            ["patients", "heartrate", "rise"]
        );
        assert_eq!(
            squad_words("“a” theory and an_other"),
            ["“", "”", "theory", "and", "another"]
        );
        assert!(squad_words("The. A? An!").is_empty());
    }

    #[test]
    fn counts_repeated_words_once_each() {
        assert!((token_f1("pain pain chest", "pain in chest") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(token_f1("the", "a"), 1.0);
        assert_eq!(token_f1("aspirin", "the"), 0.0);
    }
}
