//! How sure a score is: bootstrap intervals, and paired differences between two models.
//!
//! The percentile bootstrap (Efron 1979): items are drawn with replacement as many times as there
//! are items, the metric is computed on each such resample, and the 2.5th and 97.5th percentiles
//! bound the 95 % interval. Draws come from a counter-based generator, so they depend on the seed
//! and nothing else, and two models marked on the same items share their draws: their difference
//! is taken resample by resample.

mod paired;

use datasets::random::Draws;
use serde::{Deserialize, Serialize};

use crate::metrics::Marks;

pub use paired::{EXACT_BELOW, McNemar, PairedChange, holm};

/// How intervals are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many resamples are drawn.
    pub resamples: usize,
    /// The generator's seed.
    pub seed: u64,
}

/// What the intervals cover.
pub const CONFIDENCE: f64 = 0.95;

/// A 95 % interval; `[low, high]` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl From<[f64; 2]> for Interval {
    fn from([low, high]: [f64; 2]) -> Self {
        Interval { low, high }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

impl Bootstrap {
    /// Interval of a score. `None` where there is nothing to resample.
    pub fn interval(&self, marks: &Marks) -> Option<Interval> {
        self.interval_of(marks.items.len(), |items| {
            marks.score_of(items.iter().copied())
        })
    }

    /// As [`Bootstrap::interval`], of any score of a list of item numbers, which may repeat.
    pub fn interval_of(&self, items: usize, score: impl Fn(&[usize]) -> f64) -> Option<Interval> {
        let mut scores = self.resampled(items, score)?;
        Some(interval_of_sorted(&mut scores))
    }

    /// The change from one model's score to another's on the same `items` items: its interval and
    /// its p-value. `None` where there is nothing to resample.
    pub fn change_of(
        &self,
        items: usize,
        before: impl Fn(&[usize]) -> f64,
        after: impl Fn(&[usize]) -> f64,
    ) -> Option<PairedChange> {
        let all: Vec<usize> = (0..items).collect();
        let value = after(&all) - before(&all);
        let mut changes = self.resampled(items, |drawn| after(drawn) - before(drawn))?;
        let p = paired::p_of(value, &changes);
        let interval = interval_of_sorted(&mut changes);
        Some(PairedChange { value, interval, p })
    }

    /// The score on every resample, in the order drawn.
    fn resampled(&self, items: usize, score: impl Fn(&[usize]) -> f64) -> Option<Vec<f64>> {
        if items == 0 || self.resamples == 0 {
            return None;
        }
        let draws = Draws::new(self.seed, "bootstrap");
        let mut drawn = vec![0; items];
        let scores = (0..self.resamples as u64).map(|resample| {
            for (draw, item) in (resample * items as u64..).zip(&mut drawn) {
                *item = below(items, draws.at(draw));
            }
            score(&drawn)
        });
        Some(scores.collect())
    }
}

fn interval_of_sorted(scores: &mut [f64]) -> Interval {
    scores.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Interval {
        low: percentile(scores, tail),
        high: percentile(scores, 1.0 - tail),
    }
}

/// The numbers of at most `count` items, in their order. An item's draw depends on its id alone, so
/// a smaller count takes a part of what a larger one takes.
pub(crate) fn sample(ids: &[&str], count: usize, seed: u64) -> Vec<usize> {
    let draws = Draws::new(seed, "items");
    let mut items: Vec<usize> = (0..ids.len()).collect();
    items.sort_by_cached_key(|&item| (draws.of(ids[item]), item));
    items.truncate(count);
    items.sort_unstable();
    items
}

/// Sorted values' quantile, linear between neighbours (numpy's default).
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// A number below `bound`, by the high half of a product.
fn below(bound: usize, bits: u64) -> usize {
    ((u128::from(bits) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Answered, MetricName};

    fn accuracy(right: usize, total: usize) -> Marks {
        let metric = MetricName::find("accuracy").unwrap();
        let answered = (0..total).map(|i| Answered {
            gold: "yes",
            answer: Some(if i < right { "yes" } else { "no" }),
            ..Answered::default()
        });
        Marks::new(&metric, answered)
    }

    const BOOTSTRAP: Bootstrap = Bootstrap {
        resamples: 1000,
        seed: 7,
    };

    #[test]
    fn the_interval_of_a_proportion_is_about_two_standard_errors() {
        let interval = BOOTSTRAP.interval(&accuracy(300, 500)).unwrap();
        let error = 1.96 * (0.6f64 * 0.4 / 500.0).sqrt();
        assert!((interval.low - (0.6 - error)).abs() < 0.006, "{interval:?}");
        assert!(
            (interval.high - (0.6 + error)).abs() < 0.006,
            "{interval:?}"
        );
    }

    fn change(before: &Marks, after: &Marks) -> PairedChange {
        let score = |marks: &Marks, items: &[usize]| marks.score_of(items.iter().copied());
        BOOTSTRAP
            .change_of(
                before.items.len(),
                |items| score(before, items),
                |items| score(after, items),
            )
            .unwrap()
    }

    #[test]
    fn a_change_on_the_same_items_is_surer_than_its_parts() {
        let (before, after) = (accuracy(300, 500), accuracy(320, 500));
        let paired = change(&before, &after);
        assert!((paired.value - 0.04).abs() < 1e-12);
        let Interval { low, high } = paired.interval;
        assert!(low > 0.0 && high < 0.08, "{paired:?}");
        assert!(paired.p < 0.01, "{paired:?}");
        let same = change(&before, &before);
        assert_eq!((same.interval.low, same.interval.high), (0.0, 0.0));
        assert_eq!(same.p, 1.0);
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let marks = accuracy(300, 500);
        assert_eq!(BOOTSTRAP.interval(&marks), BOOTSTRAP.interval(&marks));
        let other = Bootstrap {
            seed: 8,
            ..BOOTSTRAP
        };
        assert_ne!(BOOTSTRAP.interval(&marks), other.interval(&marks));
    }

    #[test]
    fn nothing_to_resample_has_no_interval() {
        assert_eq!(BOOTSTRAP.interval(&accuracy(0, 0)), None);
    }

    #[test]
    fn percentiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0];
        // numpy.quantile([1, 2, 4, 8], [0.025, 0.5, 0.975])
        assert!((percentile(&values, 0.025) - 1.075).abs() < 1e-12);
        assert_eq!(percentile(&values, 0.5), 3.0);
        assert!((percentile(&values, 0.975) - 7.7).abs() < 1e-12);
    }

    #[test]
    fn samples_are_nested_and_in_order() {
        let ids: Vec<String> = (0..500).map(|i| format!("pubmedqa/{i}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (ten, twenty) = (sample(&ids, 10, 1), sample(&ids, 20, 1));
        assert!(ten.is_sorted() && ten.len() == 10);
        assert!(ten.iter().all(|item| twenty.contains(item)));
        assert_ne!(ten, sample(&ids, 10, 2));
        assert_eq!(sample(&ids[..3], 10, 1), [0, 1, 2]);
    }
}
