//! How surprised the model is by the gold answer: exp of its mean negative log-probability per
//! token, per word or per byte.
//!
//! Tokens are the model's own, so the first compares only models with one tokenizer; words (between
//! white space) and UTF-8 bytes compare all, as lm-evaluation-harness' `word_perplexity` and
//! `byte_perplexity`. All items are pooled: long answers weigh more.

use super::{Answered, Family, Metric, Needs, Tally};

const fn perplexity(
    name: &'static str,
    about: &'static str,
    mark: fn(&Answered<'_>) -> Vec<(String, Tally)>,
) -> Metric {
    Metric {
        name,
        about,
        needs: Needs::GoldScore,
        family: Family::Corrected,
        higher_is_better: false,
        mark,
        score,
    }
}

pub(super) const TOKEN_PERPLEXITY: Metric = perplexity(
    "token_perplexity",
    "exp of the gold answer's mean loss per token; lower is better",
    |item| mark(item, |_, tokens| tokens),
);

pub(super) const WORD_PERPLEXITY: Metric = perplexity(
    "word_perplexity",
    "exp of the gold answer's loss per word; lower is better",
    |item| mark(item, |gold, _| gold.split_whitespace().count()),
);

pub(super) const BYTE_PERPLEXITY: Metric = perplexity(
    "byte_perplexity",
    "exp of the gold answer's loss per byte; lower is better",
    |item| mark(item, |gold, _| gold.len()),
);

/// The summed loss of the gold option, and how many units it has.
fn mark(item: &Answered<'_>, units: fn(&str, usize) -> usize) -> Vec<(String, Tally)> {
    let gold = item.option_index(item.gold);
    match gold.and_then(|index| item.option_scores.get(index)) {
        Some(score) => {
            let units = units(item.gold, score.tokens) as f64;
            vec![(String::new(), [-score.log_prob, units, 0.0])]
        }
        None => Vec::new(),
    }
}

fn score(totals: &[Tally]) -> f64 {
    let loss: f64 = totals.iter().map(|t| t[0]).sum();
    let units: f64 = totals.iter().map(|t| t[1]).sum();
    if units == 0.0 {
        return f64::INFINITY;
    }
    (loss / units).exp()
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;
    use crate::OptionScore;

    #[test]
    fn items_are_pooled() {
        let options = ["yes".to_owned(), "no way".to_owned()];
        let scores = [(-1.0, 1), (-3.0, 4)].map(|(log_prob, tokens)| OptionScore {
            log_prob,
            tokens,
            bytes: 0,
            greedy: false,
        });
        let items = ["yes", "no way"].map(|gold| Answered {
            options: &options,
            gold,
            option_scores: &scores,
            ..Answered::default()
        });
        let score = |metric| Marks::new(metric, items.into_iter()).score();
        assert!((score(&TOKEN_PERPLEXITY) - (4.0f64 / 5.0).exp()).abs() < 1e-12);
        assert!((score(&WORD_PERPLEXITY) - (4.0f64 / 3.0).exp()).abs() < 1e-12);
        assert!((score(&BYTE_PERPLEXITY) - (4.0f64 / 9.0).exp()).abs() < 1e-12);
    }
}
