use std::borrow::Cow;
use std::ops::{BitOr, BitOrAssign};

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{html, marks};
use crate::recipe::Marks;

/// Writes equal text with equal bytes. What each step does:
///
/// | step | change | what |
/// |---|---|---|
/// | HTML, if asked for | `html` | entities resolved once, tags to line breaks or nothing |
/// | control characters | `control` | removed, except line feed and tab; also U+FEFF, U+00AD, U+200B, U+2060 and the marks of writing direction |
/// | Unicode | `unicode` | NFC |
/// | space | `space` | every line end is a line feed (also U+2028, U+2029, U+0085, vertical tab, form feed); none before a line end or around the text |
/// | marks, if asked for | `marks` | `[**Known lastname 12**]` to `[NAME]`, `___` to `[REDACTED]` |
///
/// The zero-width joiners U+200C and U+200D stay: scripts and emoji need them.
/// But for HTML, normalising normalised text changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normaliser {
    normalise: bool,
    html: bool,
    marks: Marks,
}

impl Normaliser {
    /// Does the steps that a recipe's `clean.normalise` and its source's `html`
    /// and `marks` ask for.
    pub fn new(normalise: bool, html: bool, marks: Marks) -> Self {
        Self {
            normalise,
            html,
            marks,
        }
    }

    /// The text after every step, and which steps changed it. Text that needs
    /// nothing is borrowed.
    pub fn apply<'t>(&self, text: &'t str) -> (Cow<'t, str>, Changes) {
        let mut text = Cow::Borrowed(text);
        let mut changes = Changes::default();
        let mut step = |function: fn(&str) -> Option<String>, change: Changes| {
            if let Some(changed) = function(&text) {
                text = Cow::Owned(changed);
                changes |= change;
            }
        };
        if self.html {
            step(html::to_text, Changes::HTML);
        }
        if self.normalise {
            // Control characters first: one between a letter and its accent
            // would keep NFC from joining them.
            step(without_control, Changes::CONTROL);
            step(to_nfc, Changes::UNICODE);
            step(tidy_space, Changes::SPACE);
        }
        if self.marks == Marks::Surrogate {
            step(marks::surrogates, Changes::MARKS);
        }
        (text, changes)
    }
}

/// The steps that changed a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Changes(u8);

impl Changes {
    /// HTML became text.
    pub const HTML: Self = Self(1);
    /// Control characters were removed.
    pub const CONTROL: Self = Self(2);
    /// Another way to write the same characters.
    pub const UNICODE: Self = Self(4);
    /// Line ends and the space before them or around the text.
    pub const SPACE: Self = Self(8);
    /// Marks of de-identification became surrogates.
    pub const MARKS: Self = Self(16);

    /// Every step and its name, in the order in which they are done.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::HTML, "html"),
        (Self::CONTROL, "control"),
        (Self::UNICODE, "unicode"),
        (Self::SPACE, "space"),
        (Self::MARKS, "marks"),
    ];

    /// Whether nothing changed.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `steps` changed it.
    pub fn contains(self, steps: Self) -> bool {
        self.0 & steps.0 == steps.0
    }

    /// The names of the steps.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::ALL
            .into_iter()
            .filter_map(move |(step, name)| self.contains(step).then_some(name))
    }
}

