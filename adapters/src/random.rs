//! Seeded numbers for fresh weights: a pure function of (seed, tensor name, element), so that the order in which
//! tensors are made, and the number of threads, change nothing.
//!
//! Element i of a stream is SplitMix64's i-th output (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014), its state being a hash of seed and name; normal numbers come by Box and Muller's transform with
//! libm's ln and cos, which give the same digits on every machine.

use kernels::Uniform;
use ledger::hash::Sha256;
use rayon::prelude::*;

/// One named stream of numbers.
#[derive(Clone, Copy)]
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(name);
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Stream(u64::from_le_bytes(first))
    }

    /// The numbers of [`kernels::fill_uniform`] from place `start` on, with this standard deviation.
    pub(crate) fn uniform_list(self, start: usize, std: f64) -> Uniform {
        Uniform {
            seed: self.0,
            offset: start as u64,
            scale: (std * 3f64.sqrt()) as f32,
        }
    }

    fn bits(self, i: u64) -> u64 {
        let mut z = self
            .0
            .wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Element `i` uniform in (0, 1): never 0, whose logarithm a normal number would need.
    pub(crate) fn uniform(self, i: u64) -> f64 {
        ((self.bits(i) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// `count` numbers uniform in (-bound, bound).
    pub(crate) fn uniforms(self, count: usize, bound: f64) -> Vec<f64> {
        (0..count)
            .into_par_iter()
            .map(|i| (2.0 * self.uniform(i as u64) - 1.0) * bound)
            .collect()
    }

    /// Elements `first..first + out.len()` of a normal sequence with mean 0; `first` must be even.
    pub(crate) fn normals(self, first: usize, std: f64, out: &mut [f32]) {
        debug_assert!(first.is_multiple_of(2));
        for (pair, values) in out.chunks_mut(2).enumerate() {
            let i = (first + 2 * pair) as u64;
            let radius = std * libm::sqrt(-2.0 * libm::log(self.uniform(i)));
            let angle = std::f64::consts::TAU * self.uniform(i + 1);
            values[0] = (radius * libm::cos(angle)) as f32;
            if let Some(second) = values.get_mut(1) {
                *second = (radius * libm::sin(angle)) as f32;
            }
        }
    }
}

/// A stable number for a module's name, for dropout masks.
pub(crate) fn module_number(name: &str) -> u64 {
    Stream::new(0, name).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_parts_of_the_whole() {
        let stream = Stream::new(7, "model.layers.0.mlp.up_proj.weight");
        let mut whole = vec![0.0; 101];
        stream.normals(0, 0.02, &mut whole);
        let mut piece = vec![0.0; 41];
        stream.normals(60, 0.02, &mut piece);
        assert_eq!(whole[60..], piece[..]);
        let other = Stream::new(7, "model.layers.1.mlp.up_proj.weight");
        other.normals(0, 0.02, &mut piece);
        assert!(piece.iter().zip(&whole).all(|(a, b)| a != b));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let stream = Stream::new(1, "x");
        let mut normal = vec![0.0; 200_000];
        stream.normals(0, 3.0, &mut normal);
        let n = normal.len() as f64;
        let mean = normal.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = normal
            .iter()
            .map(|x| (f64::from(*x) - mean).powi(2))
            .sum::<f64>()
            / n;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 9.0).abs() < 0.1, "{variance}");
        let uniform = stream.uniforms(200_000, 0.5);
        let square = uniform.iter().map(|x| x * x).sum::<f64>() / n;
        assert!((square - 0.25 / 3.0).abs() < 1e-3, "{square}");
        assert!(uniform.iter().all(|x| x.abs() < 0.5));
    }

    /// A change here changes every model made from a seed.
    #[test]
    fn the_sequence_is_pinned() {
        let mut values = [0.0; 4];
        Stream::new(42, "model.embed_tokens.weight").normals(0, 1.0, &mut values);
        insta::assert_debug_snapshot!(values, @r"
        [
            0.9569595,
            0.14020146,
            -0.63587,
            -0.8501592,
        ]
        ");
    }
}
