//! The concepts of MRCONSO.RRF: their English names, definition and types.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::rrf::{Cui, Line, lines, mrconso};
use super::tables::{Types, definitions, rank};
use crate::files::SourceFile;
use crate::formats::joins::Tables;
use crate::recipe::SourceSection;
use crate::rows::{MAX_RECORD_BYTES, Row, Rows};
use crate::xml::Draft;
use crate::{Error, Result};

const TABLES: Tables = Tables {
    format: "umls-concepts",
    needed: &[],
    optional: &[
        ("definitions", "MRDEF.RRF"),
        ("types", "MRSTY.RRF, the semantic types"),
    ],
};

/// The rows of one concept, which stand together in MRCONSO.
struct Concept {
    cui: Cui,
    line: u64,
    /// The preferred name so far and its rank.
    name: Option<(u8, String)>,
    /// All English names in the order of the file, each once.
    names: Vec<String>,
    known: HashSet<String>,
    bytes: usize,
}

struct Concepts<L> {
    lines: L,
    file: SourceFile,
    definitions: Option<HashMap<Cui, Box<str>>>,
    types: Option<Types>,
    open: Option<Concept>,
    seen: HashSet<Cui>,
}

pub(super) fn read(file: &SourceFile, source: &SourceSection, data_root: &Path) -> Result<Rows> {
    TABLES.check(source)?;
    if super::another_table(file, source, "MRCONSO") {
        return Ok(Box::new(std::iter::empty()));
    }
    let table = |name| TABLES.file(source, data_root, name);
    let read_definitions = table("definitions").map(|file| definitions(&file, &None));
    let read_types = table("types").map(|file| Types::read(&file, &None));
    let mut concepts = Concepts {
        lines: lines(file, mrconso::FIELDS)?,
        file: file.clone(),
        definitions: read_definitions.transpose()?,
        types: read_types.transpose()?,
        open: None,
        seen: HashSet::new(),
    };
    Ok(Box::new(std::iter::from_fn(move || concepts.next_row())))
}

impl<L: Iterator<Item = Result<Line>>> Concepts<L> {
    fn next_row(&mut self) -> Option<Result<Row>> {
        loop {
            let Some(line) = self.lines.next() else {
                return self.open.take().map(|concept| self.row(concept));
            };
            let added = line.and_then(|line| self.add(&line));
            match added {
                Ok(None) => {}
                Ok(Some(done)) => return Some(self.row(done)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Adds a row to its concept; gives back the one before if that is whole.
    fn add(&mut self, line: &Line) -> Result<Option<Concept>> {
        let cui = line.cui(mrconso::CUI, "CUI", &self.file)?;
        let mut done = None;
        if self.open.as_ref().is_none_or(|open| open.cui != cui) {
            if !self.seen.insert(cui) {
                return Err(Error::BadRecord {
                    at: self.file.place(line.number, None),
                    id: cui.to_string(),
                    problem: "its rows do not stand together".into(),
                });
            }
            done = self.open.replace(Concept {
                cui,
                line: line.number,
                name: None,
                names: Vec::new(),
                known: HashSet::new(),
                bytes: 0,
            });
        }
        let english = rank(line).map(|rank| (rank, line.field(mrconso::STR).to_string()));
        if let (Some(concept), Some(english)) = (&mut self.open, english) {
            concept.bytes += english.1.len();
            if concept.bytes <= MAX_RECORD_BYTES && concept.known.insert(english.1.clone()) {
                concept.names.push(english.1.clone());
            }
            concept.name = match concept.name.take() {
                Some(kept) => Some(kept.min(english)),
                None => Some(english),
            };
        }
        Ok(done)
    }

    fn row(&self, concept: Concept) -> Result<Row> {
        let Some((_, name)) = concept.name else {
            return Err(Error::BadRecord {
                at: self.file.place(concept.line, None),
                id: concept.cui.to_string(),
                problem: "it has no English name".into(),
            });
        };
        let cui = concept.cui;
        let synonyms: Vec<String> = concept.names.into_iter().filter(|n| *n != name).collect();
        let mut draft = Draft::new(
            Some(cui.to_string()),
            [
                ("cui", cui.to_string().into()),
                ("name", name.into()),
                ("synonyms", synonyms.into()),
            ],
        );
        if let Some(definitions) = &self.definitions {
            let text = definitions.get(&cui).map_or("", |text| text);
            draft.fields.insert("definition".into(), text.into());
        }
        if let Some(types) = &self.types {
            draft.fields.insert("types".into(), types.of(cui).into());
        }
        Ok(draft.row(concept.line))
    }
}
