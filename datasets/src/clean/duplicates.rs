use rayon::prelude::*;

use super::sketch::Sketch;
use crate::random::mix;

/// Why a row is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DuplicateKind {
    /// It has the same words as the row that is kept.
    Exact,
    /// Its shingles are similar to those of the row that is kept.
    Near,
}

impl DuplicateKind {
    /// The kind's name in lists and counts.
    pub fn name(self) -> &'static str {
        match self {
            DuplicateKind::Exact => "exact_duplicate",
            DuplicateKind::Near => "near_duplicate",
        }
    }
}

/// A row that is left out, and for which other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duplicate {
    /// The row that is kept; always an earlier one.
    pub keeper: u32,
    /// What makes them duplicates.
    pub kind: DuplicateKind,
    /// How similar the row is to the keeper; 1 if exact.
    pub similarity: f32,
}

/// For each row, whether it repeats an earlier one: the same words, if `exact`,
/// or a similarity of at least `near` (0 turns that off).
///
/// The earlier row is always the one that is kept, so rows come in the order of
/// their sources' priority. Rows are taken in order and compared only with rows
/// that are kept: a row that was left out is no reason to leave out another, so
/// a chain of small changes does not end in a row unlike its keeper. Of several
/// keepers that a row is similar to, the earliest is named. A row that has the
/// same words as one left out as near goes with it. The result depends on the
/// rows alone, not on the number of threads.
///
/// Candidates are found by MinHash with locality-sensitive hashing (Broder 1997;
/// Indyk and Motwani 1998) and each is then compared by its [`Sketch`], so
/// hashing can miss a pair but never makes one. The MinHash values are those of
/// one permutation (Li, Owen and Zhang 2012, "One permutation hashing"), its
/// empty bins filled from others (Shrivastava 2017, "Optimal densification for
/// fast and accurate minwise hashing", in the form of Mai et al. 2019, "On
/// densification for minwise hashing", whose time does not depend on how many
/// are empty). Bands are sorted lists, not tables.
///
/// In a bucket a row is compared with the 1,000 earliest keepers: rows that all
/// share a long text but are not similar enough would otherwise take quadratic
/// time.
pub fn duplicates(sketches: &[Sketch], exact: bool, near: f64) -> Vec<Option<Duplicate>> {
    assert!(u32::try_from(sketches.len()).is_ok(), "over 2^32 rows");
    let first = first_of_same(sketches, exact);
    let mut found: Vec<Option<Duplicate>> = if near > 0.0 {
        near_duplicates(sketches, &first, near)
    } else {
        vec![None; sketches.len()]
    };
    for row in 0..found.len() {
        let same = first[row];
        if same as usize != row {
            found[row] = found[same as usize].or(Some(Duplicate {
                keeper: same,
                kind: DuplicateKind::Exact,
                similarity: 1.0,
            }));
        }
    }
    found
}

/// For each row the first with the same words, or the row itself.
fn first_of_same(sketches: &[Sketch], exact: bool) -> Vec<u32> {
    let mut first: Vec<u32> = (0..sketches.len() as u32).collect();
    if exact {
        let mut order = first.clone();
        order.par_sort_unstable_by_key(|&row| (sketches[row as usize].exact, row));
        for same in order.chunk_by(|&a, &b| sketches[a as usize].same_words(&sketches[b as usize]))
        {
            for &row in same {
                first[row as usize] = same[0];
            }
        }
    }
    first
}

fn near_duplicates(sketches: &[Sketch], first: &[u32], threshold: f64) -> Vec<Option<Duplicate>> {
    let mut buckets = Buckets::new(sketches, first, threshold);
    let mut found = vec![None; sketches.len()];
    // The last row that each keeper was compared with, so that it is once.
    let mut compared = vec![u32::MAX; sketches.len()];
    let mut next = 0;
    while next < buckets.rows.len() {
        let row = buckets.rows[next].0;
        let start = next;
        while next < buckets.rows.len() && buckets.rows[next].0 == row {
            next += 1;
        }
        let sketch = &sketches[row as usize];
        let mut best: Option<Duplicate> = None;
        for at in start..next {
            for &keeper in buckets.keepers(buckets.rows[at].1) {
                // A bucket's keepers are in order.
                if best.is_some_and(|best| best.keeper <= keeper) {
                    break;
                }
                if std::mem::replace(&mut compared[keeper as usize], row) == row {
                    continue;
                }
                let similarity = sketch.similarity_above(&sketches[keeper as usize], threshold);
                best = similarity.map_or(best, |similarity| {
                    Some(Duplicate {
                        keeper,
                        kind: DuplicateKind::Near,
                        similarity: similarity as f32,
                    })
                });
            }
        }
        if best.is_none() {
            for at in start..next {
                buckets.keep(row, buckets.rows[at].1);
            }
        }
        found[row as usize] = best;
    }
    found
}

