//! The Rich Release Format of the UMLS: a field, then `|`, no header, no quotes,
//! so a line ends in `|`. Columns are those of the UMLS Reference Manual.

use super::super::lines::Lines;
use crate::files::SourceFile;
use crate::{Error, Result};

/// A concept's number: `C0001175` is 1175. Four bytes instead of eight letters,
/// because some twenty million of them are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cui(u32);

impl Cui {
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('C')?;
        let plain = digits.len() == 7 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok().map(Self))?
    }
}

impl std::fmt::Display for Cui {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "C{:07}", self.0)
    }
}

/// One line of an RRF file.
pub(super) struct Line {
    text: String,
    /// Where each field begins, and one past the last `|`.
    starts: Vec<usize>,
    pub number: u64,
}

impl Line {
    /// The field of that number, from 0.
    pub fn field(&self, number: usize) -> &str {
        &self.text[self.starts[number]..self.starts[number + 1] - 1]
    }

    /// A field that is a concept.
    pub fn cui(&self, number: usize, name: &'static str, file: &SourceFile) -> Result<Cui> {
        Cui::parse(self.field(number)).ok_or_else(|| Error::BadRecord {
            at: file.place(self.number, None),
            id: name.to_string(),
            problem: "is not a concept such as C0001175".to_string(),
        })
    }
}

/// The lines of an RRF file with `fields` columns. A line with another number
/// of them is an error, and the next one follows.
pub(super) fn lines(
    file: &SourceFile,
    fields: usize,
) -> Result<impl Iterator<Item = Result<Line>> + Send + use<>> {
    let place = file.clone();
    Ok(Lines::open(file)?.filter_map(move |line| {
        let (number, text) = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        if text.is_empty() {
            return None;
        }
        let ends = text.match_indices('|').map(|(at, _)| at + 1);
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let whole = text.ends_with('|');
        Some(match starts.len() - 1 == fields && whole {
            true => Ok(Line {
                text,
                starts,
                number,
            }),
            false => Err(Error::FieldCount {
                at: place.place(number, None),
                found: starts.len() - usize::from(whole),
                wanted: fields,
            }),
        })
    }))
}

/// MRREL.RRF.
pub(super) mod mrrel {
    pub const FIELDS: usize = 16;
    pub const CUI1: usize = 0;
    pub const REL: usize = 3;
    pub const CUI2: usize = 4;
    pub const RELA: usize = 7;
    pub const RUI: usize = 8;
    pub const SAB: usize = 10;
    pub const SUPPRESS: usize = 14;
}

/// MRCONSO.RRF.
pub(super) mod mrconso {
    pub const FIELDS: usize = 18;
    pub const CUI: usize = 0;
    pub const LAT: usize = 1;
    pub const TS: usize = 2;
    pub const STT: usize = 4;
    pub const ISPREF: usize = 6;
    pub const STR: usize = 14;
    pub const SUPPRESS: usize = 16;
}

/// MRDEF.RRF.
pub(super) mod mrdef {
    pub const FIELDS: usize = 8;
    pub const CUI: usize = 0;
    pub const SAB: usize = 4;
    pub const DEF: usize = 5;
    pub const SUPPRESS: usize = 6;
}

/// MRSTY.RRF.
pub(super) mod mrsty {
    pub const FIELDS: usize = 6;
    pub const CUI: usize = 0;
    pub const STY: usize = 3;
}
