//! The DDI corpus of SemEval 2013 task 9 (Herrero-Zazo et al. 2013): sentences
//! with drug mentions, and for each two of them whether they interact.
//!
//! A row is one pair; its `sentence` has both mentions replaced by `@DRUG$`, as
//! in the BLUE benchmark (Peng, Yan and Lu 2019), other mentions kept. Offsets
//! (`45-52`) are of characters and include the last one. A mention in several
//! pieces (`0-7;10-15`) is replaced from its first character to its last; two
//! mentions that overlap so become one `@DRUG-DRUG$`, as in BLUE.
//!
//! BLUE's `dev.tsv` is part of the corpus's Train folder: the table `exclude`
//! names such a file, and pairs whose id is in its first column are left out.

use std::collections::BTreeMap;
use std::path::Path;

use super::joins::{Tables, first_column};
use super::{Format, spans};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::Rows;
use crate::xml::{Draft, Drafts, Element, Flaw, rows};

pub(super) const FORMAT: Format = Format {
    name: "ddi2013",
    about: "DDI-2013 XML, a row a pair of drugs: sentence (with @DRUG$), text (as written), drug1, drug2, type1, type2, label (DDI-effect, DDI-mechanism, DDI-advise, DDI-int, DDI-false), pair_id, sentence_id, document_id; tables.exclude: a TSV of pair ids to leave out",
    splits: &[],
    read,
    sample: None,
};

/// Each pair repeats its sentence; the longest of the corpus has about 2 kB.
const MAX_SENTENCE_BYTES: usize = 1 << 16;

const TABLES: Tables = Tables {
    format: "ddi2013",
    needed: &[],
    optional: &[(
        "exclude",
        "a TSV whose first column has the ids of pairs to leave out",
    )],
};

fn read(file: &SourceFile, source: &SourceSection, data_root: &Path) -> Result<Rows> {
    TABLES.check(source)?;
    let all = rows(file, &["document"], document)?;
    let Some(table) = TABLES.file(source, data_root, "exclude") else {
        return Ok(all);
    };
    let excluded = first_column(&table)?;
    Ok(Box::new(all.filter(move |row| match row {
        Ok(row) => row.key.as_ref().is_none_or(|id| !excluded.contains(id)),
        Err(_) => true,
    })))
}

fn document(document: Element) -> Drafts {
    let id = document.attribute("id").unwrap_or_default().to_string();
    let sentences = document.into_children("sentence");
    Box::new(sentences.flat_map(move |sentence| -> Drafts {
        match Sentence::read(sentence, &id) {
            Ok((sentence, pairs)) => {
                Box::new(pairs.into_iter().map(move |pair| sentence.pair(&pair)))
            }
            Err(flaw) => Box::new(std::iter::once(Err(flaw))),
        }
    }))
}

struct Sentence {
    id: String,
    document_id: String,
    text: String,
    drugs: BTreeMap<String, Drug>,
}

struct Drug {
    /// As the annotators wrote it.
    text: String,
    kind: String,
    /// From the first character's first byte to the last one's end.
    start: usize,
    end: usize,
}

impl Sentence {
    fn read(
        sentence: Element,
        document_id: &str,
    ) -> std::result::Result<(Self, Vec<Element>), Flaw> {
        let attribute = |name| sentence.attribute(name).unwrap_or_default().to_string();
        let (id, text) = (attribute("id"), attribute("text"));
        if text.len() > MAX_SENTENCE_BYTES {
            let problem = format!("a sentence of more than {MAX_SENTENCE_BYTES} bytes");
            return Err(Flaw::new(sentence.line, &id, problem));
        }
        let byte_of = spans::byte_offsets(&text);
        let mut drugs = BTreeMap::new();
        for entity in sentence.children("entity") {
            let id = entity.attribute("id").unwrap_or_default();
            let flaw = |problem: &str| Flaw::new(entity.line, id, problem);
            let offsets = entity.attribute("charOffset").unwrap_or_default();
            let Some((start, last)) = extent(offsets) else {
                return Err(flaw("its charOffset is not written as 45-52 or 0-7;10-15"));
            };
            let (Some(&start), Some(&end)) = (byte_of.get(start), byte_of.get(last + 1)) else {
                return Err(flaw("its charOffset is beyond the sentence"));
            };
            let value = |name| entity.attribute(name).unwrap_or_default().to_string();
            let drug = Drug {
                text: value("text"),
                kind: value("type"),
                start: start as usize,
                end: end as usize,
            };
            drugs.insert(id.to_string(), drug);
        }
        let read = Self {
            id,
            document_id: document_id.to_string(),
            text,
            drugs,
        };
        Ok((read, sentence.into_children("pair").collect()))
    }

    fn pair(&self, pair: &Element) -> std::result::Result<Draft, Flaw> {
        let id = pair.attribute("id").unwrap_or_default();
        let flaw = |problem: String| Flaw::new(pair.line, id, problem);
        let drug = |name: &str| {
            let drug = pair.attribute(name).and_then(|id| self.drugs.get(id));
            drug.ok_or_else(|| flaw(format!("{name} is no entity of the sentence")))
        };
        let (first, second) = (drug("e1")?, drug("e2")?);
        let label = match (pair.attribute("ddi"), pair.attribute("type")) {
            (Some("false"), _) => "DDI-false",
            (Some("true"), Some("effect")) => "DDI-effect",
            (Some("true"), Some("mechanism")) => "DDI-mechanism",
            (Some("true"), Some("advise")) => "DDI-advise",
            (Some("true"), Some("int")) => "DDI-int",
            (Some("true"), None) => return Err(flaw("ddi=\"true\" without a type".into())),
            (Some("true"), Some(_)) => {
                let types = "effect, mechanism, advise and int";
                return Err(flaw(format!("its type is none of {types}")));
            }
            _ => return Err(flaw("its ddi is not true or false".into())),
        };
        Ok(Draft::new(
            Some(id.to_string()),
            [
                (
                    "sentence",
                    replaced(&self.text, first, second).trim().into(),
                ),
                ("text", self.text.clone().into()),
                ("drug1", first.text.clone().into()),
                ("drug2", second.text.clone().into()),
                ("type1", first.kind.clone().into()),
                ("type2", second.kind.clone().into()),
                ("label", label.into()),
                ("pair_id", id.into()),
                ("sentence_id", self.id.clone().into()),
                ("document_id", self.document_id.clone().into()),
            ],
        ))
    }
}

/// The first and the last character of `45-52` or `0-7;10-15`.
fn extent(offsets: &str) -> Option<(usize, usize)> {
    let mut extent: Option<(usize, usize)> = None;
    for piece in offsets.split(';') {
        let (start, last) = piece.split_once('-')?;
        let (start, last): (usize, usize) = (start.parse().ok()?, last.parse().ok()?);
        if start > last || last == usize::MAX {
            return None;
        }
        let (first, end) = extent.unwrap_or((start, last));
        extent = Some((first.min(start), end.max(last)));
    }
    extent
}

/// The sentence with both drugs replaced.
fn replaced(text: &str, first: &Drug, second: &Drug) -> String {
    let (left, right) = if first.start <= second.start {
        (first, second)
    } else {
        (second, first)
    };
    if right.start < left.end {
        let end = left.end.max(right.end);
        return format!("{}@DRUG-DRUG${}", &text[..left.start], &text[end..]);
    }
    format!(
        "{}@DRUG${}@DRUG${}",
        &text[..left.start],
        &text[left.end..right.start],
        &text[right.end..]
    )
}
