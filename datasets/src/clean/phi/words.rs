//! The capitalised words of a text, and what stands between them.

use super::before;
use super::lists::{flags, is};

/// A capitalised word, or an initial, at bytes of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) flags: u8,
    pub(super) initial: bool,
    /// It is all capitals, so its own case says nothing.
    pub(super) capitals: bool,
    pub(super) gap: Gap,
    pub(super) possessive: bool,
    /// With the possessive's "'s".
    pub(super) whole_end: usize,
}

/// What stands between a word and the capitalised word before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Gap {
    /// A space, or a particle such as "de la".
    Joined,
    /// A comma and a space.
    Comma,
    /// A full stop and a space, or a line's end after a title.
    Stop,
    /// Anything else.
    Apart,
}

/// What stands before a name.
pub(super) const TITLES: &[&str] = &[
    "Dr",
    "Drs",
    "Mr",
    "Mrs",
    "Ms",
    "Mx",
    "Miss",
    "Prof",
    "Professor",
    "Doctor",
    "DR",
    "MR",
    "MRS",
    "MS",
    "Nurse",
    "Rev",
    "Reverend",
    "Rabbi",
    "Pastor",
    "Sgt",
    "Capt",
    "Officer",
    "Judge",
    "Attorney",
];

/// What joins the parts of a surname.
const PARTICLES: &[&str] = &[
    "de", "la", "del", "der", "van", "von", "den", "di", "da", "du", "dos", "le", "bin", "ibn",
    "al", "el", "ter", "y",
];

/// The capitalised words of a text.
pub(super) fn words(text: &str) -> Vec<Word> {
    let bytes = text.as_bytes();
    let mut words: Vec<Word> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(letter) = letter_at(text, at) else {
            at += 1;
            continue;
        };
        let start = at;
        let upper = letter.is_uppercase();
        at = word_end(text, start);
        let joined_to_number = start > 0
            && (bytes[start - 1].is_ascii_digit() || bytes[start - 1] == b'_')
            || bytes
                .get(at)
                .is_some_and(|b| b.is_ascii_digit() || *b == b'_' || *b == b'@');
        if !upper || joined_to_number {
            continue;
        }
        let end = without_possessive(text, start, at);
        let shown = &text[start..end];
        let gap = words
            .last()
            .map_or(Gap::Apart, |previous| gap(text, previous, start));
        words.push(Word {
            start,
            end,
            flags: if is_placeholder(shown) {
                is::STOP
            } else {
                flags(shown)
            },
            initial: shown.chars().count() == 1,
            capitals: end - start > 1 && !shown.chars().any(char::is_lowercase),
            gap,
            possessive: end < at,
            whole_end: at,
        });
    }
    words
}

/// The letter that starts at a byte; none in the middle of a character.
fn letter_at(text: &str, at: usize) -> Option<char> {
    let byte = text.as_bytes()[at];
    if byte.is_ascii() {
        return byte.is_ascii_alphabetic().then_some(byte as char);
    }
    let letter = text.get(at..)?.chars().next()?;
    letter.is_alphabetic().then_some(letter)
}

/// Where a word ends: letters, with an apostrophe or hyphen between letters.
fn word_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        match letter_at(text, at) {
            Some(letter) => at += letter.len_utf8(),
            None => {
                let mark = match bytes[at] {
                    b'\'' | b'-' => 1,
                    _ if text.get(at..at + 3) == Some("\u{2019}") => 3,
                    _ => break,
                };
                if at + mark >= bytes.len() || letter_at(text, at + mark).is_none() {
                    break;
                }
                at += mark;
            }
        }
    }
    at
}

/// "XXXX", "XYZ", "ABC": what public notes have in place of names.
pub(super) fn is_placeholder(word: &str) -> bool {
    word == "ABC" || word.len() > 1 && word.bytes().all(|b| matches!(b, b'X' | b'Y' | b'Z'))
}

fn without_possessive(text: &str, start: usize, end: usize) -> usize {
    let word = &text[start..end];
    for mark in ["'s", "\u{2019}s", "'S"] {
        if let Some(base) = word.strip_suffix(mark).filter(|base| !base.is_empty()) {
            return start + base.len();
        }
    }
    end
}

/// Is the line that ends here broken for its length, so that the next goes on
/// with the same sentence?
fn is_wrapped(text: &str, end: usize) -> bool {
    const WRAPPED_BYTES: usize = 45;
    !before(text, end, WRAPPED_BYTES).contains('\n') && end >= WRAPPED_BYTES
}

fn gap(text: &str, previous: &Word, start: usize) -> Gap {
    let Some(between) = text
        .get(previous.whole_end..start)
        .filter(|between| between.len() <= 16)
    else {
        return Gap::Apart;
    };
    let shown = &text[previous.start..previous.end];
    match between {
        " " | "  " | "\u{a0}" => Gap::Joined,
        ", " | "," => Gap::Comma,
        "." | ". " | ".  " | ".\u{a0}" => Gap::Stop,
        ".\n" | "\n" | " \n" if TITLES.contains(&shown) => Gap::Stop,
        ".\n" if previous.initial => Gap::Stop,
        "\n" if is_wrapped(text, previous.end) => Gap::Joined,
        _ => {
            let particles = between.trim_matches([' ', '.']);
            let joined = !particles.is_empty()
                && between.starts_with([' ', '.'])
                && between.ends_with(' ')
                && particles.split(' ').all(|word| PARTICLES.contains(&word));
            if joined { Gap::Joined } else { Gap::Apart }
        }
    }
}
