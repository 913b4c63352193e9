//! Encoding word by word, each word's ids remembered.
//!
//! Byte-level vocabularies cut text into words and merge inside each; so a
//! word's ids depend on nothing but the word. What costs time is the cutting,
//! done here without regular expressions ([`Splitter`]), and the merging, asked
//! of the `tokenizers` crate once and then looked up.
//!
//! SentencePiece's BPE merges over the whole text. But where no token of the
//! vocabulary has `▁` behind another character, no merge ever crosses from a
//! character to the `▁` behind it, and the text falls into words there: see
//! [`falls_into_words`].
//!
//! Vocabularies that are set up in any other way are left to the crate.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokenizers::{Model, ModelWrapper, NormalizedString, Normalizer};

use super::added::AddedTokens;
use super::cache::{Cache, Ids};
use super::splitter::{LLAMA3, QWEN2, Splitter};

/// White space that a regular expression of the crate cannot cross in one match
/// (its stack is bounded at a million) must be left to it; a tenth of that.
const MOST_WHITE_SPACE: usize = 100_000;

/// How a vocabulary cuts text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Bytes are written as one character each; `compose` is Unicode NFC, done first.
    ByteLevel { splitter: Splitter, compose: bool },
    /// Before each space or `▁` that follows another character; `prepend` puts
    /// one before the text.
    Spaces { prepend: bool },
}

/// What a vocabulary needs to be encoded word by word.
#[derive(Debug)]
pub(super) struct Words {
    cut: Cut,
    added: AddedTokens,
    /// One for each thread that has encoded at the same time as others.
    caches: Mutex<Vec<Cache>>,
}

impl Words {
    /// `None` for a vocabulary that is not set up in one of the known ways.
    pub fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else {
            return None;
        };
        // With dropout a word has not always the same ids.
        if model.dropout.is_some_and(|rate| rate > 0.0) {
            return None;
        }
        let normalizer = serde_json::to_value(tokenizer.get_normalizer()).ok()?;
        let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?;
        let cut = match spaces(&normalizer, &pre_tokenizer) {
            Some(prepend) if falls_into_words(tokenizer) => Cut::Spaces { prepend },
            Some(_) => return None,
            None => Cut::ByteLevel {
                splitter: splitter(&pre_tokenizer)?,
                compose: composes(&normalizer)?,
            },
        };
        Some(Self {
            cut,
            added: AddedTokens::of(tokenizer.get_added_vocabulary(), !normalizer.is_null())?,
            caches: Mutex::default(),
        })
    }

    /// The ids of `text`, the same as the crate's; `None` where only the crate
    /// can say.
    pub fn encode(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
    ) -> tokenizers::Result<Option<Vec<u32>>> {
        if white_space_is_long(text) {
            return Ok(None);
        }
        let caches = || self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = Writer {
            tokenizer,
            cache: caches().pop().unwrap_or_default(),
            spelled: String::new(),
            // English has about four characters a token.
            ids: Vec::with_capacity(text.len() / 3 + 4),
        };
        let mut rest = text;
        while let Some((start, end, id)) = self.added.first_in(rest) {
            self.run(&mut writer, &rest[..start])?;
            writer.ids.push(id);
            rest = &rest[end..];
        }
        self.run(&mut writer, rest)?;
        caches().push(writer.cache);
        Ok(Some(writer.ids))
    }

    /// Writes a run of text between added tokens.
    fn run(&self, writer: &mut Writer<'_>, text: &str) -> tokenizers::Result<()> {
        match self.cut {
            Cut::ByteLevel { splitter, compose } => {
                if compose && !text.chars().all(stays_composed) {
                    let mut normalized = NormalizedString::from(text);
                    if let Some(normalizer) = writer.tokenizer.get_normalizer() {
                        normalizer.normalize(&mut normalized)?;
                    }
                    return splitter.words(normalized.get(), |word| writer.word(word, byte_level));
                }
                splitter.words(text, |word| writer.word(word, byte_level))
            }
            Cut::Spaces { prepend } => {
                let mut words = words_at_spaces(text);
                if prepend && let Some(first) = words.next() {
                    writer.word(&format!(" {first}"), with_spaces_written)?;
                }
                words.try_for_each(|word| writer.word(word, with_spaces_written))
            }
        }
    }
}

struct Writer<'t> {
    tokenizer: &'t tokenizers::Tokenizer,
    cache: Cache,
    /// The word as the vocabulary spells it.
    spelled: String,
    ids: Vec<u32>,
}