/// MinHash values of a row. Enough for bands that find practically all pairs
/// above any usual threshold; see [`band_rows`].
const BINS: usize = 192;

/// Keepers of a bucket that a row is compared with.
const MOST_KEEPERS: u32 = 1000;

/// How many values make a band: as many as can be while a pair at `threshold`
/// is missed by all bands at most once in a thousand times.
fn band_rows(threshold: f64) -> usize {
    let missed = |rows: usize| (1.0 - threshold.powi(rows as i32)).powi((BINS / rows) as i32);
    (2..=12)
        .rev()
        .find(|&rows| missed(rows) < 0.001)
        .unwrap_or(1)
}

/// The rows that share a band with another, and which.
struct Buckets {
    /// Rows and their buckets, in the order of the rows.
    rows: Vec<(u32, u32)>,
    /// Where the keepers of each bucket begin, and how many there are.
    filled: Vec<(u32, u32)>,
    /// Room for the keepers of all buckets.
    members: Vec<u32>,
}

impl Buckets {
    fn new(sketches: &[Sketch], first: &[u32], threshold: f64) -> Self {
        let rows: Vec<u32> = (0..sketches.len() as u32)
            .filter(|&row| first[row as usize] == row && !sketches[row as usize].values.is_empty())
            .collect();
        let bands = BINS / band_rows(threshold);
        let mut keys = vec![0; rows.len() * bands];
        keys.par_chunks_mut(bands)
            .zip(&rows)
            .for_each(|(keys, &row)| band_keys(&sketches[row as usize], keys));
        let mut buckets = Self {
            rows: Vec::new(),
            filled: Vec::new(),
            members: Vec::new(),
        };
        let mut room = 0;
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(rows.len());
        for band in 0..bands {
            order.clear();
            order.extend(
                keys.iter()
                    .skip(band)
                    .step_by(bands)
                    .copied()
                    .zip(rows.iter().copied()),
            );
            order.par_sort_unstable();
            for same in order
                .chunk_by(|a, b| a.0 == b.0)
                .filter(|same| same.len() > 1)
            {
                let bucket = buckets.filled.len() as u32;
                buckets.filled.push((room, 0));
                room += (same.len() as u32).min(MOST_KEEPERS);
                buckets
                    .rows
                    .extend(same.iter().map(|&(_, row)| (row, bucket)));
            }
        }
        buckets.rows.par_sort_unstable();
        buckets.members = vec![0; room as usize];
        buckets
    }

    fn keepers(&self, bucket: u32) -> &[u32] {
        let (start, count) = self.filled[bucket as usize];
        &self.members[start as usize..][..count as usize]
    }

    fn keep(&mut self, row: u32, bucket: u32) {
        let (start, count) = &mut self.filled[bucket as usize];
        if *count < MOST_KEEPERS {
            self.members[(*start + *count) as usize] = row;
            *count += 1;
        }
    }
}

/// Writes one key a band: equal, for two sketches, with probability J^rows.
fn band_keys(sketch: &Sketch, keys: &mut [u32]) {
    const EMPTY: u64 = u64::MAX;
    let mut bins = [EMPTY; BINS];
    for &value in &sketch.values {
        // Of long texts there are only small values: mix them to fill all bins.
        let hash = mix(u64::from(value));
        let bin = &mut bins[bin_of(hash)];
        *bin = (*bin).min(hash & 0xffff_ffff);
    }
    let full = bins.map(|bin| bin != EMPTY);
    let mut empty = full.iter().filter(|&&full| !full).count();
    // In each round every full bin is copied to one other, if that is empty.
    for round in 1.. {
        if empty == 0 {
            break;
        }
        for from in (0..BINS).filter(|&bin| full[bin]) {
            let to = bin_of(mix((round << 32) | from as u64));
            if bins[to] == EMPTY {
                bins[to] = bins[from];
                empty -= 1;
            }
        }
    }
    let rows = BINS / keys.len();
    for (key, band) in keys.iter_mut().zip(bins.chunks_exact(rows)) {
        *key = (band.iter().fold(0, |key, &value| mix(key ^ value)) >> 32) as u32;
    }
}

