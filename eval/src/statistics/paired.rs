//! Two models on the same items: is the difference more than chance?

use serde::{Deserialize, Serialize};

/// How a score changed, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedChange {
    /// After minus before, over all items.
    pub value: f64,
    /// Its 95 % interval, paired by item.
    pub interval: super::Interval,
    /// Two-sided p-value of the paired bootstrap.
    pub p: f64,
}

/// The p-value of a change from its values on the resamples: how often a resample strays from the
/// change by as much as the change strays from zero (the bootstrap test of Efron and Tibshirani
/// 1993, section 16.4, on paired items), with one added to both counts so that it is never zero.
pub(super) fn p_of(value: f64, resampled: &[f64]) -> f64 {
    // Sums in another order may differ in their last digits, which must not decide a tie.
    let far = |change: &&f64| (**change - value).abs() >= value.abs() - 1e-12;
    (1 + resampled.iter().filter(far).count()) as f64 / (1 + resampled.len()) as f64
}

/// With fewer discordant items than this, McNemar's test is exact.
pub const EXACT_BELOW: usize = 25;

/// McNemar's test (1947): of the items that only one of two models has right, are they as often the
/// one's as the other's?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Items that only the first model has right.
    pub only_before: usize,
    /// Items that only the second model has right.
    pub only_after: usize,
    /// Whether the p-value is the binomial's; otherwise it is the chi-squared one's with continuity
    /// correction (Edwards 1948).
    pub exact: bool,
    /// The smaller of the two counts where exact, else chi-squared with one degree of freedom.
    pub statistic: f64,
    /// Two-sided p-value.
    pub p: f64,
}

impl McNemar {
    /// Tests the two counts of discordant items.
    pub fn new(only_before: usize, only_after: usize) -> McNemar {
        let (fewer, more) = (only_before.min(only_after), only_before.max(only_after));
        let discordant = fewer + more;
        let exact = discordant < EXACT_BELOW;
        let (statistic, p) = if exact {
            (
                fewer as f64,
                (2.0 * binomial_at_most(fewer, discordant)).min(1.0),
            )
        } else {
            // The correction must not make a difference of equal counts.
            let difference = (more - fewer).saturating_sub(1) as f64;
            let chi_squared = difference * difference / discordant as f64;
            (chi_squared, libm::erfc((chi_squared / 2.0).sqrt()))
        };
        McNemar {
            only_before,
            only_after,
            exact,
            statistic,
            p,
        }
    }
}

/// The probability of at most `k` heads in `n` tosses of a fair coin, for n below [`EXACT_BELOW`]:
/// every term is a whole number below 2^53.
fn binomial_at_most(k: usize, n: usize) -> f64 {
    let (mut term, mut sum) = (1.0, 0.0);
    for i in 0..=k {
        sum += term;
        term = term * (n - i) as f64 / (i + 1) as f64;
    }
    sum / (1u64 << n) as f64
}

/// Holm's step-down adjustment (1979): each p-value such that comparing it with a level keeps the
/// chance of any false finding among all of them below that level. In the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut highest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        let factor = (p_values.len() - rank) as f64;
        highest = highest.max((factor * p_values[index]).min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}
