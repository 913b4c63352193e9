//! Which file each tensor of a model folder goes to: `model.safetensors`, or shards of a chosen size and the index that
//! names them, as transformers writes and reads them.

use crate::safetensors_file::{Entry, byte_size};
use serde_json::{Value, json};

/// One file of a folder, and the entries in it.
#[derive(Debug)]
pub(crate) struct Shard {
    pub name: String,
    /// Positions in the list of entries.
    pub entries: std::ops::Range<usize>,
}

/// The files for these entries, in their order: a file is full when the next tensor would take it over `most_bytes`. A
/// tensor larger than that has a file of its own.
pub(crate) fn shards(entries: &[Entry], most_bytes: u64) -> Vec<Shard> {
    let mut ends = Vec::new();
    let mut filled = 0;
    for (i, entry) in entries.iter().enumerate() {
        let size = bytes(entry);
        if filled > 0 && filled + size > most_bytes {
            ends.push(i);
            filled = 0;
        }
        filled += size;
    }
    ends.push(entries.len());
    let count = ends.len();
    let mut first = 0;
    let file = |(i, end): (usize, usize)| {
        let name = match count {
            1 => crate::folder::SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let entries = first..end;
        first = end;
        Shard { name, entries }
    };
    ends.into_iter().enumerate().map(file).collect()
}

/// The index of a folder of several files.
pub(crate) fn index(entries: &[Entry], shards: &[Shard]) -> Option<Value> {
    if shards.len() < 2 {
        return None;
    }
    let mut map = std::collections::BTreeMap::new();
    for shard in shards {
        for entry in &entries[shard.entries.clone()] {
            map.insert(entry.name.clone(), shard.name.clone());
        }
    }
    let total: u64 = entries.iter().map(bytes).sum();
    Some(json!({"metadata": {"total_size": total}, "weight_map": map}))
}

fn bytes(entry: &Entry) -> u64 {
    byte_size(entry.dtype, &entry.shape).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::Dtype;

    fn layout(sizes: &[usize], most: u64) -> Vec<(String, usize)> {
        let entry = |(i, n): (usize, &usize)| Entry {
            name: format!("t{i}"),
            dtype: Dtype::U8,
            shape: vec![*n],
        };
        let entries: Vec<Entry> = sizes.iter().enumerate().map(entry).collect();
        let shards = shards(&entries, most);
        assert_eq!(shards.first().unwrap().entries.start, 0);
        assert_eq!(shards.last().unwrap().entries.end, sizes.len());
        shards
            .into_iter()
            .map(|s| (s.name, s.entries.len()))
            .collect()
    }

    #[test]
    fn files_are_filled_up_to_the_limit() {
        let one = |n| vec![("model.safetensors".to_owned(), n)];
        assert_eq!(layout(&[3, 4, 3], 10), one(3));
        assert_eq!(layout(&[], 10), one(0));
        assert_eq!(layout(&[100], 10), one(1));
        let names: Vec<_> = layout(&[3, 8, 100, 1, 9, 1], 10);
        let counts: Vec<usize> = names.iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, [1, 1, 1, 2, 1]);
        assert_eq!(names[1].0, "model-00002-of-00005.safetensors");
    }
}
