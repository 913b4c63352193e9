//! The i2b2 2012 temporal relations challenge (Sun, Rumshisky and Uzuner 2013):
//! one discharge summary a file, with problems, treatments and tests as EVENTs.
//!
//! Fourteen of the published files are not well-formed XML (attributes with raw
//! `&`, `<` and quotes), so this reader does not use an XML parser: it finds the
//! text's and the tags' markers, and an attribute's value ends at the quote that
//! another attribute or the tag's end follows.
//!
//! A row is a line of the note, which is a sentence; lines that one event spans
//! are one. Offsets are 1-based: an event is `text[start-1:end-1]`. Copies whose
//! text begins with one more or one less line break exist; the shift by one
//! under which more events have their text is used. A sentence with an event
//! that does not have its text is a bad record.

use std::collections::BTreeMap;
use std::path::Path;

use super::Format;
use super::spans::{Span, byte_offsets, entities, marked, slice};
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{MAX_RECORD_BYTES, Row, Rows};
use crate::xml::{Draft, Flaw, fold, resolve};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format {
    name: "i2b2-2012",
    about: "i2b2 2012 XML, a row a sentence: text, marked (<span class=\"problem|treatment|test\">...</span>), entities (list of {start, end, type, text}), note_id, sentence (number)",
    splits: &[],
    read,
    sample: None,
};

const TYPES: &[&str] = &["problem", "treatment", "test"];

fn read(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    let bytes = file.bytes(MAX_RECORD_BYTES)?;
    let source = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        at: file.place(1, None),
        byte: error.utf8_error().valid_up_to(),
    })?;
    // As every XML parser does, before offsets are counted.
    let source = source.replace("\r\n", "\n");
    if source.trim().is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    let note = Note::cut(file, &source)?;
    let note_id = file.name.rsplit('/').next().unwrap_or(&file.name);
    let note_id = note_id.strip_suffix(".xml").unwrap_or(note_id);
    Ok(Box::new(rows(&note, file, note_id).into_iter()))
}

struct Note {
    text: String,
    events: Vec<Event>,
}

/// A tag of the types wanted, as it is written.
struct Event {
    id: String,
    line: u64,
    kind: String,
    /// As the file has them, 1-based; `None` where they are no numbers.
    extent: Option<(usize, usize)>,
    text: String,
}

impl Note {
    /// Finds the text and the events of a file.
    fn cut(file: &SourceFile, source: &str) -> Result<Self> {
        let malformed = |message: &str, at: usize| Error::Xml {
            at: file.place(1 + count_lines(&source[..at.min(source.len())]), None),
            message: message.into(),
        };
        let begin = source.find("<TEXT>").map(|at| at + "<TEXT>".len());
        let begin = begin.ok_or_else(|| malformed("there is no <TEXT> in it", 0))?;
        // A note cannot hold the end of its own CDATA section, but may hold the
        // characters of its tags.
        let cdata = "<![CDATA[";
        let inside = &source[begin..];
        let (text, rest) = match inside.trim_start().starts_with(cdata) {
            true => {
                let start = begin + inside.find(cdata).unwrap_or(0) + cdata.len();
                let end = source[start..].find("]]>").map(|at| start + at);
                let end = end.ok_or_else(|| malformed("the text's CDATA has no end", start))?;
                (source[start..end].to_string(), end)
            }
            false => {
                let end = inside.find("</TEXT>").map(|at| begin + at);
                let end = end.ok_or_else(|| malformed("<TEXT> is not closed", begin))?;
                (resolve(&source[begin..end]), end)
            }
        };
        let tags = source[rest..].find("<TAGS").map(|at| rest + at);
        let tags = tags.ok_or_else(|| malformed("there is no <TAGS> after the text", rest))?;
        let mut events = Vec::new();
        let mut line = 1 + count_lines(&source[..tags]);
        let mut at = tags;
        while let Some(found) = source[at..].find("<EVENT ") {
            line += count_lines(&source[at..at + found]);
            at += found + "<EVENT".len();
            let (values, length) = attributes(&source[at..]);
            let length = length.ok_or_else(|| malformed("an <EVENT> is not closed", at))?;
            events.extend(event(&values, line));
            line += count_lines(&source[at..at + length]);
            at += length;
        }
        Ok(Self { text, events })
    }
}

fn event(values: &BTreeMap<&str, &str>, line: u64) -> Option<Event> {
    let value = |name: &str| values.get(name).copied().unwrap_or_default();
    let kind = value("type").to_lowercase();
    let number = |name: &str| value(name).trim().parse::<usize>().ok();
    TYPES.contains(&kind.as_str()).then(|| Event {
        id: value("id").to_string(),
        line,
        kind,
        extent: number("start").zip(number("end")),
        text: resolve(value("text")),
    })
}

