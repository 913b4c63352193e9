//! Named entities as one token a line with its tag (IOB/BIO; IOBES and BILOU
//! are read too), a blank line between sentences.
//!
//! The token is a line's first column, the tag its last; columns are separated
//! by tabs, or by spaces in a line without a tab. A tag without a type (`B`)
//! has the type that the file's name holds (disease, chemical, ...), else
//! `entity`.

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::lines::Lines;
use super::spans::{Span, entities, marked};
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{MAX_RECORD_BYTES, Rows};
use crate::xml::{Draft, Flaw};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format {
    name: "iob",
    about: "token and tag a line (IOB), a row a sentence: tokens (list), tags (list), text (tokens joined by spaces), marked (<span class=\"disease\">...</span>), entities (list of {start, end, type, text})",
    splits: &[],
    read,
    sample: None,
};

/// Types that a file's name may hold, for tags without one.
const TYPES: &[(&str, &str)] = &[
    ("disease", "disease"),
    ("chem", "chemical"),
    ("gene", "gene"),
    ("protein", "protein"),
    ("species", "species"),
    ("drug", "drug"),
];

fn read(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    let name = file.name.to_lowercase();
    let bare = TYPES.iter().find(|(word, _)| name.contains(word));
    let mut sentences = Sentences {
        lines: Lines::open(file)?,
        file: file.clone(),
        bare: bare.map_or("entity", |(_, kind)| kind),
        number: 0,
    };
    Ok(Box::new(std::iter::from_fn(move || sentences.next_row())))
}

struct Sentences {
    lines: Lines,
    file: SourceFile,
    /// The type of a tag without one.
    bare: &'static str,
    number: u64,
}

#[derive(Default)]
struct Sentence {
    tokens: Vec<String>,
    tags: Vec<String>,
    bytes: usize,
    /// The first line that is no token with its tag, and why.
    bad: Option<Flaw>,
}

impl Sentences {
    fn next_row(&mut self) -> Option<Result<crate::rows::Row>> {
        let mut sentence = Sentence::default();
        loop {
            match self.lines.next() {
                None if sentence.is_empty() => return None,
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok((_, line))) if line.trim().is_empty() => {
                    if !sentence.is_empty() {
                        break;
                    }
                }
                Some(Ok((_, line))) if line.starts_with("-DOCSTART-") => {}
                Some(Ok((line, text))) => sentence.add(line, &text),
            }
            if sentence.bytes > MAX_RECORD_BYTES {
                return Some(Err(Error::RecordTooLarge {
                    at: self.file.place(1, Some(self.number + 1)),
                    limit_bytes: MAX_RECORD_BYTES,
                }));
            }
        }
        self.number += 1;
        let row = match sentence.bad.take() {
            Some(flaw) => Err(flaw.at(&self.file, self.number)),
            None => Ok(self.draft(sentence).row(self.number)),
        };
        Some(row)
    }

    fn draft(&self, sentence: Sentence) -> Draft {
        let text = sentence.tokens.join(" ");
        let spans = spans(&sentence, self.bare);
        let (marked, entities) = (marked(&text, &spans), entities(&text, &spans));
        Draft::new(
            None,
            [
                ("tokens", Value::from(sentence.tokens)),
                ("tags", sentence.tags.into()),
                ("text", text.into()),
                ("marked", marked.into()),
                ("entities", entities),
            ],
        )
    }
}

impl Sentence {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.bad.is_none()
    }

    fn add(&mut self, line: u64, text: &str) {
        let columns: Vec<&str> = match text.contains('\t') {
            true => text.trim_end().split('\t').collect(),
            false => text.split_whitespace().collect(),
        };
        let flaw = |problem| Some(Flaw::new(line, "sentence", problem));
        match columns.as_slice() {
            [token, .., tag] if parts(tag).is_some() => {
                self.bytes += token.len() + tag.len() + 64;
                self.tokens.push(token.trim().to_string());
                self.tags.push(tag.to_string());
            }
            [_, .., _] => {
                let known = "the last column is no tag such as O, B or I-Disease";
                self.bad = self.bad.take().or_else(|| flaw(known));
            }
            _ => self.bad = self.bad.take().or_else(|| flaw("a token without a tag")),
        }
    }
}

/// A tag's prefix and type; `None` if it is no tag.
fn parts(tag: &str) -> Option<(char, &str)> {
    let mut characters = tag.chars();
    let prefix = characters.next()?;
    let rest = characters.as_str();
    match (prefix, rest.strip_prefix('-')) {
        ('O', None) if rest.is_empty() => Some(('O', "")),
        ('B' | 'I' | 'E' | 'L' | 'S' | 'U', None) if rest.is_empty() => Some((prefix, "")),
        ('B' | 'I' | 'E' | 'L' | 'S' | 'U', Some(kind)) if !kind.is_empty() => Some((prefix, kind)),
        _ => None,
    }
}

/// The entities of a sentence, with offsets in its tokens joined by spaces. A
/// tag that goes on where nothing of its type was begun begins one, as in IOB1.
fn spans(sentence: &Sentence, bare: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut open = false;
    let mut start = 0;
    for (token, tag) in sentence.tokens.iter().zip(&sentence.tags) {
        let end = start + token.chars().count();
        let (prefix, kind) = parts(tag).unwrap_or(('O', ""));
        let kind = match kind {
            "" => bare.to_string(),
            kind => kind.to_lowercase(),
        };
        let goes_on = matches!(prefix, 'I' | 'E' | 'L') && open;
        match spans.last_mut() {
            Some(last) if goes_on && last.kind == kind => last.end = end,
            _ if prefix != 'O' => spans.push(Span {
                start,
                end,
                kind,
                words: None,
            }),
            _ => {}
        }
        open = matches!(prefix, 'B' | 'I');
        start = end + 1;
    }
    spans
}
