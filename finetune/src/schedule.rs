//! The learning rate of each step.

use crate::recipe::{Schedule, TrainSection};

/// Learning rate of `step` (0-based) of `total`.
///
/// The formulas are transformers' `get_{cosine,linear,constant}_schedule_with_warmup`, so the first step of a run
/// with warm-up has rate 0, as theirs has. `min_lr_ratio` raises the end as `cosine_with_min_lr` does.
pub fn learning_rate(settings: &TrainSection, step: u64, total: u64) -> f64 {
    let warmup = warmup_steps(settings, total);
    if step < warmup {
        return settings.learning_rate * step as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (total.saturating_sub(warmup)).max(1) as f64;
    let share = match settings.schedule {
        Schedule::Constant => return settings.learning_rate,
        Schedule::Linear => (1.0 - progress).max(0.0),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()).max(0.0),
    };
    let floor = settings.min_lr_ratio;
    settings.learning_rate * (floor + (1.0 - floor) * share)
}

/// Steps over which the rate rises: `ceil(total * warmup_ratio)`, as transformers rounds it.
pub fn warmup_steps(settings: &TrainSection, total: u64) -> u64 {
    (total as f64 * settings.warmup_ratio).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_matches_transformers() {
        // get_cosine_schedule_with_warmup(opt, 4, 20), lr 1e-3: get_last_lr() before steps 0, 2, 4, 12, 19.
        let settings = TrainSection {
            learning_rate: 1e-3,
            warmup_ratio: 0.2,
            ..Default::default()
        };
        for (step, expected) in [
            (0, 0.0),
            (2, 5e-4),
            (4, 1e-3),
            (12, 5e-4),
            (19, 9.607359798384785e-6),
        ] {
            assert!(
                (learning_rate(&settings, step, 20) - expected).abs() < 1e-15,
                "step {step}"
            );
        }
    }

    #[test]
    fn a_floor_raises_the_end_and_constant_stays() {
        let linear = TrainSection {
            schedule: Schedule::Linear,
            min_lr_ratio: 0.1,
            warmup_ratio: 0.0,
            learning_rate: 1.0,
            ..Default::default()
        };
        assert_eq!(learning_rate(&linear, 5, 10), 0.1 + 0.9 * 0.5);
        let constant = TrainSection {
            schedule: Schedule::Constant,
            ..linear
        };
        assert_eq!(learning_rate(&constant, 9, 10), 1.0);
    }
}
