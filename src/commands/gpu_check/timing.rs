//! How long a device takes for something.

use std::time::Instant;

use anyhow::Result;
use kernels::Device;

/// Seconds of one call: the median of some rounds, and the fastest and the slowest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// Rounds of which the median counts.
const ROUNDS: usize = 9;
/// A round takes so long, so that starting and ending it count for nothing.
const ROUND_SECS: f64 = 0.05;

impl Timing {
    /// Of the seconds of some rounds.
    pub fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let n = rounds.len();
        Self {
            median: match n % 2 {
                1 => rounds[n / 2],
                _ => (rounds[n / 2 - 1] + rounds[n / 2]) / 2.0,
            },
            least: rounds[0],
            most: rounds[n - 1],
        }
    }

    /// Units a second, for so many units a call.
    pub fn rate(&self, units: f64) -> f64 {
        units / self.median
    }

    /// Half of the spread, in percent of the median.
    pub fn spread(&self) -> String {
        let percent = 50.0 * (self.most - self.least) / self.median;
        format!("± {percent:.1} %")
    }
}

/// Times a call, whose work may still be under way when it returns. A tiny one is called twice in all.
pub fn time(device: &Device, tiny: bool, mut call: impl FnMut() -> Result<()>) -> Result<Timing> {
    let wait = || -> Result<()> { Ok(device.synchronize()?) };
    call()?;
    wait()?;
    let mut round = |calls: usize| -> Result<f64> {
        let started = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        wait()?;
        Ok(started.elapsed().as_secs_f64() / calls as f64)
    };
    if tiny {
        return Ok(Timing::of(vec![round(1)?]));
    }
    // The first tells how many calls a round takes, and lets clocks rise.
    let once = round(3)?;
    let calls = ((ROUND_SECS / once.max(1e-9)).ceil() as usize).clamp(1, 10_000);
    let rounds = (0..ROUNDS)
        .map(|_| round(calls))
        .collect::<Result<Vec<_>>>()?;
    Ok(Timing::of(rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let timing = Timing::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((timing.least, timing.median, timing.most), (1.0, 2.0, 3.0));
        assert_eq!(Timing::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(timing.rate(10.0), 5.0);
        assert_eq!(timing.spread(), "± 50.0 %");
    }

    #[test]
    fn calls_are_counted() -> Result<()> {
        let mut calls = 0;
        time(&Device::Cpu, true, || {
            calls += 1;
            Ok(())
        })?;
        assert_eq!(calls, 2);
        Ok(())
    }
}
