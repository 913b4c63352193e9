use super::words::{for_each_gram, for_each_word};
use crate::random::mix;

/// The most shingles that a [`Sketch`] holds.
pub const SKETCH_VALUES: usize = 256;

/// Makes [`Sketch`]es.
#[derive(Debug, Clone, Copy)]
pub struct Sketcher {
    shingle_words: usize,
}

/// What is kept of a text to compare it with others: 32 bytes and 4 more for
/// each shingle, 1,056 at most.
///
/// The shingles of a text are the sets of words in a row (Broder 1997, "On the
/// resemblance and containment of documents"); a text with fewer words than a
/// shingle has is one shingle. Two texts are as similar as their sets: the
/// Jaccard index, |A ∩ B| / |A ∪ B|.
///
/// The sketch is the bottom-k MinHash of the set: the [`SKETCH_VALUES`] smallest
/// of the shingles' 32-bit hashes. A set with fewer shingles is there as a
/// whole, so texts of up to about 260 words are compared exactly (but for equal
/// hashes of different shingles, about one in 10^5 pairs of texts). Longer ones
/// are compared by a sample: the standard deviation of their similarity J is
/// sqrt(J (1 - J) / 256), 0.025 at 0.8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// The words in their order. Two lanes, so that not even a billion texts
    /// have two that are the same by chance.
    pub(super) exact: [u64; 2],
    /// In ascending order, each once.
    pub(super) values: Box<[u32]>,
}

impl Sketcher {
    /// Sketches by shingles of `shingle_words` words (at least one).
    pub fn new(shingle_words: usize) -> Self {
        Self {
            shingle_words: shingle_words.max(1),
        }
    }

    /// The sketch of `text`.
    pub fn sketch(&self, text: &str) -> Sketch {
        self.sketch_parts([text])
    }

    /// The sketch of several texts as if they were one, with space between them.
    pub fn sketch_parts<'t>(&self, parts: impl IntoIterator<Item = &'t str>) -> Sketch {
        let mut words = Vec::with_capacity(256);
        let mut bytes = [0; 2];
        for part in parts {
            for_each_word(part, |word| words.push(word));
            if words.is_empty() {
                bytes = part.bytes().fold(bytes, |lanes, b| absorb(lanes, b.into()));
            }
        }
        if words.is_empty() {
            // Nothing of such a text is folded away: "?" is not "!".
            return Sketch {
                exact: absorb(bytes, u64::MAX),
                values: Box::default(),
            };
        }
        let lanes = words
            .iter()
            .fold([1, 2], |lanes, &word| absorb(lanes, word));
        Sketch {
            exact: absorb(lanes, words.len() as u64),
            values: self.smallest_shingles(&words),
        }
    }

    fn smallest_shingles(&self, words: &[u64]) -> Box<[u32]> {
        let mut values = Vec::with_capacity(words.len().min(MOST_HELD));
        // No value above it is among the smallest.
        let mut limit = u32::MAX;
        for_each_gram(words, self.shingle_words.min(words.len()), |_, gram| {
            let value = (gram >> 32) as u32;
            if value > limit {
                return;
            }
            values.push(value);
            if values.len() == MOST_HELD {
                keep_smallest(&mut values);
                if values.len() == SKETCH_VALUES {
                    limit = values[SKETCH_VALUES - 1];
                }
            }
        });
        keep_smallest(&mut values);
        values.into_boxed_slice()
    }
}

/// Values that a text of any length holds while it is read.
const MOST_HELD: usize = 4 * SKETCH_VALUES;

fn keep_smallest(values: &mut Vec<u32>) {
    values.sort_unstable();
    values.dedup();
    values.truncate(SKETCH_VALUES);
}

fn absorb([a, b]: [u64; 2], word: u64) -> [u64; 2] {
    [
        mix(a ^ word),
        mix(b.rotate_left(32) ^ word.wrapping_mul(0xd6e8_feb8_6659_fd93)),
    ]
}

impl Sketch {
    /// Whether the texts have the same words in the same order.
    pub fn same_words(&self, other: &Sketch) -> bool {
        self.exact == other.exact
    }

    /// The Jaccard index of the texts' shingles, 0 to 1; exact or estimated, as
    /// [`Sketch`] says.
    pub fn similarity(&self, other: &Sketch) -> f64 {
        self.similarity_above(other, 0.0).unwrap_or(0.0)
    }

