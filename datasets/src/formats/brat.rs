//! Notes annotated with brat: a `.txt` with its `.ann` beside it, in a folder or
//! a zip archive. Text-bound annotations (`T`) and relations (`R`) are read;
//! events, attributes and comments are not. Files that are not `.txt` are passed
//! over, so that a whole folder can be the source.
//!
//! Offsets count characters. A span in several pieces (`144 152;160 170`) is
//! marked from its first character to its last; its `text` has only the pieces.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::Format;
use super::spans::{Span, byte_offsets, entities, marked, slice};
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{MAX_RECORD_BYTES, Rows};
use crate::xml::{Draft, Flaw, fold};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format {
    name: "brat",
    about: "brat .txt with .ann beside it, a row a note: text, marked (problem, treatment, test and drug in <span class=\"...\">), marked_all (every type), entities (list of {start, end, type, text}), relations (list of {type, from, to}), note_id, specialty, sample_name, description",
    splits: &[],
    read,
    sample: None,
};

/// What recognition of clinical entities asks for; the other types (negation,
/// dosage, ...) say something about these.
const MARKED: &[&str] = &["problem", "treatment", "test", "drug"];

fn read(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    let Some(stem) = file.name.strip_suffix(".txt") else {
        return Ok(Box::new(std::iter::empty()));
    };
    let text = utf8(file)?;
    let annotations = beside(file, stem);
    let note_id = stem.rsplit('/').next().unwrap_or(stem);
    let note = match Note::read(&text, &utf8(&annotations)?, note_id) {
        Ok(note) => Ok(note.draft(text, note_id).row(1)),
        Err(flaw) => Err(flaw.at(&annotations, 1)),
    };
    Ok(Box::new(std::iter::once(note)))
}

/// The annotations of a text file whose name without `.txt` is `stem`.
fn beside(file: &SourceFile, stem: &str) -> SourceFile {
    let member = file.member.as_ref().map(|member| {
        let stem = member.strip_suffix(".txt").unwrap_or(member);
        format!("{stem}.ann")
    });
    let path = match member {
        Some(_) => file.path.clone(),
        None => file.path.with_extension("ann"),
    };
    SourceFile {
        name: format!("{stem}.ann"),
        path,
        member,
    }
}

fn utf8(file: &SourceFile) -> Result<String> {
    String::from_utf8(file.bytes(MAX_RECORD_BYTES)?).map_err(|error| Error::NotUtf8 {
        at: file.place(1, None),
        byte: error.utf8_error().valid_up_to(),
    })
}

#[derive(Default)]
struct Note {
    spans: Vec<Span>,
    relations: Vec<Value>,
}

impl Note {
    fn read(text: &str, annotations: &str, note_id: &str) -> std::result::Result<Self, Flaw> {
        let bytes = byte_offsets(text);
        let mut note = Self::default();
        let mut ids = BTreeSet::new();
        for (number, line) in annotation_lines(annotations) {
            let (id, rest) = line.split_once('\t').unwrap_or((line.as_str(), ""));
            let flaw = |problem: &str| Flaw::new(number, note_id, problem);
            let named = |problem: &str| flaw(&format!("{} {problem}", crate::xml::name_only(id)));
            match id.chars().next() {
                Some('T') => {
                    let span = text_bound(text, &bytes, rest).map_err(named)?;
                    note.spans.push(span);
                    ids.insert(id.to_string());
                }
                Some('R') => {
                    let relation = relation(rest);
                    let (kind, from, to) =
                        relation.ok_or_else(|| named("is not `type Arg1:T1 Arg2:T2`"))?;
                    note.relations
                        .push(json!({"type": kind, "from": from, "to": to}));
                }
                None | Some('E' | 'A' | 'M' | 'N' | '#' | '*') => {}
                Some(_) => return Err(flaw("a line that is no annotation")),
            }
        }
        let ends = note.relations.iter().flat_map(|r| [&r["from"], &r["to"]]);
        for end in ends.filter_map(Value::as_str) {
            if end.starts_with('T') && !ids.contains(end) {
                let problem = format!(
                    "a relation of {}, which is not there",
                    crate::xml::name_only(end)
                );
                return Err(Flaw::new(1, note_id, problem));
            }
        }
        Ok(note)
    }

