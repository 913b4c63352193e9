//! Python's `random` module, number for number.
//!
//! Published splits are often the output of a Python script with a seed;
//! PubMedQA's is. To have the same split, this repeats CPython 3's generator
//! (MT19937: Matsumoto and Nishimura 1998, seeded as `init_by_array`) and the
//! ways `shuffle` and `choice` draw from it. Nothing else uses it: see
//! [`crate::random`] for the generator of our own splits.

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)` for a non-negative integer seed.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; N],
    index: usize,
}

impl PythonRandom {
    /// `random.seed(seed)`.
    pub fn seed(seed: u64) -> Self {
        // The key is the seed's 32-bit words, lowest first, at least one word.
        let key = [seed as u32, (seed >> 32) as u32];
        let key = if key[1] == 0 { &key[..1] } else { &key[..] };
        Self {
            state: init_by_array(key),
            index: N,
        }
    }

    /// `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// The index that `random.choice` picks from a sequence of `len` items.
    ///
    /// # Panics
    /// `len` is 0, as in Python.
    pub fn choice(&mut self, len: usize) -> usize {
        assert!(len > 0, "cannot choose from an empty sequence");
        self.below(len as u64) as usize
    }

    /// `Random._randbelow_with_getrandbits(n)`, n > 0.
    fn below(&mut self, n: u64) -> u64 {
        let bits = u64::BITS - n.leading_zeros();
        loop {
            let value = self.bits(bits);
            if value < n {
                return value;
            }
        }
    }

    /// `getrandbits(bits)` for 1 to 64 bits: the low word is drawn first.
    fn bits(&mut self, bits: u32) -> u64 {
        if bits <= 32 {
            return u64::from(self.next_u32() >> (32 - bits));
        }
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32() >> (64 - bits)) << 32
    }

    fn next_u32(&mut self) -> u32 {
        if self.index == N {
            self.twist();
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.index = 0;
    }
}

fn init_by_array(key: &[u32]) -> [u32; N] {
    let mut state = [0u32; N];
    state[0] = 19_650_218;
    for i in 1..N {
        let before = state[i - 1];
        state[i] = 1_812_433_253u32
            .wrapping_mul(before ^ (before >> 30))
            .wrapping_add(i as u32);
    }
    let mixed = |state: &[u32; N], i: usize, factor: u32| {
        let before = state[i - 1];
        state[i] ^ (before ^ (before >> 30)).wrapping_mul(factor)
    };
    let (mut i, mut j) = (1, 0);
    for _ in 0..N.max(key.len()) {
        state[i] = mixed(&state, i, 1_664_525)
            .wrapping_add(key[j])
            .wrapping_add(j as u32);
        i += 1;
        j = (j + 1) % key.len();
        if i == N {
            state[0] = state[N - 1];
            i = 1;
        }
    }
    for _ in 0..N - 1 {
        state[i] = mixed(&state, i, 1_566_083_941).wrapping_sub(i as u32);
        i += 1;
        if i == N {
            state[0] = state[N - 1];
            i = 1;
        }
    }
    state[0] = 0x8000_0000;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values printed by CPython 3.11.
    #[test]
    fn draws_as_cpython_does() {
        let mut random = PythonRandom::seed(0);
        let mut items: Vec<u32> = (0..10).collect();
        random.shuffle(&mut items);
        assert_eq!(items, SHUFFLED_0);
        assert_eq!(
            (0..5).map(|_| random.choice(1000)).collect::<Vec<_>>(),
            CHOICES_0
        );
        let mut random = PythonRandom::seed(1 << 40 | 12345);
        assert_eq!(random.bits(32), BITS_LONG_SEED[0]);
        assert_eq!(random.bits(40), BITS_LONG_SEED[1]);
        assert_eq!(random.bits(64), BITS_LONG_SEED[2]);
        assert_eq!(random.bits(1), BITS_LONG_SEED[3]);
    }

    #[test]
    fn keeps_on_after_many_twists() {
        let mut random = PythonRandom::seed(42);
        let sum = (0..5000).fold(0u64, |sum, _| sum.wrapping_add(random.bits(32)));
        assert_eq!(sum, SUM_42);
    }

    const SHUFFLED_0: [u32; 10] = [7, 8, 1, 5, 3, 4, 2, 0, 9, 6];
    const CHOICES_0: [usize; 5] = [366, 597, 913, 929, 223];
    const BITS_LONG_SEED: [u64; 4] = [1332995613, 126054225275, 9843165998419503466, 0];
    const SUM_42: u64 = 10801766015186;
}
