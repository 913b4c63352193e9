//! Words whose ids are known.

/// The most bytes of a word that is remembered.
const MOST_BYTES: usize = 31;
/// The most ids of a word that is remembered.
const MOST_IDS: usize = 7;
/// Places that a word may be in: a word that is looked for is compared with so
/// many, whatever the text.
const WAYS: usize = 4;
/// Sets of so many places: 2 MiB a cache.
const SETS: usize = 8192;

/// The ids of a short word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    ids: [u32; MOST_IDS],
    len: u32,
}

impl Ids {
    /// `None` where there are too many to remember.
    pub fn new(ids: &[u32]) -> Option<Self> {
        let mut known = Self {
            ids: [0; MOST_IDS],
            len: ids.len() as u32,
        };
        known.ids.get_mut(..ids.len())?.copy_from_slice(ids);
        Some(known)
    }

    #[inline]
    pub fn append_to(&self, ids: &mut Vec<u32>) {
        match self.len {
            1 => ids.push(self.ids[0]),
            len => ids.extend_from_slice(&self.ids[..len as usize]),
        }
    }
}

/// A word's bytes, zeros, and in the last byte their number.
type Key = [u64; 4];

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Entry {
    key: Key,
    ids: Ids,
}

/// Where a word that is not known would be put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    set: usize,
    key: Key,
}

/// A table of fixed size from words to ids. A word is in one of [`WAYS`] places;
/// a new one pushes the oldest of them out. So neither memory nor the time of a
/// lookup depends on the text.
#[derive(Debug)]
pub(super) struct Cache {
    sets: Vec<[Entry; WAYS]>,
}

impl Default for Cache {
    fn default() -> Self {
        let vacant = Entry {
            key: [0; 4],
            ids: Ids {
                ids: [0; MOST_IDS],
                len: 0,
            },
        };
        Self {
            sets: vec![[vacant; WAYS]; SETS],
        }
    }
}

impl Cache {
    /// The ids of a word, or where to put them; no place for a long word.
    #[inline]
    pub fn find(&self, word: &[u8]) -> Result<Ids, Option<Place>> {
        let Some(key) = key(word) else {
            return Err(None);
        };
        let set = hash(&key) as usize % SETS;
        match self.sets[set].iter().find(|entry| entry.key == key) {
            Some(entry) => Ok(entry.ids),
            None => Err(Some(Place { set, key })),
        }
    }

    /// Puts a word's ids where [`Cache::find`] said.
    pub fn remember(&mut self, place: Place, ids: Ids) {
        let set = &mut self.sets[place.set];
        set.rotate_right(1);
        set[0] = Entry {
            key: place.key,
            ids,
        };
    }
}

/// A vacant entry's key is no word's: its length would be 0.
#[inline]
fn key(word: &[u8]) -> Option<Key> {
    if word.is_empty() || word.len() > MOST_BYTES {
        return None;
    }
    let mut bytes = [0; 32];
    bytes[..word.len()].copy_from_slice(word);
    bytes[MOST_BYTES] = word.len() as u8;
    let (words, _) = bytes.as_chunks::<8>();
    Some([words[0], words[1], words[2], words[3]].map(u64::from_le_bytes))
}

#[inline]
fn hash(key: &Key) -> u64 {
    key.iter().fold(0, |hash, &part| {
        let mixed = (hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_until_newer_ones_push_it_out() {
        let mut cache = Cache::default();
        let words: Vec<String> = (0..200_000).map(|i| format!("word {i}")).collect();
        for (i, word) in words.iter().enumerate() {
            let Err(Some(place)) = cache.find(word.as_bytes()) else {
                panic!("{word} was never remembered");
            };
            cache.remember(place, Ids::new(&[i as u32, 7]).unwrap());
            let mut ids = Vec::new();
            cache.find(word.as_bytes()).unwrap().append_to(&mut ids);
            assert_eq!(ids, [i as u32, 7]);
        }
        let mut known = 0;
        for (i, word) in words.iter().enumerate() {
            if let Ok(found) = cache.find(word.as_bytes()) {
                assert_eq!(found.ids[0], i as u32);
                known += 1;
            }
        }
        assert!((30_000..=SETS * WAYS).contains(&known), "{known} are known");
    }

    #[test]
    fn long_words_and_many_ids_are_not_remembered() {
        let cache = Cache::default();
        assert!(matches!(cache.find(&[b'a'; 31]), Err(Some(_))));
        assert!(matches!(cache.find(&[b'a'; 32]), Err(None)));
        assert!(Ids::new(&[1; 7]).is_some());
        assert!(Ids::new(&[1; 8]).is_none());
        // Zeros at a word's end are part of it.
        assert_ne!(key(b"a"), key(b"a\0"));
    }
}