impl Writer<'_> {
    #[inline]
    fn word(&mut self, word: &str, spell: fn(&str, &mut String)) -> tokenizers::Result<()> {
        match self.cache.find(word.as_bytes()) {
            Ok(known) => known.append_to(&mut self.ids),
            Err(place) => {
                self.spelled.clear();
                spell(word, &mut self.spelled);
                let tokens = self.tokenizer.get_model().tokenize(&self.spelled)?;
                let start = self.ids.len();
                self.ids.extend(tokens.iter().map(|token| token.id));
                if let (Some(place), Some(ids)) = (place, Ids::new(&self.ids[start..])) {
                    self.cache.remember(place, ids);
                }
            }
        }
        Ok(())
    }
}

/// Byte-level vocabularies write a byte as one character: printable ones of
/// Latin-1 as themselves, the others from U+0100 on (GPT-2's `bytes_to_unicode`).
fn byte_level(word: &str, out: &mut String) {
    out.extend(word.bytes().map(|byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or_default(),
        0x7F..=0xA0 => char::from_u32(0x121 + u32::from(byte) - 0x7F).unwrap_or_default(),
        0xAD => '\u{143}',
    }));
}

fn with_spaces_written(word: &str, out: &mut String) {
    out.extend(word.chars().map(|c| if c == ' ' { '▁' } else { c }));
}

/// Cuts before each space or `▁` that follows another character.
fn words_at_spaces(text: &str) -> impl Iterator<Item = &str> {
    let is_space = |c: char| c == ' ' || c == '▁';
    let mut rest = text;
    std::iter::from_fn(move || {
        let spaces = rest.find(|c| !is_space(c)).unwrap_or(rest.len());
        let end = rest[spaces..].find(is_space);
        let (word, others) = rest.split_at(end.map_or(rest.len(), |end| spaces + end));
        rest = others;
        (!word.is_empty()).then_some(word)
    })
}

/// Whether a SentencePiece text can be merged word by word. BPE joins two
/// neighbours where their joined text is a token; if no token has `▁` behind
/// another character, no join crosses such a place, and what happens on its one
/// side has no part in what happens on the other. `▁` has to be a token itself:
/// unknown characters are otherwise joined into one.
fn falls_into_words(tokenizer: &tokenizers::Tokenizer) -> bool {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        return false;
    };
    let plain = model.continuing_subword_prefix.is_none()
        && model.end_of_word_suffix.is_none()
        && !model.ignore_merges;
    let vocabulary = tokenizer.get_vocab(false);
    plain
        && vocabulary.contains_key("▁")
        && vocabulary
            .keys()
            .all(|token| !token.trim_start_matches('▁').contains('▁'))
}

/// SentencePiece's way with spaces, where it is the normalizer's: `Some` with
/// whether one is put before the text.
fn spaces(normalizer: &Value, pre_tokenizer: &Value) -> Option<bool> {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let steps = steps(normalizer, "normalizers");
    if !pre_tokenizer.is_null() {
        return None;
    }
    match steps.as_slice() {
        [first, second] if **first == prepend && **second == replace => Some(true),
        [only] if **only == replace => Some(false),
        _ => None,
    }
}

fn composes(normalizer: &Value) -> Option<bool> {
    match steps(normalizer, "normalizers").as_slice() {
        [] => Some(false),
        [only] if **only == json!({"type": "NFC"}) => Some(true),
        _ => None,
    }
}

fn splitter(pre_tokenizer: &Value) -> Option<Splitter> {
    let bytes = |step: &Value, use_regex: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == false
            && step["use_regex"] == use_regex
    };
    let split = |step: &Value, pattern: &str| {
        *step
            == json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    match steps(pre_tokenizer, "pretokenizers").as_slice() {
        [only] if bytes(only, true) => Some(Splitter::Gpt2),
        [first, last] if **first == digits && bytes(last, true) => Some(Splitter::DigitsThenGpt2),
        [first, last] if bytes(last, false) && split(first, LLAMA3) => {
            Some(Splitter::Llama3 { numerals: 3 })
        }
        [first, last] if bytes(last, false) && split(first, QWEN2) => {
            Some(Splitter::Llama3 { numerals: 1 })
        }
        _ => None,
    }
}

/// A component's steps: those of a `Sequence`, or itself.
fn steps<'v>(component: &'v Value, list: &str) -> Vec<&'v Value> {
    match component {
        Value::Null => Vec::new(),
        sequence if sequence["type"] == "Sequence" => {
            sequence[list].as_array().into_iter().flatten().collect()
        }
        one => vec![one],
    }
}

/// Characters that NFC leaves alone, and of which a text is left alone that has
/// no others: none is composed with one before it, decomposed or reordered. Only
/// the blocks that most text is made of; of the rest the crate decides.
fn stays_composed(c: char) -> bool {
    matches!(c, '\0'..='\u{2ff}' | '\u{2002}'..='\u{20cf}' | '\u{4e00}'..='\u{9fff}')
}

fn white_space_is_long(text: &str) -> bool {
    text.len() > MOST_WHITE_SPACE
        && text
            .split(|c: char| !c.is_whitespace())
            .any(|run| run.len() > MOST_WHITE_SPACE)
}
