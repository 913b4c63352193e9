//! The notes of MIMIC-III (NOTEEVENTS) and of MIMIC-IV-Note (discharge and
//! radiology), with what other tables know of the admission.

use std::path::Path;

use serde_json::{Map, Value};

use super::joins::Joins;
use super::sections::{Section, admission_note, sections};
use super::table::Table;
use crate::files::SourceFile;
use crate::formats::joins::Tables;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows};
use crate::{Error, Result};

const TABLES_III: Tables = Tables {
    format: "mimic-iii-notes",
    needed: &[],
    optional: &[
        ("admissions", "ADMISSIONS.csv.gz"),
        ("patients", "PATIENTS.csv.gz"),
        ("prescriptions", "PRESCRIPTIONS.csv.gz"),
        ("diagnoses", "DIAGNOSES_ICD.csv.gz"),
    ],
};

const TABLES_IV: Tables = Tables {
    format: "mimic-iv-notes",
    needed: &[],
    optional: &[
        ("admissions", "hosp/admissions.csv.gz of MIMIC-IV"),
        ("prescriptions", "hosp/prescriptions.csv.gz of MIMIC-IV"),
        ("diagnoses", "hosp/diagnoses_icd.csv.gz of MIMIC-IV"),
    ],
};

pub(super) fn read_iii(
    file: &SourceFile,
    source: &SourceSection,
    data_root: &Path,
) -> Result<Rows> {
    TABLES_III.check(source)?;
    let needed = [
        "row_id",
        "subject_id",
        "hadm_id",
        "category",
        "description",
        "text",
    ];
    Ok(Box::new(Notes {
        table: Table::open(file, &needed, &["chartdate", "iserror"])?,
        joins: joins(&TABLES_III, source, data_root, "icd9_code")?,
        ended: false,
        row: row_iii,
    }))
}

pub(super) fn read_iv(file: &SourceFile, source: &SourceSection, data_root: &Path) -> Result<Rows> {
    TABLES_IV.check(source)?;
    let needed = ["note_id", "subject_id", "hadm_id", "note_type", "text"];
    Ok(Box::new(Notes {
        table: Table::open(file, &needed, &["charttime"])?,
        joins: joins(&TABLES_IV, source, data_root, "icd_code")?,
        ended: false,
        row: row_iv,
    }))
}

fn joins(
    tables: &Tables,
    source: &SourceSection,
    data_root: &Path,
    code: &'static str,
) -> Result<Joins> {
    let mut joins = Joins::default();
    let table = |name| tables.file(source, data_root, name);
    if let Some(file) = table("admissions") {
        joins.read_admissions(&file)?;
    }
    if let Some(file) = table("patients") {
        joins.read_patients(&file)?;
    }
    if let Some(file) = table("prescriptions") {
        joins.read_prescriptions(&file)?;
    }
    if let Some(file) = table("diagnoses") {
        joins.read_diagnoses(&file, code)?;
    }
    Ok(joins)
}

struct Notes {
    table: Table,
    joins: Joins,
    ended: bool,
    row: fn(&Table, &Joins) -> Result<Row>,
}

impl Iterator for Notes {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        match self.table.advance() {
            Ok(true) => Some((self.row)(&self.table, &self.joins)),
            Ok(false) => {
                self.ended = true;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn row_iii(table: &Table, joins: &Joins) -> Result<Row> {
    let row_id = table.cell(0)?.trim();
    if table.cell(7)?.trim() == "1" {
        return Err(Error::MarkedAsError {
            at: table.place(),
            id: crate::xml::name_only(row_id),
        });
    }
    let subject = table.number_in(1, "subject_id")?;
    let hadm = table.number_in(2, "hadm_id")?;
    let category = table.cell(3)?.trim();
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_string(), value));
    set("row_id", table.number_in(0, "row_id")?.into());
    set("subject_id", subject.into());
    set("hadm_id", hadm.into());
    set("category", category.into());
    set("description", table.cell(4)?.trim().into());
    set("chartdate", table.cell(6)?.trim().into());
    let text = table.cell(5)?;
    add_text(
        text,
        category.eq_ignore_ascii_case("discharge summary"),
        &mut fields,
    );
    joins.add(subject, hadm, "icd9", &mut fields);
    Ok(Row {
        key: Some(row_id.to_string()),
        record: table.number(),
        fields,
    })
}

fn row_iv(table: &Table, joins: &Joins) -> Result<Row> {
    let note_id = table.cell(0)?.trim();
    let subject = table.number_in(1, "subject_id")?;
    let hadm = table.number_in(2, "hadm_id")?;
    let kind = table.cell(3)?.trim();
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_string(), value));
    set("note_id", note_id.into());
    set("subject_id", subject.into());
    set("hadm_id", hadm.into());
    set("note_type", kind.into());
    set("charttime", table.cell(5)?.trim().into());
    add_text(table.cell(4)?, kind == "DS", &mut fields);
    joins.add(subject, hadm, "icd", &mut fields);
    Ok(Row {
        key: Some(note_id.to_string()),
        record: table.number(),
        fields,
    })
}

/// Adds `text`, `sections` and, of a discharge summary, `admission_note`
/// (empty for other notes).
fn add_text(text: &str, discharge: bool, fields: &mut Map<String, Value>) {
    let found = sections(text);
    let note = if discharge {
        admission_note(&found)
    } else {
        String::new()
    };
    fields.insert("text".to_string(), text.trim().into());
    fields.insert("sections".to_string(), by_name(found));
    fields.insert("admission_note".to_string(), note.into());
}

/// Sections by their names; those of one name are one, a blank line between.
pub(super) fn by_name(sections: Vec<Section>) -> Value {
    let mut named: Map<String, Value> = Map::new();
    for section in sections {
        match named.get_mut(&section.name) {
            Some(Value::String(text)) if text.is_empty() => *text = section.text,
            Some(Value::String(text)) if !section.text.is_empty() => {
                text.push_str("\n\n");
                text.push_str(&section.text);
            }
            Some(_) => {}
            None => drop(named.insert(section.name, section.text.into())),
        }
    }
    Value::Object(named)
}