fn bin_of(hash: u64) -> usize {
    (((hash >> 32) * BINS as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::super::sketch::Sketcher;
    use super::*;
    use crate::random::Draws;

    fn sketches(texts: &[&str]) -> Vec<Sketch> {
        texts
            .iter()
            .map(|text| Sketcher::new(5).sketch(text))
            .collect()
    }

    fn numbered(from: usize, to: usize) -> String {
        (from..to).map(|i| format!("word{i} ")).collect()
    }

    #[test]
    fn the_earlier_row_is_kept() {
        let a = numbered(0, 100);
        let near = numbered(3, 100);
        let other = numbered(200, 300);
        let rows = sketches(&[&other, &a, &near, &a.to_uppercase(), "b", "B.", &other]);
        let found = duplicates(&rows, true, 0.8);
        let brief: Vec<_> = found
            .iter()
            .map(|d| d.map(|d| (d.keeper, d.kind)))
            .collect();
        use DuplicateKind::{Exact, Near};
        assert_eq!(
            brief,
            [
                None,
                None,
                Some((1, Near)),
                Some((1, Exact)),
                None,
                Some((4, Exact)),
                Some((0, Exact))
            ]
        );
        assert!((found[2].unwrap().similarity - 93.0 / 96.0).abs() < 1e-6);
        let brief = |exact, near| -> Vec<usize> {
            let found = duplicates(&rows, exact, near);
            (0..rows.len())
                .filter(|&row| found[row].is_some())
                .collect()
        };
        assert_eq!(brief(true, 0.0), [3, 5, 6]);
        assert_eq!(brief(false, 0.0), [0; 0]);
        assert_eq!(brief(true, 0.99), [3, 5, 6]);
        assert_eq!(brief(false, 0.8), [2, 3, 5, 6]);
    }

    #[test]
    fn a_chain_does_not_swallow_its_end() {
        // Each is 0.87 like the one before, and less like those before that.
        let texts: Vec<String> = (0..6).map(|i| numbered(i * 7, i * 7 + 104)).collect();
        let rows = sketches(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let keepers: Vec<_> = duplicates(&rows, true, 0.8)
            .iter()
            .map(|d| d.map(|d| d.keeper))
            .collect();
        assert_eq!(keepers, [None, Some(0), None, Some(2), None, Some(4)]);
    }

    #[test]
    fn what_repeats_a_near_duplicate_goes_with_it() {
        let near = numbered(3, 100);
        let rows = sketches(&[&numbered(0, 100), &near, &near]);
        let found = duplicates(&rows, true, 0.8);
        assert_eq!(found[1].unwrap().kind, DuplicateKind::Near);
        assert_eq!(found[1], found[2]);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let draws = Draws::new(2, "threads");
        let texts: Vec<String> = (0..3000u64)
            .map(|i| {
                let from = (draws.at(i) % 40_000) as usize;
                numbered(from, from + 60 + (draws.at(!i) % 40) as usize)
            })
            .collect();
        let rows = sketches(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| duplicates(&rows, true, 0.7))
        };
        let one = with(1);
        assert!(one.iter().flatten().count() > 100);
        assert_eq!(one, with(3));
        // What hashing finds is what comparing every pair finds.
        let mut kept: Vec<usize> = Vec::new();
        for (row, sketch) in rows.iter().enumerate() {
            let all = kept.iter().find(|&&k| rows[k].similarity(sketch) >= 0.7);
            let found = one[row].map(|d| d.keeper as usize);
            assert_eq!(found, all.copied(), "row {row}");
            if found.is_none() {
                kept.push(row);
            }
        }
    }

    #[test]
    fn no_rows_and_rows_without_words() {
        assert_eq!(duplicates(&[], true, 0.8), []);
        let found = duplicates(&sketches(&["", "?", "", "?"]), true, 0.8);
        let keepers: Vec<_> = found.iter().map(|d| d.map(|d| d.keeper)).collect();
        assert_eq!(keepers, [None, None, Some(0), Some(1)]);
    }

    #[test]
    fn bands_fit_the_threshold() {
        assert_eq!(
            [0.95, 0.8, 0.7, 0.5, 0.2, 0.01].map(band_rows),
            [12, 6, 5, 3, 1, 1]
        );
    }

    // A bucket with many keepers that are no duplicates of each other.
    #[test]
    fn rows_that_share_half_their_text_take_bounded_time() {
        let shared = numbered(0, 100);
        let texts: Vec<String> = (0..4000)
            .map(|i| format!("{shared}{}", numbered(1000 + 60 * i, 1060 + 60 * i)))
            .collect();
        let rows = sketches(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(duplicates(&rows, true, 0.8).iter().flatten().count(), 0);
    }
}
