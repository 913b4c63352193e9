//! Random choices that are the same bytes on every machine and in every year.
//!
//! Each draw is a pure function of (seed, purpose, key): no state, so no order
//! of calls or number of threads can change it, and a record's draw does not
//! depend on the records before it. `rand` is not used, because its generators
//! and the ways it draws from them are not promised across versions, while a
//! data set must build to the same bytes for ever.
//!
//! The mixing function is SplitMix64's finalizer (Steele, Lea and Flood 2014,
//! with Stafford's variant 13 constants), absorbed over the key eight bytes at
//! a time. It is not cryptographic and need not be.

/// A source of draws for one purpose.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// Draws for `purpose` (a short fixed name), independent of those for any
    /// other purpose or seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self {
            state: absorb(mix(seed), purpose.as_bytes()),
        }
    }

    /// The draw of a text key, such as a record's id.
    pub fn of(&self, key: &str) -> u64 {
        absorb(self.state, key.as_bytes())
    }

    /// The draw of a number.
    pub fn at(&self, number: u64) -> u64 {
        mix(self.state ^ mix(number))
    }
}

/// A shuffled order of 0..n, another one for each `stream` (an epoch's number).
pub fn shuffled(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let draws = Draws {
        state: Draws::new(seed, "shuffle").at(stream),
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_cached_key(|&i| (draws.at(i as u64), i));
    order
}

/// SplitMix64's finalizer: a one-to-one mixing of 64 bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn absorb(state: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).fold(state, |state, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(state ^ u64::from_le_bytes(word))
    });
    // The length tells a short key from the same key with zero bytes behind it.
    mix(words ^ bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // If these change, every data set built with a seed changes.
    #[test]
    fn draws_are_fixed_for_ever() {
        let draws = Draws::new(7, "validation");
        insta::assert_debug_snapshot!(
            [draws.of("a/1"), draws.of("a/2"), draws.of(""), draws.at(0), draws.at(1)],
        @r"
        [
            859549370897802835,
            14834360399304447071,
            15465285391732948332,
            15119997119637574303,
            3763082253231490603,
        ]
        ");
        assert_eq!(shuffled(8, 7, 0), [1, 0, 2, 4, 7, 6, 5, 3]);
    }

    #[test]
    fn a_shuffle_moves_everything_about_evenly() {
        let n = 4096;
        let order = shuffled(n, 3, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        // The mean distance moved in a random permutation is n/3.
        let moved: usize = order.iter().enumerate().map(|(i, &j)| i.abs_diff(j)).sum();
        assert!((moved as f64 / n as f64 - n as f64 / 3.0).abs() < n as f64 / 50.0);
        assert_ne!(order, shuffled(n, 4, 0));
        assert_ne!(order, shuffled(n, 3, 1));
    }

    #[test]
    fn draws_fill_their_range_evenly() {
        let draws = Draws::new(0, "test");
        let mut buckets = [0u32; 16];
        for i in 0..16_000 {
            buckets[(draws.of(&format!("source/{i}")) >> 60) as usize] += 1;
        }
        assert!(
            buckets.iter().all(|&count| (850..1150).contains(&count)),
            "{buckets:?}"
        );
    }
}
