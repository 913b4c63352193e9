//! What is held of MRCONSO, MRDEF and MRSTY while relations or concepts are
//! read: one name, one definition and the types of each concept asked for.

use std::collections::HashMap;

use super::rrf::{Cui, Line, lines, mrconso, mrdef, mrsty};
use crate::Result;
use crate::files::SourceFile;

/// Concepts that are asked for, sorted; `None` asks for all.
pub(super) type Wanted = Option<Vec<Cui>>;

fn asked(wanted: &Wanted, cui: Cui) -> bool {
    let Some(wanted) = wanted else { return true };
    wanted.binary_search(&cui).is_ok()
}

/// How far a row of MRCONSO is from the preferred English name of its concept:
/// preferred term (TS = P), preferred form (STT = PF), preferred atom (ISPREF =
/// Y), in this order. `None`: not English, or suppressed.
pub(super) fn rank(line: &Line) -> Option<u8> {
    let english = line.field(mrconso::LAT) == "ENG" && line.field(mrconso::SUPPRESS) == "N";
    let not = |field: usize, value: &str, weight: u8| match line.field(field) == value {
        true => 0,
        false => weight,
    };
    english.then(|| {
        not(mrconso::TS, "P", 4) + not(mrconso::STT, "PF", 2) + not(mrconso::ISPREF, "Y", 1)
    })
}

/// The preferred English name of each concept asked for; of several equally
/// preferred ones the first by code point, so that the order of rows does not
/// matter.
pub(super) fn names(file: &SourceFile, wanted: &Wanted) -> Result<HashMap<Cui, Box<str>>> {
    let mut names: HashMap<Cui, (u8, Box<str>)> = HashMap::new();
    for line in lines(file, mrconso::FIELDS)? {
        let line = line?;
        let cui = line.cui(mrconso::CUI, "CUI", file)?;
        let Some(rank) = rank(&line).filter(|_| asked(wanted, cui)) else {
            continue;
        };
        let name = line.field(mrconso::STR);
        match names.get_mut(&cui) {
            Some(kept) if (kept.0, &*kept.1) <= (rank, name) => {}
            Some(kept) => *kept = (rank, name.into()),
            None => drop(names.insert(cui, (rank, name.into()))),
        }
    }
    Ok(names
        .into_iter()
        .map(|(cui, (_, name))| (cui, name))
        .collect())
}

/// Whose definition is taken first: MeSH's and the NCI's are written for people,
/// are free, and cover most concepts. Others follow by name.
const SOURCES: &[&str] = &["MSH", "NCI"];

/// One definition of each concept asked for.
pub(super) fn definitions(file: &SourceFile, wanted: &Wanted) -> Result<HashMap<Cui, Box<str>>> {
    type Kept = (usize, Box<str>, Box<str>);
    let mut definitions: HashMap<Cui, Kept> = HashMap::new();
    for line in lines(file, mrdef::FIELDS)? {
        let line = line?;
        let cui = line.cui(mrdef::CUI, "CUI", file)?;
        if line.field(mrdef::SUPPRESS) != "N" || !asked(wanted, cui) {
            continue;
        }
        let (source, text) = (line.field(mrdef::SAB), line.field(mrdef::DEF));
        let place = SOURCES.iter().position(|known| *known == source);
        let place = place.unwrap_or(SOURCES.len());
        match definitions.get_mut(&cui) {
            Some(kept) if (kept.0, &*kept.1, &*kept.2) <= (place, source, text) => {}
            Some(kept) => *kept = (place, source.into(), text.into()),
            None => drop(definitions.insert(cui, (place, source.into(), text.into()))),
        }
    }
    let text = |(cui, (_, _, text)): (Cui, Kept)| (cui, text);
    Ok(definitions.into_iter().map(text).collect())
}

/// The semantic types of each concept asked for, in alphabetical order. There
/// are 127 types, so a concept holds numbers.
#[derive(Default)]
pub(super) struct Types {
    names: Vec<String>,
    of: HashMap<Cui, Vec<u16>>,
}

impl Types {
    pub fn read(file: &SourceFile, wanted: &Wanted) -> Result<Self> {
        let mut types = Self::default();
        let mut numbers: HashMap<String, u16> = HashMap::new();
        for line in lines(file, mrsty::FIELDS)? {
            let line = line?;
            let cui = line.cui(mrsty::CUI, "CUI", file)?;
            if !asked(wanted, cui) {
                continue;
            }
            let name = line.field(mrsty::STY);
            let number = match numbers.get(name) {
                Some(number) => *number,
                None => {
                    let Ok(number) = u16::try_from(types.names.len()) else {
                        return Err(crate::Error::BadRecord {
                            at: file.place(line.number, None),
                            id: "STY".into(),
                            problem: "more than 65536 semantic types".into(),
                        });
                    };
                    types.names.push(name.to_string());
                    numbers.insert(name.to_string(), number);
                    number
                }
            };
            types.of.entry(cui).or_default().push(number);
        }
        Ok(types)
    }

    pub fn of(&self, cui: Cui) -> Vec<&str> {
        let numbers = self.of.get(&cui).map_or(&[][..], Vec::as_slice);
        let mut names: Vec<&str> = numbers
            .iter()
            .map(|&number| self.names[usize::from(number)].as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
