//! What "the same words" means when records are compared.
//!
//! A text is a sequence of words: runs of letters and digits in lower case.
//! Punctuation and space part words and are not looked at, so `Type-2
//! diabetes.` and `type 2  Diabetes` are the same. Signs that change what is
//! said (`<`, `>`, `=`, `+`, `≤`, `≥`, `±`, `≠`) are words of their own: `p <
//! 0.05` is not `p > 0.05`. So is each ideograph, since nothing parts them. A
//! letter and its accent are the same text composed (NFC) or apart (NFD).
//!
//! Words are compared by 64-bit hashes (FNV-1a over a word's characters,
//! finished with SplitMix64's mixing), so nothing is copied or allocated.

use unicode_normalization::char::{decompose_canonical, is_combining_mark};

use crate::random::mix;

const START: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// What a byte is: a separator, a sign, the start of a character beyond ASCII,
/// or else a letter in lower case or a digit.
const SEPARATOR: u8 = 0;
const SIGN: u8 = 1;
const BEYOND: u8 = 2;

static FOLDED: [u8; 256] = {
    let mut table = [SEPARATOR; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = match b {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => b.to_ascii_lowercase(),
            b'<' | b'>' | b'=' | b'+' => SIGN,
            0x80.. => BEYOND,
            _ => SEPARATOR,
        };
        byte += 1;
    }
    table
};

/// Gives the hash of each word of `text` to `take`, in order.
pub(super) fn for_each_word(text: &str, mut take: impl FnMut(u64)) {
    let bytes = text.as_bytes();
    let mut hash = START;
    let mut at = 0;
    while at < bytes.len() {
        let folded = FOLDED[bytes[at] as usize];
        if folded > BEYOND {
            hash = absorb(hash, u32::from(folded));
            at += 1;
            continue;
        }
        let (kind, length) = match folded {
            SEPARATOR => (Kind::Separator, 1),
            SIGN => (Kind::Alone(u32::from(bytes[at])), 1),
            _ => beyond_ascii(&text[at..], &mut hash),
        };
        at += length;
        if kind == Kind::Within {
            continue;
        }
        if hash != START {
            take(mix(hash));
            hash = START;
        }
        if let Kind::Alone(character) = kind {
            take(mix(absorb(START, character)));
        }
    }
    if hash != START {
        take(mix(hash));
    }
}

/// The hashes of the words of `text`.
pub(super) fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 6 + 1);
    for_each_word(text, |word| words.push(word));
    words
}

/// What a character does.
#[derive(PartialEq)]
enum Kind {
    /// It is part of a word, or nothing at all.
    Within,
    /// It ends a word.
    Separator,
    /// It is a word.
    Alone(u32),
}

/// Takes the character beyond ASCII that `text` starts with: what it does and
/// its length in bytes.
fn beyond_ascii(text: &str, hash: &mut u64) -> (Kind, usize) {
    let Some(c) = text.chars().next() else {
        return (Kind::Separator, 1);
    };
    let kind = match c {
        '≤' | '≥' | '±' | '≠' => Kind::Alone(c.into()),
        // Kana, ideographs.
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => {
            Kind::Alone(c.into())
        }
        '\u{20000}'..='\u{3ffff}' => Kind::Alone(c.into()),
        // Invisible.
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => Kind::Within,
        _ if c.is_alphanumeric() || is_combining_mark(c) => {
            decompose_canonical(c, |part| {
                for lower in part.to_lowercase() {
                    // The two small sigmas are one letter.
                    let lower = if lower == 'ς' { 'σ' } else { lower };
                    *hash = absorb(*hash, lower.into());
                }
            });
            Kind::Within
        }
        _ => Kind::Separator,
    };
    (kind, c.len_utf8())
}

fn absorb(hash: u64, character: u32) -> u64 {
    (hash ^ u64::from(character)).wrapping_mul(PRIME)
}

/// Gives the hash of every `n` words in a row to `take`, with the position of
/// the first. The hash is a polynomial over the words' hashes modulo 2^64,
/// rolled from one position to the next (Karp and Rabin 1987), then mixed.
pub(super) fn for_each_gram(words: &[u64], n: usize, mut take: impl FnMut(usize, u64)) {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    if n == 0 || words.len() < n {
        return;
    }
    let push = |sum: u64, word: u64| sum.wrapping_mul(BASE).wrapping_add(word);
    let leaving = BASE.wrapping_pow(n as u32);
    let mut sum = words[..n].iter().fold(0, |sum, &word| push(sum, word));
    take(0, mix(sum));
    for (at, (&last, &first)) in words[n..].iter().zip(words).enumerate() {
        sum = push(sum, last).wrapping_sub(first.wrapping_mul(leaving));
        take(at + 1, mix(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_and_space_do_not_count() {
        let same = [
            "Type 2 diabetes: metformin, 500 mg.",
            "type-2 Diabetes\n\tMETFORMIN (500 mg)",
            "  \"type 2\" diabetes -- metformin; 500 mg!?",
        ];
        for text in same {
            assert_eq!(words(text), words(same[0]), "{text}");
        }
        assert_eq!(words(same[0]).len(), 6);
        for other in [
            "type 2 diabetes metformin 5 00 mg",
            "2 type diabetes metformin 500 mg",
        ] {
            assert_ne!(words(other), words(same[0]), "{other}");
        }
    }

    #[test]
    fn signs_count() {
        let p = [
            "p < 0.05",
            "p > 0.05",
            "p = 0.05",
            "p ≤ 0.05",
            "p ≥ 0.05",
            "p ± 0.05",
            "p 0.05",
        ];
        for (i, a) in p.iter().enumerate() {
            for b in &p[..i] {
                assert_ne!(words(a), words(b));
            }
        }
        assert_eq!(words("p<0.05"), words("P < 0.05"));
    }

    #[test]
    fn beyond_ascii() {
        assert_eq!(words("Ménière’s"), words("ME\u{301}NIE\u{300}RE s"));
        assert_ne!(words("Ménière"), words("Meniere"));
        assert_eq!(words("ΟΔΟΣ"), words("οδος"));
        assert_eq!(words("糖尿病").len(), 3);
        assert_eq!(words("糖 尿,病a"), words("糖尿病 a"));
        assert_eq!(words("dia\u{ad}betes"), words("diabetes"));
        assert_eq!(words("… — “” 👍"), Vec::<u64>::new());
    }

    #[test]
    fn a_gram_is_its_words_wherever_it_stands() {
        let text = words("a b c d e b c d f");
        for n in 1..=text.len() + 1 {
            let mut grams = Vec::new();
            for_each_gram(&text, n, |at, gram| {
                assert_eq!(at, grams.len());
                grams.push(gram);
            });
            assert_eq!(grams.len(), (text.len() + 1).saturating_sub(n));
            for (i, a) in grams.iter().enumerate() {
                for (j, b) in grams.iter().enumerate() {
                    assert_eq!(a == b, text[i..i + n] == text[j..j + n], "{n} {i} {j}");
                }
            }
        }
    }
}