impl BitOr for Changes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Changes {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Characters that are not text. Those that end a line are [`is_line_end`]'s.
fn is_control(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}'
        | '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Ends a line, and is not a line feed.
fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn without_control(text: &str) -> Option<String> {
    // No byte of printable ASCII, tab, line feed or carriage return is part of
    // a control character, so most text is not decoded.
    if text
        .bytes()
        .all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r'))
        || !text.chars().any(is_control)
    {
        return None;
    }
    Some(text.chars().filter(|&c| !is_control(c)).collect())
}

fn to_nfc(text: &str) -> Option<String> {
    (!text.is_ascii() && !is_nfc(text)).then(|| text.nfc().collect())
}

fn tidy_space(text: &str) -> Option<String> {
    if is_tidy(text) {
        return None;
    }
    let mut tidy = String::with_capacity(text.len());
    let lines = text.replace("\r\n", "\n");
    for line in lines.split(|c| c == '\n' || is_line_end(c)) {
        tidy.push_str(line.trim_end());
        tidy.push('\n');
    }
    tidy.truncate(tidy.trim_end().len());
    tidy.drain(..tidy.len() - tidy.trim_start().len());
    Some(tidy)
}

fn is_tidy(text: &str) -> bool {
    if text.trim().len() != text.len() {
        return false;
    }
    let bytes = text.as_bytes();
    if bytes.iter().any(|b| matches!(b, b'\r' | 0xb | 0xc)) {
        return false;
    }
    // Line ends and spaces beyond ASCII start with one of these bytes.
    let beyond = bytes.iter().any(|b| matches!(b, 0xc2 | 0xe1..=0xe3));
    if beyond && text.contains(is_line_end) {
        return false;
    }
    text.match_indices('\n').all(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| c == '\n' || !c.is_whitespace())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    fn normalised(text: &str) -> (String, Vec<&'static str>) {
        let (text, changes) = Normaliser::new(true, false, Marks::Keep).apply(text);
        (text.into_owned(), changes.names().collect())
    }

    #[test]
    fn clean_text_is_borrowed() {
        let all = Normaliser::new(true, true, Marks::Surrogate);
        for text in [
            "",
            "p < 0.05 & n = 3",
            "a\n\n\tb [* x *] __",
            "naïve 10 µg…",
        ] {
            let (clean, changes) = all.apply(text);
            assert!(
                matches!(clean, Cow::Borrowed(same) if same == text),
                "{text}"
            );
            assert!(changes.is_empty());
        }
    }

    #[test]
    fn nothing_is_done_unasked() {
        let text = " a\u{0} <b>e\u{301}</b>\r\n[**Age**] ___ ";
        let (same, changes) = Normaliser::new(false, false, Marks::Keep).apply(text);
        assert!(matches!(same, Cow::Borrowed(_)));
        assert!(changes.is_empty());
    }

    #[test]
    fn each_step_is_named() {
        assert_eq!(normalised("cafe\u{301}"), ("café".into(), vec!["unicode"]));
        assert_eq!(
            normalised("\u{feff}a\u{0}b\u{200b}c\u{9b}"),
            ("abc".into(), vec!["control"])
        );
        assert_eq!(
            normalised("a \r\nb\rc\u{2028}d\u{c}e\u{a0}\n\u{3000}\n  f\t\n"),
            ("a\nb\nc\nd\ne\n\n  f".into(), vec!["space"])
        );
        // What keeps an accent from its letter is removed before they are joined.
        assert_eq!(
            normalised("e\u{200b}\u{301}"),
            ("é".into(), vec!["control", "unicode"])
        );
        // Joiners shape letters and emoji.
        assert_eq!(normalised("👩\u{200d}⚕").1, Vec::<&str>::new());
    }

    #[test]
    fn every_step_at_once() {
        let (text, changes) = Normaliser::new(true, true, Marks::Surrogate)
            .apply("<p>Mr [**Known lastname 12**]\u{7} e\u{301}&lt; 3 </p>\r\n");
        assert_eq!(text, "Mr [NAME] é< 3");
        assert_eq!(
            changes.names().collect::<Vec<_>>(),
            ["html", "control", "unicode", "space", "marks"]
        );
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        const PARTS: [&str; 34] = [
            "a", "B", " ", "\t", "\n", "\r", "\r\n", "\u{0}", "\u{85}", "\u{a0}", "\u{301}",
            "\u{323}", "é", "e", "\u{200b}", "\u{200d}", "\u{2028}", "\u{feff}", "\u{1100}",
            "\u{1161}", "\u{212b}", "\u{2000}", "[**", "**]", "[", "]", "*", "_", "___", "Name",
            "2151-7", "\u{37e}", "\u{338}", "=",
        ];
        let draws = Draws::new(1, "idempotent");
        let normalisers = [Marks::Keep, Marks::Surrogate].map(|m| Normaliser::new(true, false, m));
        for case in 0..20_000u64 {
            let text: String = (0..case % 24)
                .map(|i| PARTS[(draws.at(case * 64 + i) % PARTS.len() as u64) as usize])
                .collect();
            for normaliser in normalisers {
                let (once, _) = normaliser.apply(&text);
                let (twice, changes) = normaliser.apply(&once);
                assert_eq!(once, twice, "{text:?}");
                assert!(changes.is_empty(), "{text:?} {changes:?}");
            }
        }
    }

    #[test]
    fn every_character_is_normalised_once() {
        let normaliser = Normaliser::new(true, false, Marks::Keep);
        for c in '\u{0}'..=char::MAX {
            let text = format!("x{c}y\n{c}\nz");
            let (once, changes) = normaliser.apply(&text);
            assert_eq!(once != text, !changes.is_empty(), "{c:?}");
            assert!(normaliser.apply(&once).1.is_empty(), "{c:?}");
            if c.is_control() && !matches!(c, '\n' | '\t') {
                assert!(!once.contains(c), "{c:?}");
            }
        }
    }
}
