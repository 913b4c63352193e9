//! The key-value part of a GGUF file, with typed getters.

use std::collections::BTreeMap;

/// One metadata value. All integer widths are one kind, as readers disagree about them.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Any integer of any width and sign.
    Int(i128),
    /// A 32-bit number, kept as such: its shortest decimal is what the model's author wrote.
    F32(f32),
    /// A 64-bit number.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of numbers.
    Floats(Vec<f32>),
    /// A list of truth values.
    Bools(Vec<bool>),
    /// A list of texts.
    Strings(Vec<String>),
}

/// All metadata of one file, by key.
#[derive(Clone, Debug, Default)]
pub struct GgufMetadata(pub(crate) BTreeMap<String, GgufValue>);

impl FromIterator<(String, GgufValue)> for GgufMetadata {
    fn from_iter<I: IntoIterator<Item = (String, GgufValue)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl GgufMetadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.0.get(key)
    }

    /// Sets a key, in the place of an earlier value.
    pub fn set(&mut self, key: impl Into<String>, value: GgufValue) {
        self.0.insert(key.into(), value);
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A non-negative integer.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            GgufValue::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A number, with the shortest decimal that stands for it: 32-bit 1e-5 reads as 1e-05, not as
    /// 9.999999747378752e-06.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            GgufValue::F32(x) => x.to_string().parse().ok(),
            GgufValue::F64(x) => Some(*x),
            GgufValue::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A text.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            GgufValue::String(s) => Some(s),
            _ => None,
        }
    }

    /// A truth value.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            GgufValue::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            GgufValue::Strings(v) => Some(v),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.get(key)? {
            GgufValue::Ints(v) => Some(v),
            _ => None,
        }
    }

    /// A list of numbers.
    pub fn numbers(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            GgufValue::Floats(v) => Some(v),
            _ => None,
        }
    }
}