/// The attributes from `tag` (after its name) on, and the length up to the
/// tag's end; no length where there is none.
fn attributes(tag: &str) -> (BTreeMap<&str, &str>, Option<usize>) {
    let mut values = BTreeMap::new();
    let mut at = 0;
    loop {
        let rest = &tag[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if trimmed.starts_with("/>") || trimmed.starts_with('>') {
            return (values, Some(at));
        }
        let Some((name, value)) = trimmed.split_once("=\"") else {
            return (values, None);
        };
        if !is_name(name) {
            return (values, None);
        }
        let Some(length) = value_length(value) else {
            return (values, None);
        };
        values.insert(name, &value[..length]);
        at += name.len() + 2 + length + 1;
    }
}

/// The length of a value: to the quote that the next attribute or the tag's end
/// follows, so that a quote within it does not end it.
fn value_length(value: &str) -> Option<usize> {
    value.match_indices('"').find_map(|(at, _)| {
        let after = value[at + 1..].trim_start();
        let next = after
            .split_once("=\"")
            .is_some_and(|(name, _)| is_name(name));
        let spaced = after.len() < value.len() - at - 1;
        let ends = after.starts_with("/>") || after.starts_with('>');
        (ends || (next && spaced)).then_some(at)
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 32 && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn count_lines(text: &str) -> u64 {
    text.bytes().filter(|&byte| byte == b'\n').count() as u64
}

/// Whether an event has its text when offsets begin with `base`; white space
/// apart.
fn fits(event: &Event, text: &str, bytes: &[u32], base: usize) -> Option<(usize, usize)> {
    let (start, end) = event.extent?;
    let (start, end) = (start.checked_sub(base)?, end.checked_sub(base)?);
    let found = slice(text, bytes, start, end).filter(|_| start < end)?;
    // Only space may differ, and there is little of it: a span that is much
    // longer than its text is not looked through.
    let like = found.len() <= 2 * event.text.len() + 64;
    (like && fold(found) == fold(&event.text)).then_some((start, end))
}

fn rows(note: &Note, file: &SourceFile, note_id: &str) -> Vec<Result<Row>> {
    let bytes = byte_offsets(&note.text);
    let fitting = |base: usize| {
        let fits = note
            .events
            .iter()
            .filter(|e| fits(e, &note.text, &bytes, base).is_some());
        fits.count()
    };
    let base = [1, 0, 2]
        .into_iter()
        .rev()
        .max_by_key(|&base| fitting(base))
        .unwrap_or(1);
    let mut spans = Vec::new();
    // Events without their text, by where they claim to begin.
    let mut flawed: BTreeMap<usize, Flaw> = BTreeMap::new();
    for event in &note.events {
        match fits(event, &note.text, &bytes, base) {
            Some((start, end)) => spans.push(Span {
                start,
                end,
                kind: event.kind.clone(),
                words: None,
            }),
            None => {
                let start = event
                    .extent
                    .map_or(usize::MAX, |(start, _)| start.saturating_sub(base));
                let id = format!("{note_id}/{}", event.id);
                let problem = "the event does not have the text at its offsets";
                flawed
                    .entry(start)
                    .or_insert_with(|| Flaw::new(event.line, &id, problem));
            }
        }
    }
    spans.sort_by(|a, b| (a.start, a.end, &a.kind).cmp(&(b.start, b.end, &b.kind)));
    let sentences = sentences(&note.text, &spans);
    let mut rows = Vec::new();
    let mut next = 0;
    for (number, &(start, end)) in sentences.iter().enumerate() {
        let number = number as u64 + 1;
        let text = slice(&note.text, &bytes, start, end).unwrap_or_default();
        let first = next;
        while next < spans.len() && spans[next].start < end {
            next += 1;
        }
        let mut bad = flawed.split_off(&start);
        let mut after = bad.split_off(&end);
        flawed.append(&mut after);
        match bad.pop_first() {
            Some((_, flaw)) => rows.push(Err(flaw.at(file, number))),
            None => {
                let inside = relative(&spans[first..next], start);
                rows.push(Ok(sentence(text, &inside, note_id, number)));
            }
        }
    }
    // Beyond the text, or between sentences.
    let beyond = flawed.into_values();
    rows.extend(beyond.map(|flaw| Err(flaw.at(file, sentences.len() as u64 + 1))));
    rows
}

fn relative(spans: &[Span], start: usize) -> Vec<Span> {
    let moved = |span: &Span| Span {
        start: span.start.saturating_sub(start),
        end: span.end.saturating_sub(start),
        kind: span.kind.clone(),
        words: None,
    };
    spans.iter().map(moved).collect()
}

fn sentence(text: &str, spans: &[Span], note_id: &str, number: u64) -> Row {
    let draft = Draft::new(
        Some(format!("{note_id}.{number}")),
        [
            ("text", text.into()),
            ("marked", marked(text, spans).into()),
            ("entities", entities(text, spans)),
            ("note_id", note_id.into()),
            ("sentence", number.into()),
        ],
    );
    draft.row(number)
}

/// Where each sentence begins and ends, in characters: lines without the space
/// around them, blank ones left out, those that a span crosses joined.
fn sentences(text: &str, spans: &[Span]) -> Vec<(usize, usize)> {
    let mut sentences: Vec<(usize, usize)> = Vec::new();
    let mut spans = spans.iter().peekable();
    // The furthest end of a span that began in an earlier line.
    let mut covered = 0;
    let mut start = 0;
    for line in text.split('\n') {
        let length = line.chars().count();
        let indent = length - line.trim_start().chars().count();
        let kept = line.trim().chars().count();
        let (from, to) = (start + indent, start + indent + kept);
        if kept > 0 {
            match sentences.last_mut() {
                Some(last) if covered > start => last.1 = to,
                _ => sentences.push((from, to)),
            }
        }
        start += length + 1;
        while let Some(span) = spans.next_if(|span| span.start < start) {
            covered = covered.max(span.end);
        }
    }
    sentences
}
