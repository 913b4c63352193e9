//! TIES and DARE: combining tensors number by number.
//!
//! Trimming, electing signs and the mean over those that agree: Yadav et al., "TIES-Merging: Resolving Interference When
//! Merging Models", 2023. Dropping at random and rescaling: Yu et al., "Language Models are Super Mario: Absorbing
//! Abilities from Homologous Models as a Free Lunch" (DARE), 2023. Where a weight comes in, and that signs are elected
//! before weights apply, is as in PEFT (`peft/utils/merge_utils.py`), so that results can be compared.

use crate::random::Stream;
use rayon::prelude::*;

/// Numbers of a piece that one task takes.
const PIECE: usize = 1 << 14;

/// Sets all to zero but the `⌊density · n⌋` numbers of the largest magnitude; among equals the first ones stay.
pub(super) fn trim(values: &mut [f32], density: f64) {
    let keep = (density * values.len() as f64) as usize;
    if keep >= values.len() {
        return;
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    let threshold = match keep {
        0 => f32::INFINITY,
        _ => {
            *magnitudes
                .select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a))
                .1
        }
    };
    let larger = values.iter().filter(|x| x.abs() > threshold).count();
    let mut equal = keep.saturating_sub(larger);
    for x in values {
        let stays = x.abs() > threshold || (x.abs() == threshold && equal > 0);
        if x.abs() == threshold {
            equal = equal.saturating_sub(1);
        }
        if !stays {
            *x = 0.0;
        }
    }
}

/// Sets each number to zero with probability 1 - density and divides the others by the density. Whether number i stays
/// is a function of the stream and i alone.
pub(super) fn drop_and_rescale(values: &mut [f32], density: f64, stream: Stream) {
    let pieces = values.par_chunks_mut(PIECE).enumerate();
    pieces.for_each(|(piece, values)| {
        for (i, x) in values.iter_mut().enumerate() {
            let kept = stream.uniform((piece * PIECE + i) as u64) < density;
            *x = if kept {
                (f64::from(*x) / density) as f32
            } else {
                0.0
            };
        }
    });
}

/// Σ wᵢ xᵢ, in f64.
pub(super) fn weighted_sum(tensors: &[Vec<f32>], weights: &[f64]) -> Vec<f64> {
    each(tensors, |at| {
        let terms = tensors.iter().zip(weights);
        terms.map(|(t, w)| w * f64::from(t[at])).sum()
    })
}

/// The mean of wᵢ xᵢ over those xᵢ whose sign is that of Σ xᵢ; 0 where there is none.
pub(super) fn elected_mean(tensors: &[Vec<f32>], weights: &[f64]) -> Vec<f64> {
    each(tensors, |at| {
        let sum: f64 = tensors.iter().map(|t| f64::from(t[at])).sum();
        let agrees = |x: f32| if sum >= 0.0 { x > 0.0 } else { x < 0.0 };
        let (mut total, mut count) = (0.0, 0u32);
        for (tensor, weight) in tensors.iter().zip(weights) {
            if agrees(tensor[at]) {
                total += weight * f64::from(tensor[at]);
                count += 1;
            }
        }
        total / f64::from(count.max(1))
    })
}

fn each(tensors: &[Vec<f32>], number: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
    let count = tensors.first().map_or(0, Vec::len);
    let numbers = (0..count).into_par_iter().with_min_len(PIECE);
    numbers.map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_and_the_first_of_equals() {
        let trimmed = |density| {
            let mut x = [0.5, -2.0, 1.0, 0.1, -1.0, 3.0, 1.0];
            trim(&mut x, density);
            x
        };
        // ⌊0.6 · 7⌋ = 4
        assert_eq!(trimmed(0.6), [0.0, -2.0, 1.0, 0.0, -1.0, 3.0, 0.0]);
        assert_eq!(trimmed(0.1), [0.0; 7]);
        assert_eq!(trimmed(0.15), [0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]);
        assert_eq!(trimmed(1.0), [0.5, -2.0, 1.0, 0.1, -1.0, 3.0, 1.0]);
    }

    /// By hand: (0.9, -0.4) elects plus, (0.3, -0.4) minus, and a zero has no say.
    #[test]
    fn signs_are_elected_before_weights_apply() {
        let tensors = [
            vec![0.9, 0.3, 0.0, 0.0],
            vec![-0.4, -0.4, -0.7, 0.0],
            vec![0.5, 0.0, -0.1, 0.0],
        ];
        let found = elected_mean(&tensors, &[2.0, 10.0, -1.0]);
        for (found, wanted) in found
            .iter()
            .zip([(1.8 - 0.5) / 2.0, -4.0, (-7.0 + 0.1) / 2.0, 0.0])
        {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        let sum = weighted_sum(&tensors, &[2.0, 10.0, -1.0]);
        assert!((sum[0] - (1.8 - 4.0 - 0.5)).abs() < 1e-6);
    }

    #[test]
    fn dropping_keeps_the_share_and_the_expectation() {
        let n = 200_003;
        for density in [0.1, 0.5, 0.93] {
            let mut x = vec![1.5f32; n];
            drop_and_rescale(&mut x, density, Stream::new(4, "dare"));
            let kept: Vec<f32> = x.iter().copied().filter(|x| *x != 0.0).collect();
            let share = kept.len() as f64 / n as f64;
            // Six standard deviations of a binomial share.
            let sigma = (density * (1.0 - density) / n as f64).sqrt();
            assert!((share - density).abs() < 6.0 * sigma, "{share}");
            assert!(
                kept.iter()
                    .all(|x| (f64::from(*x) - 1.5 / density).abs() < 1e-6 / density)
            );
            let neighbours = x.windows(2).filter(|w| w[0] != 0.0 && w[1] != 0.0).count();
            let both = neighbours as f64 / (n - 1) as f64;
            assert!((both - density * density).abs() < 0.01, "{both}");
        }
    }

    #[test]
    fn masks_depend_on_the_stream_and_on_nothing_else() {
        let with = |threads, name| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let mut x = vec![1.0f32; 100_003];
            pool.unwrap()
                .install(|| drop_and_rescale(&mut x, 0.3, Stream::new(4, name)));
            x
        };
        assert_eq!(with(1, "a"), with(3, "a"));
        assert_ne!(with(1, "a"), with(1, "b"));
    }
}