    fn draft(self, text: String, note_id: &str) -> Draft {
        let header = |number: usize| header(&text, number).map_or(Value::Null, Value::from);
        let clinical: Vec<Span> = self
            .spans
            .iter()
            .filter(|span| MARKED.contains(&span.kind.as_str()))
            .cloned()
            .collect();
        Draft::new(
            None,
            [
                ("marked", marked(&text, &clinical).into()),
                ("marked_all", marked(&text, &self.spans).into()),
                ("entities", entities(&text, &self.spans)),
                ("relations", self.relations.into()),
                ("note_id", note_id.into()),
                ("specialty", header(0)),
                ("sample_name", header(1)),
                ("description", header(2)),
                ("text", text.into()),
            ],
        )
    }
}

/// The header of MTSamples' notes. Some copies are cut into tokens, with spaces
/// around `:` and `/` and lines joined or broken.
static HEADERS: LazyLock<Option<Vec<Regex>>> = LazyLock::new(|| {
    let names = [
        r"Sample Type\s*/\s*Medical Specialty",
        "Sample Name",
        "Description",
    ];
    let find = |name| Regex::new(&format!(r"(?m)(?:^|\s){name}\s*:\s*"));
    names
        .map(find)
        .into_iter()
        .collect::<std::result::Result<_, _>>()
        .ok()
});

/// The value of a header: to the line's end or the next header.
fn header(text: &str, number: usize) -> Option<&str> {
    let headers = HEADERS.as_ref()?;
    // In bytes; the headers are the first three lines.
    let within = (0..=text.len().min(2000))
        .rev()
        .find(|&at| text.is_char_boundary(at))?;
    let found = headers.get(number)?.find(&text[..within])?;
    let value = text[found.end()..].lines().next()?;
    let next = headers.iter().filter_map(|header| header.find(value));
    let end = next.map(|next| next.start()).min();
    let value = value[..end.unwrap_or(value.len())].trim();
    (!value.is_empty()).then_some(value)
}

/// The annotations of a file with the lines they begin on. Some files have the
/// line breaks of an annotated text as they are: what has no id and tab after
/// a text-bound annotation goes on with it.
fn annotation_lines(annotations: &str) -> Vec<(u64, String)> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for (number, line) in annotations.lines().enumerate() {
        let begins = line
            .split_once('\t')
            .is_some_and(|(id, _)| !id.contains(' '));
        match lines.last_mut() {
            Some((_, before)) if !begins && before.starts_with('T') => {
                before.push(' ');
                before.push_str(line);
            }
            _ => lines.push((number as u64 + 1, line.to_string())),
        }
    }
    lines
}

/// `problem 144 152;160 170<TAB>text`, checked against the note.
fn text_bound(text: &str, bytes: &[u32], line: &str) -> std::result::Result<Span, &'static str> {
    const SHAPE: &str = "is not `type start end<TAB>text`";
    let (place, quoted) = line.split_once('\t').ok_or(SHAPE)?;
    let (kind, offsets) = place.split_once(' ').ok_or(SHAPE)?;
    let mut pieces = Vec::new();
    for piece in offsets.split(';') {
        let (start, end) = piece.trim().split_once(' ').ok_or(SHAPE)?;
        let start: usize = start.parse().map_err(|_| SHAPE)?;
        let end: usize = end.trim().parse().map_err(|_| SHAPE)?;
        if start >= end {
            return Err("has an end that is not after its start");
        }
        let part = slice(text, bytes, start, end).ok_or("is beyond the text")?;
        pieces.push((start, end, part));
    }
    let found: Vec<&str> = pieces.iter().map(|(_, _, part)| *part).collect();
    let found = found.join(" ");
    if fold(&found) != fold(quoted) {
        return Err("does not have the text at its offsets");
    }
    let first = pieces.iter().min_by_key(|piece| piece.0).ok_or(SHAPE)?;
    let last = pieces.iter().max_by_key(|piece| piece.1).ok_or(SHAPE)?;
    // Space that was selected with the words is none of the entity's.
    let space = |character: &char| character.is_whitespace();
    let start = first.0 + first.2.chars().take_while(space).count();
    let end = last.1 - last.2.chars().rev().take_while(space).count();
    let (kind, words) = (kind.to_lowercase(), (pieces.len() > 1).then_some(found));
    let span = Span {
        start,
        end,
        kind,
        words,
    };
    (start < end)
        .then_some(span)
        .ok_or("is of nothing but space")
}

/// `hasAttr Arg1:T1 Arg2:T2`.
fn relation(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split_whitespace();
    let (kind, from, to) = (words.next()?, words.next()?, words.next()?);
    Some((kind, from.split_once(':')?.1, to.split_once(':')?.1))
}
