//! The radiology reports of MIMIC-CXR: as the publishers ship them, a file a
//! study (`files/p10/p10000032/s50414267.txt`), or cut into sections by
//! MIT-LCP's `create_section_files.py` (`mimic_cxr_sectioned.csv`).

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::notes::by_name;
use super::sections::{Section, sections};
use super::table::Table;
use crate::files::SourceFile;
use crate::formats::joins::Tables;
use crate::recipe::SourceSection;
use crate::rows::{MAX_RECORD_BYTES, Row, Rows};
use crate::{Error, Result};

const TABLES: Tables = Tables {
    format: "mimic-cxr-sectioned",
    needed: &[],
    optional: &[("studies", "cxr-study-list.csv.gz, for subject_id")],
};

/// A report's fields and the sections that may hold them, best first.
const FIELDS: &[(&str, &[&str])] = &[
    ("findings", &["findings"]),
    ("impression", &["impression"]),
    (
        "indication",
        &[
            "indication",
            "reason_for_exam",
            "history",
            "medical_condition",
        ],
    ),
    ("comparison", &["comparison"]),
    ("examination", &["examination", "procedure"]),
    ("technique", &["technique"]),
];

/// One report file. Files that are not `.txt` are passed over, so that a whole
/// folder can be the source.
pub(super) fn read_reports(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    let Some(stem) = file.plain_name().strip_suffix(".txt") else {
        return Ok(Box::new(std::iter::empty()));
    };
    let text =
        String::from_utf8(file.bytes(MAX_RECORD_BYTES)?).map_err(|error| Error::NotUtf8 {
            at: file.place(1, None),
            byte: error.utf8_error().valid_up_to(),
        })?;
    let mut folders = stem.rsplit('/');
    let study = numbered(folders.next().unwrap_or_default(), 's');
    let subject = folders.next().and_then(|folder| numbered(folder, 'p'));
    let found = sections(&text);
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_string(), value));
    set("subject_id", subject.into());
    set("study_id", study.into());
    for (name, candidates) in FIELDS {
        set(name, first(&found, candidates).into());
    }
    set("sections", by_name(found));
    set("text", text.trim().into());
    Ok(Box::new(std::iter::once(Ok(Row {
        key: study.map(|study| study.to_string()),
        record: 1,
        fields,
    }))))
}

/// The number in `p10000032` or `s50414267`.
fn numbered(name: &str, letter: char) -> Option<u64> {
    name.strip_prefix(letter)?.parse().ok()
}

/// The text of the first of the named sections that has any, its lines joined
/// to paragraphs: reports are written in lines of at most 79 characters.
fn first(sections: &[Section], names: &[&str]) -> String {
    let of_name = |name: &&str| {
        let mut of_name = sections.iter().filter(|section| section.name == **name);
        of_name.find(|section| !section.text.is_empty())
    };
    let section = names.iter().find_map(of_name);
    section.map_or_else(String::new, |section| {
        let paragraphs = section.text.split("\n\n").map(crate::xml::fold);
        paragraphs.collect::<Vec<_>>().join("\n\n")
    })
}

/// `study,impression,findings,last_paragraph,comparison`.
pub(super) fn read_sectioned(
    file: &SourceFile,
    source: &SourceSection,
    data_root: &Path,
) -> Result<Rows> {
    const COLUMNS: [&str; 5] = [
        "study",
        "impression",
        "findings",
        "last_paragraph",
        "comparison",
    ];
    TABLES.check(source)?;
    let subjects = TABLES.file(source, data_root, "studies");
    let subjects = subjects.map(|file| subjects_of(&file)).transpose()?;
    let mut table = Table::open(file, &COLUMNS, &[])?;
    let row = move |table: &Table| {
        let study = numbered(table.cell(0)?.trim(), 's').ok_or_else(|| Error::BadRecord {
            at: table.place(),
            id: "study".into(),
            problem: "is not a study such as s50414267".into(),
        })?;
        let mut fields = Map::new();
        if let Some(subjects) = &subjects {
            let subject = subjects.get(&study).copied();
            fields.insert("subject_id".to_string(), subject.into());
        }
        fields.insert("study_id".to_string(), study.into());
        for (column, name) in COLUMNS.iter().enumerate().skip(1) {
            fields.insert((*name).to_string(), table.cell(column)?.trim().into());
        }
        Ok(Row {
            key: Some(study.to_string()),
            record: table.number(),
            fields,
        })
    };
    Ok(Box::new(std::iter::from_fn(move || {
        match table.advance() {
            Ok(true) => Some(row(&table)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    })))
}

/// The patient of each study.
fn subjects_of(file: &SourceFile) -> Result<HashMap<u64, u64>> {
    let mut table = Table::open(file, &["subject_id", "study_id"], &[])?;
    let mut subjects = HashMap::new();
    while table.advance()? {
        let subject = table.number_in(0, "subject_id")?;
        if let Some((study, subject)) = table.number_in(1, "study_id")?.zip(subject) {
            subjects.insert(study, subject);
        }
    }
    Ok(subjects)
}
