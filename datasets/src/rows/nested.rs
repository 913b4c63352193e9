//! Records inside groups in one JSON object, as SQuAD and its kin are written:
//! `{"data": [{"title": .., "paragraphs": [record, ..]}, ..]}`. One record is
//! held at a time, however large the groups are.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::input::open;
use super::json::Cursor;
use crate::files::SourceFile;
use crate::{Error, Result};

/// A record inside a group.
pub(crate) struct Nested {
    /// The text that names the group, if it has one.
    pub title: Option<String>,
    pub fields: Map<String, Value>,
}

/// The names on the way to the records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The list of groups.
    pub groups: &'static str,
    /// A group's title.
    pub title: &'static str,
    /// A group's list of records.
    pub records: &'static str,
}

/// Reads the records of all groups. A title may follow its records (JSON
/// objects have no order), so the titles are read first, in a pass of their own.
pub(crate) fn nested(
    file: &SourceFile,
    names: Names,
) -> Result<impl Iterator<Item = Result<Nested>> + Send + use<>> {
    let mut titles = Vec::new();
    let mut scan = Walk::new(file, names, false)?;
    while let Some(step) = scan.step()? {
        if let Step::Title(group, title) = step {
            titles.resize(titles.len().max(group), None);
            titles[group - 1] = title;
        }
    }
    let mut walk = Some(Walk::new(file, names, true)?);
    Ok(std::iter::from_fn(move || {
        loop {
            match walk.as_mut()?.step() {
                Ok(Some(Step::Title(..))) => {}
                Ok(Some(Step::Record(group, fields))) => {
                    let title = titles.get(group - 1).cloned().flatten();
                    return Some(fields.map(|fields| Nested { title, fields }));
                }
                Ok(None) => walk = None,
                Err(error) => {
                    walk = None;
                    return Some(Err(error));
                }
            }
        }
    }))
}

/// What a step through the file met, with the group it is in, from 1.
enum Step {
    Title(usize, Option<String>),
    Record(usize, Result<Map<String, Value>>),
}

/// What the next element belongs to.
enum Level {
    File,
    Groups,
    Group,
    Records,
}

struct Walk<R> {
    cursor: Cursor<R>,
    names: Names,
    /// Stop at records; otherwise pass over all of them at once.
    records: bool,
    level: Level,
    group: usize,
    found: bool,
}

impl Walk<Box<dyn BufRead + Send>> {
    fn new(file: &SourceFile, names: Names, records: bool) -> Result<Self> {
        let mut input = open(file)?;
        match input.peek_past_space()? {
            Some(b'{') => {}
            other => return Err(input.wrong_shape("a JSON object", other.unwrap_or_default())),
        }
        let mut cursor = Cursor::new(input);
        cursor.enter();
        Ok(Self {
            cursor,
            names,
            records,
            level: Level::File,
            group: 0,
            found: false,
        })
    }
}

impl<R: BufRead> Walk<R> {
    fn step(&mut self) -> Result<Option<Step>> {
        loop {
            match self.level {
                Level::File => {
                    if !self.cursor.next(b'}')? {
                        self.cursor.nothing_follows()?;
                        return if self.found {
                            Ok(None)
                        } else {
                            Err(self.no_groups())
                        };
                    }
                    if self.cursor.key()? == self.names.groups {
                        self.found = true;
                        self.cursor.open(b'[', "a list of groups")?;
                        self.level = Level::Groups;
                    } else {
                        self.cursor.skip()?;
                    }
                }
                Level::Groups => {
                    if self.cursor.next(b']')? {
                        self.cursor.open(b'{', "a group")?;
                        self.group += 1;
                        self.level = Level::Group;
                    } else {
                        self.level = Level::File;
                    }
                }
                Level::Group => {
                    if !self.cursor.next(b'}')? {
                        self.level = Level::Groups;
                        continue;
                    }
                    let key = self.cursor.key()?;
                    if key == self.names.title {
                        let title = self.cursor.string()?;
                        return Ok(Some(Step::Title(self.group, title)));
                    } else if key == self.names.records && self.records {
                        self.cursor.open(b'[', "a list of records")?;
                        self.level = Level::Records;
                    } else {
                        self.cursor.skip()?;
                    }
                }
                Level::Records => {
                    if !self.cursor.next(b']')? {
                        self.level = Level::Group;
                        continue;
                    }
                    self.cursor.number += 1;
                    let fields = self.cursor.record()?;
                    return Ok(Some(Step::Record(self.group, fields)));
                }
            }
        }
    }

    fn no_groups(&self) -> Error {
        Error::WrongShape {
            at: self.cursor.input.place(1, None),
            wanted: "a JSON object with a list of groups",
            found: format!("no {:?} in it", self.names.groups),
        }
    }
}
