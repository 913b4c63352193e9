//! Reads the elements of a file that are records, and makes rows of them.

use quick_xml::Reader;
use quick_xml::encoding::EncodingError;
use quick_xml::errors::{Error as Problem, IllFormedError};
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesStart, Event};

use super::{Draft, Element, Flaw, Node, name_only, resolve};
use crate::bounded::Bounded;
use crate::error::Place;
use crate::files::SourceFile;
use crate::rows::{MAX_RECORD_BYTES, Rows};
use crate::{Error, Result};

/// Levels of elements in elements. Honest documents have about 30.
const MAX_DEPTH: usize = 256;
/// Elements, attributes and pieces of text in one record; an article with large
/// tables has some ten thousand.
const MAX_NODES: usize = 1 << 20;
/// Attributes of one element; the formats read here have about ten.
const MAX_ATTRIBUTES: usize = 1000;

/// The elements of given names, wherever they are in a file; those in another
/// one of them are part of it. Ends after an error.
pub(crate) struct Elements {
    reader: Reader<Bounded>,
    buffer: Vec<u8>,
    file: SourceFile,
    wanted: &'static [&'static str],
    /// Start tags that are open around the next record.
    depth: usize,
    /// Records begun so far.
    number: u64,
    /// Something other than space was in the file.
    any: bool,
    done: bool,
}