    /// The similarity, if it is at least `threshold`; stops as soon as it
    /// cannot be.
    pub(super) fn similarity_above(&self, other: &Sketch, threshold: f64) -> Option<f64> {
        // Of both sets, all values up to here are known, so they are one sample
        // of the union (Cohen and Kaplan 2007, "Summarizing data using bottom-k
        // sketches"). Of short texts it is all.
        let limit = self.known_to().min(other.known_to());
        let (a, b) = (self.up_to(limit), other.up_to(limit));
        let total = a.len() + b.len();
        // J >= t if and only if the sets differ in at most this many values.
        let most = (total as f64 * (1.0 - threshold) / (1.0 + threshold) + 1e-9) as usize;
        if total == 0 || a.len().abs_diff(b.len()) > most {
            return None;
        }
        let (mut i, mut j, mut both) = (0, 0, 0);
        while i < a.len() && j < b.len() {
            let (x, y) = (a[i], b[j]);
            both += usize::from(x == y);
            i += usize::from(x <= y);
            j += usize::from(y <= x);
            if i + j - 2 * both > most {
                return None;
            }
        }
        let either = total - both;
        (either - both <= most).then(|| both as f64 / either as f64)
    }

    /// The bytes that the sketch takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.values)
    }

    fn known_to(&self) -> u32 {
        match self.values.len() {
            SKETCH_VALUES => self.values[SKETCH_VALUES - 1],
            _ => u32::MAX,
        }
    }

    fn up_to(&self, limit: u32) -> &[u32] {
        &self.values[..self.values.partition_point(|&value| value <= limit)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Draws;

    fn jaccard(a: &str, b: &str) -> f64 {
        let set = |text: &str| -> BTreeSet<Vec<String>> {
            let words: Vec<String> = text.split(' ').map(str::to_string).collect();
            words
                .windows(5.min(words.len()))
                .map(<[_]>::to_vec)
                .collect()
        };
        let (a, b) = (set(a), set(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    /// Two texts of `words` words, the second with `edits` of them replaced.
    fn pair(case: u64, words: u64, edits: u64) -> (String, String) {
        let draws = Draws::new(case, "pair");
        let mut text: Vec<String> = (0..words)
            .map(|i| format!("w{}", draws.at(i) % 500))
            .collect();
        let original = text.join(" ");
        for edit in 0..edits {
            text[(draws.at(1_000_000 + edit) % words) as usize] = format!("edit{edit}");
        }
        (original, text.join(" "))
    }

    #[test]
    fn short_texts_are_compared_exactly() {
        let sketcher = Sketcher::new(5);
        for case in 0..400 {
            let (a, b) = pair(case, 1 + case % 255, case % 9);
            let (x, y) = (sketcher.sketch(&a), sketcher.sketch(&b));
            let truth = jaccard(&a, &b);
            assert!((x.similarity(&y) - truth).abs() < 1e-12, "{truth}");
            assert_eq!(x.similarity_above(&y, truth), Some(truth));
            assert!(truth == 1.0 || x.similarity_above(&y, truth + 1e-6).is_none());
            assert_eq!(x.same_words(&y), a == b);
        }
    }

    #[test]
    fn long_texts_are_compared_by_a_sample() {
        let sketcher = Sketcher::new(5);
        let mut errors = Vec::new();
        for case in 0..300 {
            let (a, b) = pair(case, 1000 + 10 * case, 2 + case / 6);
            let (x, y) = (sketcher.sketch(&a), sketcher.sketch(&b));
            assert_eq!(x.memory_bytes(), 32 + 4 * SKETCH_VALUES);
            errors.push(x.similarity(&y) - jaccard(&a, &b));
        }
        let mean = errors.iter().sum::<f64>() / 300.0;
        let deviation = (errors.iter().map(|e| e * e).sum::<f64>() / 300.0).sqrt();
        // sqrt(J (1 - J) / 256) is at most 0.031.
        assert!(mean.abs() < 0.006, "{mean}");
        assert!(deviation < 0.032, "{deviation}");
    }

    #[test]
    fn a_text_and_its_parts() {
        let sketcher = Sketcher::new(5);
        let whole = sketcher.sketch("What is it?\nIt is a cyst, they said.");
        assert_eq!(
            sketcher.sketch_parts(["What is it?", "It is a cyst,", "they said."]),
            whole
        );
        assert!(whole.same_words(&sketcher.sketch("what is it it IS a cyst they said")));
        // No word goes from one part into the next.
        assert!(
            !sketcher
                .sketch_parts(["a", "b"])
                .same_words(&sketcher.sketch("ab"))
        );
    }

    #[test]
    fn texts_without_shingles() {
        let sketcher = Sketcher::new(5);
        let sketch = |text| sketcher.sketch(text);
        // Fewer words than a shingle: near is exact.
        assert_eq!(sketch("a b c").similarity(&sketch("A, b: c")), 1.0);
        assert_eq!(sketch("a b c").similarity(&sketch("a b d")), 0.0);
        assert_eq!(sketch("a b c").similarity(&sketch("a b")), 0.0);
        // No words: nothing is folded.
        assert!(sketch("?!").same_words(&sketch("?!")));
        assert!(!sketch("?!").same_words(&sketch("!?")));
        assert!(!sketch("").same_words(&sketch(" ")));
        assert_eq!(sketch("?!").similarity(&sketch("?!")), 0.0);
    }
}
