//! Cutting text into words as byte-level vocabularies do, without running their
//! regular expressions.
//!
//! Two patterns cover the Llama family. In the order of their alternatives:
//!
//! ```text
//! GPT-2          's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! Llama 3, Qwen2 (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//!                 ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! (Qwen2 has `\p{N}` for `\p{N}{1,3}`.) Every character begins some
//! alternative, so the words cover the text. The tests hold both to the
//! expressions.

use std::sync::LazyLock;

/// Llama 3's pattern, as its `tokenizer.json` writes it.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's, which takes numerals one by one.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One way to cut text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splitter {
    Gpt2,
    /// Every numeral is cut out first; what is between them is cut by GPT-2's
    /// pattern, each run as a text of its own.
    DigitsThenGpt2,
    /// Llama 3's pattern and Qwen2's: a word has at most so many numerals.
    Llama3 {
        numerals: usize,
    },
}

impl Splitter {
    /// Calls `each` with every word of `text`, in order.
    pub fn words<E>(
        self,
        text: &str,
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Splitter::Gpt2 => words_by(text, gpt2, &mut each),
            Splitter::Llama3 { numerals } => {
                words_by(text, |rest| llama3(rest, numerals), &mut each)
            }
            Splitter::DigitsThenGpt2 => {
                let mut rest = text;
                while let Some(at) = rest.find(char::is_numeric) {
                    words_by(&rest[..at], gpt2, &mut each)?;
                    let numeral = char_len(rest.as_bytes()[at]);
                    each(&rest[at..at + numeral])?;
                    rest = &rest[at + numeral..];
                }
                words_by(rest, gpt2, &mut each)
            }
        }
    }
}

/// `end_of_first` says where the first word of a text that is not empty ends.
fn words_by<E>(
    mut rest: &str,
    end_of_first: impl Fn(&str) -> usize,
    each: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    while !rest.is_empty() {
        let (word, others) = rest.split_at(end_of_first(rest));
        each(word)?;
        rest = others;
    }
    Ok(())
}

fn gpt2(text: &str) -> usize {
    if let Some(end) = contraction(text, false) {
        return end;
    }
    let start = usize::from(text.starts_with(' '));
    match class_at(text, start) {
        Some(class @ (Class::Letter | Class::Numeral | Class::Other)) => {
            run(text, start, |c| c == class)
        }
        _ => white_space(text),
    }
}

fn llama3(text: &str, numerals: usize) -> usize {
    if let Some(end) = contraction(text, true) {
        return end;
    }
    let first = class_at(text, 0);
    let behind_first = char_len(text.as_bytes()[0]);
    match first {
        Some(Class::Letter) => return run(text, 0, |c| c == Class::Letter),
        Some(Class::Numeral) => {
            let mut end = behind_first;
            for _ in 1..numerals {
                match class_at(text, end) {
                    Some(Class::Numeral) => end += char_len(text.as_bytes()[end]),
                    _ => break,
                }
            }
            return end;
        }
        Some(Class::Other | Class::Space)
            if class_at(text, behind_first) == Some(Class::Letter) =>
        {
            return run(text, behind_first, |c| c == Class::Letter);
        }
        _ => {}
    }
    let start = usize::from(text.starts_with(' '));
    if class_at(text, start) == Some(Class::Other) {
        let end = run(text, start, |c| c == Class::Other);
        return run(text, end, |c| c == Class::LineEnd);
    }
    let spaces = &text[..run(text, 0, Class::is_space)];
    match spaces.rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => white_space(text),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at the beginning of `text`.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    // Without regard to case, the long s is an s.
    if any_case && rest.starts_with('ſ') {
        return Some(1 + 'ſ'.len_utf8());
    }
    let letter = |at: usize| {
        let byte = *rest.as_bytes().get(at)?;
        Some(match any_case {
            true => byte.to_ascii_lowercase(),
            false => byte,
        })
    };
    match (letter(0)?, letter(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+` at the beginning of `text`: a run of white space without its
/// last character, which goes with what follows, unless there is no other or
/// nothing follows.
fn white_space(text: &str) -> usize {
    let end = run(text, 0, Class::is_space);
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    match end == text.len() || end == last {
        true => end,
        false => end - last,
    }
}

/// The end of the run of characters from `at` on that are `wanted`.
#[inline]
fn run(text: &str, mut at: usize, wanted: impl Fn(Class) -> bool) -> usize {
    while let Some(class) = class_at(text, at) {
        if !wanted(class) {
            break;
        }
        at += char_len(text.as_bytes()[at]);
    }
    at
}

/// What the patterns tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Numeral,
    /// `\r` or `\n`
    LineEnd,
    /// `\s`, but for line ends.
    Space,
    Other,
}

impl Class {
    fn is_space(self) -> bool {
        matches!(self, Class::Space | Class::LineEnd)
    }
}

#[inline]
fn class_at(text: &str, at: usize) -> Option<Class> {
    match *text.as_bytes().get(at)? {
        byte @ ..0x80 => Some(ASCII[byte as usize]),
        _ => text[at..].chars().next().map(|c| CLASSES[c as usize]),
    }
}

/// The length of a character, by its first byte in UTF-8.
#[inline]
fn char_len(first: u8) -> usize {
    match first {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    }
}

const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Numeral,
            b'\r' | b'\n' => Class::LineEnd,
            b' ' | b'\t' | 0x0B | 0x0C => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// Every character's class, asked of the regex crate: its tables are those that
/// the expressions are run with, of the same version of Unicode.
static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; char::MAX as usize + 1];
    let all: String = ('\0'..=char::MAX).collect();
    for (pattern, class) in [
        (r"\p{L}+", Class::Letter),
        (r"\p{N}+", Class::Numeral),
        (r"\s+", Class::Space),
        (r"[\r\n]", Class::LineEnd),
    ] {
        let pattern = regex::Regex::new(pattern).expect("a pattern of this file");
        for found in pattern.find_iter(&all) {
            found
                .as_str()
                .chars()
                .for_each(|c| classes[c as usize] = class);
        }
    }
    classes
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ascii_table_is_the_whole_one() {
        assert_eq!(ASCII[..], CLASSES[..128]);
    }

    fn cut(splitter: Splitter, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let done: Result<(), ()> = splitter.words(text, |word| {
            words.push(word.to_string());
            Ok(())
        });
        done.unwrap();
        words
    }

    #[test]
    fn words_are_cut_as_the_patterns_say() {
        let text = "I'll  take 25 mg,\n\n it'S 1/2\t(p<0.05) \u{a0}né";
        assert_eq!(
            cut(Splitter::Gpt2, text).join("|"),
            "I|'ll| | take| 25| mg|,|\n\n| it|'|S| 1|/|2|\t|(|p|<|0|.|05|)| |\u{a0}|né"
        );
        assert_eq!(
            cut(Splitter::DigitsThenGpt2, text).join("|"),
            "I|'ll| | take| |2|5| mg|,|\n\n| it|'|S| |1|/|2|\t|(|p|<|0|.|0|5|)| |\u{a0}|né"
        );
        assert_eq!(
            cut(Splitter::Llama3 { numerals: 3 }, "1234 it'S\r\n \n x\n").join("|"),
            "123|4| it|'S|\r\n \n| x|\n"
        );
        assert_eq!(
            cut(Splitter::Llama3 { numerals: 1 }, "12 x'ſy 'ſ. \n").join("|"),
            "1|2| x|'ſ|y| '|ſ|.| \n"
        );
    }
}
