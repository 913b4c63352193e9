//! Whether the model's confidence can be believed: expected calibration error and Brier score.
//!
//! An option's probability is the softmax of the options' summed log-probabilities: how likely it is
//! among the options, whatever the picking is normalised by. The error (Naeini et al. 2015; Guo et
//! al. 2017, eq. 3) sorts items into bins of equal width, `(k/M, (k+1)/M]`, by the probability of
//! the option picked, and averages |accuracy - mean confidence| over the bins, weighted by their
//! items. The Brier score (Brier 1950) is the mean over items of the squared distance between all
//! probabilities and the right answer's, between 0 and 2.

use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const ECE_10: Metric = ece::<10>(
    "ece_10",
    "expected calibration error of the picked option, 10 bins; lower is better",
);
pub(super) const ECE_15: Metric = ece::<15>(
    "ece_15",
    "expected calibration error of the picked option, 15 bins; lower is better",
);

const fn ece<const BINS: u32>(name: &'static str, about: &'static str) -> Metric {
    Metric {
        name,
        about,
        needs: Needs::OptionScores,
        family: Family::Corrected,
        higher_is_better: false,
        mark: mark::<BINS>,
        score: calibration_error,
    }
}

pub(super) const BRIER: Metric = Metric {
    name: "brier",
    about: "mean squared error of the options' probabilities, 0 to 2; lower is better",
    needs: Needs::OptionScores,
    family: Family::Corrected,
    higher_is_better: false,
    mark: brier,
    score: mean,
};

/// Confidence, one item, and whether it was right, in the confidence's bin.
fn mark<const BINS: u32>(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let probabilities = probabilities(item);
    let picked = item.answer.and_then(|answer| item.option_index(answer));
    let Some(confidence) = picked.and_then(|index| probabilities.get(index).copied()) else {
        return Vec::new();
    };
    let bin = (1..BINS)
        .filter(|edge| confidence > f64::from(*edge) / f64::from(BINS))
        .count();
    let right = f64::from(item.answer == Some(item.gold));
    vec![(bin.to_string(), [confidence, 1.0, right])]
}

fn calibration_error(totals: &[Tally]) -> f64 {
    let items: f64 = totals.iter().map(|t| t[1]).sum();
    if items == 0.0 {
        return 0.0;
    }
    totals.iter().map(|t| (t[2] - t[0]).abs()).sum::<f64>() / items
}

fn brier(item: &Answered<'_>) -> Vec<(String, Tally)> {
    if item.option_scores.is_empty() {
        return Vec::new();
    }
    let right = item.option_index(item.gold);
    let squares = probabilities(item)
        .into_iter()
        .enumerate()
        .map(|(index, p)| (p - f64::from(right == Some(index))).powi(2));
    one_value(squares.sum())
}

/// Softmax of the options' log-probabilities; even where the model finds none of them possible.
pub(super) fn probabilities(item: &Answered<'_>) -> Vec<f64> {
    let log_probs = item.option_scores.iter().map(|score| score.log_prob);
    let highest = log_probs.clone().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        return vec![1.0 / item.option_scores.len() as f64; item.option_scores.len()];
    }
    let weights: Vec<f64> = log_probs.map(|value| (value - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;
    use crate::OptionScore;

    fn scores(probabilities: &[f64]) -> Vec<OptionScore> {
        let score = |p: &f64| OptionScore {
            log_prob: p.ln(),
            tokens: 1,
            bytes: 1,
            greedy: false,
        };
        probabilities.iter().map(score).collect()
    }

    #[test]
    fn confident_and_wrong_is_the_worst() {
        let options = ["yes", "no"].map(String::from);
        let sure = scores(&[0.09, 0.01]);
        let item = |gold| Answered {
            options: &options,
            gold,
            answer: Some("yes"),
            option_scores: &sure,
            ..Answered::default()
        };
        let score = |metric, golds: &[&'static str]| {
            Marks::new(metric, golds.iter().map(|gold| item(gold))).score()
        };
        assert!((score(&ECE_10, &["yes", "no"]) - 0.4).abs() < 1e-12);
        assert!((score(&ECE_15, &["no"]) - 0.9).abs() < 1e-12);
        assert!((score(&BRIER, &["yes"]) - 0.02).abs() < 1e-12);
        assert!((score(&BRIER, &["no"]) - 1.62).abs() < 1e-12);
    }

    #[test]
    fn impossible_options_share_evenly() {
        let options = ["a", "b"].map(String::from);
        let none = scores(&[0.0, 0.0]);
        let item = Answered {
            options: &options,
            gold: "a",
            answer: Some("a"),
            option_scores: &none,
            ..Answered::default()
        };
        assert_eq!(Marks::new(&BRIER, [item].into_iter()).score(), 0.5);
    }
}
