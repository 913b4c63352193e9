//! The nearest valid key or word, and the table that a key belongs to.

use std::collections::BTreeMap;

use serde_json::Value;

use super::shape::{Shape, resolve};

/// Deeper than any recipe type; the bound is for types that contain themselves.
const MAX_DEPTH: usize = 12;

/// Every key of a recipe type, and the headers of the tables that have it.
pub(super) struct KeyIndex<'a>(BTreeMap<&'a str, Vec<String>>);

impl<'a> KeyIndex<'a> {
    pub(super) fn of(root: &'a Value) -> Self {
        let mut index = Self(BTreeMap::new());
        index.add(root, root, "", 0);
        index
    }

    fn add(&mut self, root: &'a Value, schema: &'a Value, key: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let join = |name: &str| {
            if key.is_empty() {
                name.to_owned()
            } else {
                format!("{key}.{name}")
            }
        };
        match Shape::of(root, schema) {
            Shape::Table(fields) => {
                for (name, content) in fields.known.into_iter().flatten() {
                    self.note(name, key);
                    self.add(root, content, &join(name), depth + 1);
                }
            }
            Shape::Choice { tables, .. } => {
                for (name, content) in tables {
                    self.note(name, key);
                    self.add(root, content, &join(name), depth + 1);
                }
            }
            Shape::Array(schema) => {
                if let Some(items) = schema.get("items") {
                    self.add(root, resolve(root, items), &format!("{key}[]"), depth + 1);
                }
            }
            Shape::Either(branches) => {
                for branch in branches {
                    self.add(root, branch, key, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, name: &'a str, key: &str) {
        let tables = self.0.entry(name).or_default();
        let header = header(key);
        // More homes than this are no help.
        if tables.len() < 3 && !tables.contains(&header) {
            tables.push(header);
        }
    }

    /// The hint for a key that its table does not have.
    pub(super) fn hint(&self, name: &str, siblings: &[&str]) -> Option<String> {
        if let Some(tables) = self.0.get(name) {
            return Some(format!("`{name}` belongs {}", tables.join(" or ")));
        }
        if let Some(near) = nearest(name, siblings) {
            return Some(format!("did you mean `{near}`?"));
        }
        let all: Vec<_> = self.0.keys().copied().collect();
        if let Some(near) = nearest(name, &all) {
            return Some(format!(
                "did you mean `{near}`, which belongs {}?",
                self.0[near].join(" or ")
            ));
        }
        match siblings.len() {
            0 => None,
            1..=24 => Some(format!("known keys: {}", super::shape::list(siblings))),
            _ => Some("`medtune recipes schema` prints every key".into()),
        }
    }
}

/// How a table is written: `[train]`, `[[data.source]]`, `[data.source.task]`, or words for the top of the file.
fn header(key: &str) -> String {
    match key.strip_suffix("[]") {
        _ if key.is_empty() => "at the top of the file, before the first [table]".into(),
        Some(array) => format!("in [[{}]]", array.replace("[]", "")),
        None => format!("in [{}]", key.replace("[]", "")),
    }
}

/// How a message names the table at a key: `[train]`, `[[data.source]]`, or "the recipe" for the whole.
pub(super) fn table_name(key: &str) -> String {
    if key.is_empty() {
        return "the recipe".into();
    }
    let is_item = key.ends_with(']');
    let mut plain = String::new();
    let mut inside = false;
    for c in key.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    if is_item {
        format!("[[{plain}]]")
    } else {
        format!("[{plain}]")
    }
}

/// The candidate that was most likely meant, if any is near enough: a third of the letters may be wrong, one may
/// in a short name, and `-` for `_` or another case is no mistake at all.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // Longer than any key, and the distance is quadratic.
    if word.len() > 100 {
        return None;
    }
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    let word = plain(word);
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    let begins = |candidate: &&&str| candidate.len() >= 4 && word.starts_with(&plain(candidate));
    candidates
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &plain(candidate)),
                *candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= allowed && *distance < candidate.chars().count()
        })
        .min()
        .map(|(_, candidate)| candidate)
        // `training` for `train`
        .or_else(|| candidates.iter().find(begins).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["rank", "alpha", "learning_rate", "max_seq_len", "lr"];
        assert_eq!(nearest("rnak", &keys), Some("rank"));
        assert_eq!(nearest("learning-rate", &keys), Some("learning_rate"));
        assert_eq!(nearest("Learning_Rate", &keys), Some("learning_rate"));
        assert_eq!(nearest("max_sequence_len", &keys), None);
        assert_eq!(nearest("max_seq_length", &keys), Some("max_seq_len"));
        assert_eq!(nearest("ranks_of_lora", &keys), Some("rank"));
        assert_eq!(nearest("x", &keys), None);
        assert_eq!(nearest("", &keys), None);
        assert_eq!(nearest(&"a".repeat(1_000_000), &keys), None);
    }

    #[test]
    fn tables_are_named_as_they_are_written() {
        assert_eq!(table_name(""), "the recipe");
        assert_eq!(table_name("adapter.lora"), "[adapter.lora]");
        assert_eq!(table_name("data.source[3]"), "[[data.source]]");
        assert_eq!(table_name("data.source[3].task"), "[data.source.task]");
    }
}
