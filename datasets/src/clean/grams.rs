use rayon::prelude::*;

use super::words::for_each_gram;

/// All grams of one length that stand for probes: a sorted list, its index, and
/// a filter that answers most questions from the processor's cache.
#[derive(Debug, Clone)]
pub(super) struct GramTable {
    /// Words in a gram.
    pub(super) words: usize,
    /// In the order of the keys, then of the probes.
    entries: Vec<Entry>,
    /// Where the keys with each beginning start in `entries`.
    starts: Vec<u32>,
    /// The bits of a key to leave out to get its beginning.
    shift: u32,
    /// One bit for each key that is there, at the place its low bits say.
    filter: Vec<u64>,
}

/// A gram of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    key: u64,
    pub(super) probe: u32,
    /// The position of the gram's first word in the probe, and above it whether
    /// it is boilerplate.
    place: u32,
}

const BOILERPLATE: u32 = 1 << 31;

impl Entry {
    /// The gram at `at` of a probe; `evidence` if it says something.
    pub(super) fn new(key: u64, probe: u32, at: usize, evidence: bool) -> Self {
        let place = (at as u32) & !BOILERPLATE;
        Self {
            key,
            probe,
            place: if evidence { place } else { place | BOILERPLATE },
        }
    }

    /// The position of the gram's first word in the probe.
    pub(super) fn at(self) -> usize {
        (self.place & !BOILERPLATE) as usize
    }

    /// Whether a text that has it has something of the probe's own.
    pub(super) fn is_evidence(self) -> bool {
        self.place & BOILERPLATE == 0
    }
}

impl GramTable {
    /// A table of grams of `words` words.
    pub(super) fn new(words: usize, mut entries: Vec<Entry>) -> Self {
        entries.par_sort_unstable();
        let mut table = Self {
            words,
            entries,
            starts: Vec::new(),
            shift: 0,
            filter: Vec::new(),
        };
        table.index();
        table
    }

    fn index(&mut self) {
        let count = self.entries.len();
        let bits = count.next_power_of_two().trailing_zeros().max(1);
        self.shift = 64 - bits;
        self.starts = vec![0; (1 << bits) + 1];
        // Sixteen bits a key: one key in sixteen that is not there passes.
        self.filter = vec![0; (count.next_power_of_two() / 4).max(16)];
        let mask = self.filter.len() as u64 - 1;
        for entry in &self.entries {
            self.starts[(entry.key >> self.shift) as usize + 1] += 1;
            self.filter[(entry.key >> 6 & mask) as usize] |= 1 << (entry.key & 63);
        }
        for at in 1..self.starts.len() {
            self.starts[at] += self.starts[at - 1];
        }
    }

    /// The entries of every gram that `text` (words' hashes) has, each once, in
    /// the order of the table.
    pub(super) fn matches(&self, text: &[u64]) -> Vec<Entry> {
        let mask = self.filter.len() as u64 - 1;
        let mut keys = Vec::new();
        for_each_gram(text, self.words, |_, key| {
            if self.filter[(key >> 6 & mask) as usize] >> (key & 63) & 1 == 1 {
                keys.push(key);
            }
        });
        keys.sort_unstable();
        keys.dedup();
        let of = |key: u64| {
            let beginning = (key >> self.shift) as usize;
            let (from, to) = (self.starts[beginning], self.starts[beginning + 1]);
            self.entries[from as usize..to as usize]
                .iter()
                .filter(move |entry| entry.key == key)
        };
        keys.into_iter().flat_map(of).copied().collect()
    }
}
