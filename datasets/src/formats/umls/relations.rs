//! The relations of MRREL.RRF as sentences: subject, relation, object.
//!
//! REL and RELA say what the *second* concept is to the *first* (UMLS Reference
//! Manual): the row `C1|..|PAR|C2|..|inverse_isa` reads "C2 is a parent of C1",
//! "C2 inverse isa C1". So the subject is CUI2's name, the object CUI1's.
//!
//! Two passes over MRREL: the first finds its concepts, so that only their names
//! are held: 4 bytes a concept and at most 64 MiB more in the first pass, then
//! some 50 bytes and its name a concept, and as much again for each of the other
//! two tables. A whole release has about 3 million concepts in MRREL.

use std::collections::HashMap;
use std::path::Path;

use super::rrf::{Cui, Line, lines, mrrel};
use super::tables::{Types, Wanted, definitions, names};
use crate::files::SourceFile;
use crate::formats::joins::Tables;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows};
use crate::xml::Draft;
use crate::{Error, Result};

const TABLES: Tables = Tables {
    format: "umls-relations",
    needed: &[("concepts", "MRCONSO.RRF, the names")],
    optional: &[
        ("definitions", "MRDEF.RRF"),
        ("types", "MRSTY.RRF, the semantic types"),
    ],
};

/// REL in words, for rows without RELA; read as "CUI2 ... CUI1".
const RELATIONS: &[(&str, &str)] = &[
    ("AQ", "is an allowed qualifier of"),
    ("CHD", "is a child of"),
    ("PAR", "is a parent of"),
    ("QB", "can be qualified by"),
    ("RB", "is broader than"),
    ("RL", "is similar to"),
    ("RN", "is narrower than"),
    ("RO", "is related to"),
    ("RQ", "is possibly synonymous with"),
    ("RU", "is related in an unspecified way to"),
    ("SIB", "is a sibling of"),
    ("SY", "is a synonym of"),
    ("XR", "is not related to"),
];

struct Joined {
    file: SourceFile,
    names: HashMap<Cui, Box<str>>,
    definitions: Option<HashMap<Cui, Box<str>>>,
    types: Option<Types>,
}

pub(super) fn read(file: &SourceFile, source: &SourceSection, data_root: &Path) -> Result<Rows> {
    TABLES.check(source)?;
    if super::another_table(file, source, "MRREL") {
        return Ok(Box::new(std::iter::empty()));
    }
    let table = |name| TABLES.file(source, data_root, name);
    let wanted: Wanted = Some(concepts(file)?);
    let read_names = table("concepts").map(|file| names(&file, &wanted));
    let read_definitions = table("definitions").map(|file| definitions(&file, &wanted));
    let read_types = table("types").map(|file| Types::read(&file, &wanted));
    let joined = Joined {
        file: file.clone(),
        names: read_names.transpose()?.unwrap_or_default(),
        definitions: read_definitions.transpose()?,
        types: read_types.transpose()?,
    };
    let rows = lines(file, mrrel::FIELDS)?.filter_map(move |line| match line {
        Ok(line) if suppressed(&line) => None,
        Ok(line) => Some(joined.row(&line)),
        Err(error) => Some(Err(error)),
    });
    Ok(Box::new(rows))
}

/// Obsolete and suppressible rows; and DEL, which names no relation.
fn suppressed(line: &Line) -> bool {
    line.field(mrrel::SUPPRESS) != "N" || line.field(mrrel::REL) == "DEL"
}

/// The concepts of a file's relations, sorted. Bad lines are passed over: the
/// second pass names them.
fn concepts(file: &SourceFile) -> Result<Vec<Cui>> {
    // Mentions that are held before those of one concept are made one.
    const HELD: usize = 1 << 24;
    let mut concepts = Vec::new();
    let mut limit = HELD;
    for line in lines(file, mrrel::FIELDS)? {
        let line = match line {
            Ok(line) => line,
            Err(error @ Error::Read { .. }) => return Err(error),
            Err(_) => continue,
        };
        if !suppressed(&line) {
            let both = [mrrel::CUI1, mrrel::CUI2].map(|side| Cui::parse(line.field(side)));
            concepts.extend(both.into_iter().flatten());
        }
        if concepts.len() >= limit {
            concepts.sort_unstable();
            concepts.dedup();
            limit = concepts.len() + HELD;
        }
    }
    concepts.sort_unstable();
    concepts.dedup();
    concepts.shrink_to_fit();
    Ok(concepts)
}

impl Joined {
    fn row(&self, line: &Line) -> Result<Row> {
        let first = line.cui(mrrel::CUI1, "CUI1", &self.file)?;
        let second = line.cui(mrrel::CUI2, "CUI2", &self.file)?;
        let (object, subject) = (self.name(first, line)?, self.name(second, line)?);
        let (rel, rela) = (line.field(mrrel::REL), line.field(mrrel::RELA));
        let spelled = RELATIONS.iter().find(|(short, _)| *short == rel);
        let relation = match (rela, spelled) {
            ("", Some((_, words))) => (*words).to_string(),
            ("", None) => return Err(self.bad(line, "its REL is none of the manual's")),
            (rela, _) => rela.replace('_', " "),
        };
        let rui = line.field(mrrel::RUI);
        let mut draft = Draft::new(
            Some(rui.to_string()).filter(|rui| !rui.is_empty()),
            [
                ("subject", subject.into()),
                ("relation", relation.clone().into()),
                ("object", object.into()),
                (
                    "relation_text",
                    format!("{subject} {relation} {object}").into(),
                ),
                ("cui1", first.to_string().into()),
                ("cui2", second.to_string().into()),
                ("name1", object.into()),
                ("name2", subject.into()),
                ("rel", rel.into()),
                ("rela", rela.into()),
                ("source", line.field(mrrel::SAB).into()),
            ],
        );
        for (side, cui) in [("1", first), ("2", second)] {
            if let Some(definitions) = &self.definitions {
                let text = definitions.get(&cui).map_or("", |text| text);
                draft
                    .fields
                    .insert(format!("definition{side}"), text.into());
            }
            if let Some(types) = &self.types {
                draft
                    .fields
                    .insert(format!("types{side}"), types.of(cui).into());
            }
        }
        Ok(draft.row(line.number))
    }

    fn name(&self, cui: Cui, line: &Line) -> Result<&str> {
        let name = self.names.get(&cui).map(|name| &**name);
        name.ok_or_else(|| {
            self.bad(
                line,
                &format!("{cui} has no English name in the table concepts"),
            )
        })
    }

    fn bad(&self, line: &Line, problem: &str) -> Error {
        Error::BadRecord {
            at: self.file.place(line.number, None),
            id: crate::xml::name_only(line.field(mrrel::RUI)),
            problem: problem.to_string(),
        }
    }
}