impl Elements {
    /// Opens a file to read its elements that are called one of `wanted`.
    pub fn open(file: &SourceFile, wanted: &'static [&'static str]) -> Result<Self> {
        let mut reader = Reader::from_reader(Bounded::new(file.open()?, MAX_RECORD_BYTES));
        // A lone `&` is common where documents were written by hand.
        reader.config_mut().allow_dangling_amp = true;
        reader.config_mut().expand_empty_elements = true;
        Ok(Self {
            reader,
            buffer: Vec::new(),
            file: file.clone(),
            wanted,
            depth: 0,
            number: 0,
            any: false,
            done: false,
        })
    }

    fn next_element(&mut self) -> Result<Option<Element>> {
        loop {
            self.reader.get_mut().renew();
            match self.event()? {
                Token::Start(element) if self.wanted.contains(&element.name.as_str()) => {
                    self.number += 1;
                    return self.tree(element).map(Some);
                }
                Token::Start(_) => {
                    self.any = true;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.too_deep());
                    }
                }
                Token::End => self.depth = self.depth.saturating_sub(1),
                Token::Text(text) => self.any |= !text.trim().is_empty(),
                Token::Eof if self.depth > 0 => return Err(self.unclosed()),
                Token::Eof if self.any && self.number == 0 => return Err(self.none_found()),
                Token::Eof => return Ok(None),
            }
        }
    }

    /// Reads to the end of `root`, whose start tag has been read.
    fn tree(&mut self, root: Element) -> Result<Element> {
        let mut nodes = 1 + root.attributes.len();
        let mut open = vec![root];
        loop {
            match self.event()? {
                Token::Start(element) => {
                    nodes += 1 + element.attributes.len();
                    if open.len() + self.depth >= MAX_DEPTH {
                        return Err(self.too_deep());
                    }
                    open.push(element);
                }
                Token::Text(text) => {
                    // Each reference is a token of its own; text is one node.
                    let inner = open.last_mut().map(|element| &mut element.nodes);
                    match inner {
                        Some(inner) => match inner.last_mut() {
                            Some(Node::Text(before)) => before.push_str(&text),
                            _ => {
                                nodes += 1;
                                inner.push(Node::Text(text));
                            }
                        },
                        None => return Err(self.unclosed()),
                    }
                }
                Token::End => {
                    let Some(mut element) = open.pop() else {
                        return Err(self.unclosed());
                    };
                    element.nodes.shrink_to_fit();
                    match open.last_mut() {
                        Some(parent) => parent.nodes.push(Node::Element(element)),
                        None => return Ok(element),
                    }
                }
                Token::Eof => return Err(self.unclosed()),
            }
            if nodes > MAX_NODES {
                return Err(self.xml(format!("more than {MAX_NODES} elements in one record")));
            }
        }
    }

    /// The next tag or piece of text.
    fn event(&mut self) -> Result<Token> {
        loop {
            self.buffer.clear();
            let start = self.reader.get_ref().offset;
            // The reader borrows the buffer for as long as the event lives.
            let mut buffer = std::mem::take(&mut self.buffer);
            let token = match self.reader.read_event_into(&mut buffer) {
                Ok(Event::Start(tag) | Event::Empty(tag)) => {
                    let line = self.reader.get_ref().line;
                    element(&tag, line).map(|tag| Some(Token::Start(tag)))
                }
                Ok(Event::End(_)) => Ok(Some(Token::End)),
                Ok(Event::Text(text)) => Ok(Some(Token::Text(text.xml10_content().into_owned()))),
                Ok(Event::CData(text)) => Ok(Some(Token::Text(text.xml10_content().into_owned()))),
                Ok(Event::GeneralRef(name)) => {
                    Ok(Some(Token::Text(resolve(&format!("&{};", &*name)))))
                }
                Ok(Event::Eof) => Ok(Some(Token::Eof)),
                Ok(Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {
                    Ok(None)
                }
                Err(problem) => Err(problem),
            };
            self.buffer = buffer;
            match token {
                Ok(Some(token)) => return Ok(token),
                Ok(None) => {}
                Err(problem) => return Err(self.problem(problem, start)),
            }
        }
    }

    fn place(&self) -> Place {
        let record = (self.number > 0).then_some(self.number);
        self.file.place(self.reader.get_ref().line, record)
    }

    fn xml(&self, message: impl Into<String>) -> Error {
        Error::Xml {
            at: self.place(),
            message: message.into(),
        }
    }

    fn too_deep(&self) -> Error {
        self.xml(format!("elements are nested more than {MAX_DEPTH} deep"))
    }

    fn unclosed(&self) -> Error {
        self.xml("the file ends before its last element does")
    }

    fn none_found(&self) -> Error {
        let names: Vec<String> = self.wanted.iter().map(|name| format!("<{name}>")).collect();
        self.xml(format!("there is no {} in it", names.join(" or ")))
    }

    /// What the parser found wrong, without quoting the file: a tag's name may
    /// be text after a `<` that is none.
    fn problem(&self, problem: Problem, start: u64) -> Error {
        let reader = self.reader.get_ref();
        match problem {
            Problem::Io(_) if reader.spent => Error::RecordTooLarge {
                at: self.place(),
                limit_bytes: reader.limit_bytes(),
            },
            Problem::Io(source) => Error::Read {
                path: self.file.path.clone(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
            Problem::Encoding(EncodingError::Utf8(error)) => Error::NotUtf8 {
                at: self.place(),
                byte: start as usize + error.valid_up_to(),
            },
            Problem::Syntax(error) => self.xml(error.to_string()),
            Problem::IllFormed(IllFormedError::MismatchedEndTag { expected, found }) => {
                let (expected, found) = (name_only(&expected), name_only(&found));
                self.xml(format!("expected </{expected}>, found </{found}>"))
            }
            Problem::IllFormed(IllFormedError::UnmatchedEndTag(name)) => {
                self.xml(format!("</{}> closes nothing", name_only(&name)))
            }
            Problem::InvalidAttr(_) => {
                self.xml("a tag's attributes are not name=\"value\", or more than 1000")
            }
            _ => self.xml("not well-formed"),
        }
    }
}

impl Iterator for Elements {
    type Item = Result<Element>;

    fn next(&mut self) -> Option<Result<Element>> {
        if self.done {
            return None;
        }
        let next = self.next_element().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

enum Token {
    Start(Element),
    End,
    Text(String),
    Eof,
}

fn element(tag: &BytesStart<'_>, line: u64) -> std::result::Result<Element, Problem> {
    let mut attributes = Vec::new();
    // The check for repeated names compares each with all before it.
    for attribute in tag.attributes().with_checks(false) {
        let attribute = attribute.map_err(Problem::InvalidAttr)?;
        if attributes.len() == MAX_ATTRIBUTES {
            let place = attribute.value.len();
            return Err(Problem::InvalidAttr(AttrError::ExpectedEq(place)));
        }
        // A line break in a value is read as a space (XML 1.0, 3.3.3).
        let value = attribute.value.replace("\r\n", " ");
        let value = value.replace(['\r', '\n', '\t'], " ");
        attributes.push((attribute.key.0.to_string(), resolve(&value)));
    }
    attributes.shrink_to_fit();
    Ok(Element {
        name: tag.name().0.to_string(),
        line,
        attributes,
        nodes: Vec::new(),
    })
}

/// The rows of one element, made as they are asked for: what they repeat (a
/// document's focus, a sentence) is not held once a row.
pub(crate) type Drafts = Box<dyn Iterator<Item = std::result::Result<Draft, Flaw>> + Send>;

/// The rows that `make` makes of a file's `wanted` elements, numbered from 1.
pub(crate) fn rows(
    file: &SourceFile,
    wanted: &'static [&'static str],
    make: fn(Element) -> Drafts,
) -> Result<Rows> {
    type Made = Box<dyn Iterator<Item = Result<std::result::Result<Draft, Flaw>>> + Send>;
    let made = Elements::open(file, wanted)?.flat_map(move |element| -> Made {
        match element {
            Ok(element) => Box::new(make(element).map(Ok)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    let file = file.clone();
    let mut number = 0;
    Ok(Box::new(made.map(move |draft| {
        number += 1;
        match draft? {
            Ok(draft) => Ok(draft.row(number)),
            Err(flaw) => Err(flaw.at(&file, number)),
        }
    })))
}

/// Rows of one element each.
pub(crate) fn one(draft: std::result::Result<Draft, Flaw>) -> Drafts {
    Box::new(std::iter::once(draft))
}
