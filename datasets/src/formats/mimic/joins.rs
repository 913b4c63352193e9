//! What is known of an admission in MIMIC's other tables. A table is read once a
//! source and only if the recipe names it; ids are numbers and repeated texts
//! (drugs, codes) are held once.
//!
//! MIMIC-III writes its column names in upper case and calls them `icd9_code`
//! and so on; MIMIC-IV in lower case and `icd_code`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::table::Table;
use crate::Result;
use crate::files::SourceFile;

/// A stay in hospital.
struct Admission {
    admitted: Option<Date>,
    kind: u32,
    diagnosis: u32,
    expired: Option<bool>,
}

/// Year, month and day; all that an age needs.
type Date = (i32, u32, u32);

/// The tables that a source names.
#[derive(Default)]
pub(super) struct Joins {
    admissions: Option<HashMap<u64, Admission>>,
    /// Born, and the column `gender`.
    patients: Option<HashMap<u64, (Option<Date>, u32)>>,
    /// Drugs of each admission in the order of the table, each once.
    drugs: Option<HashMap<u64, Vec<u32>>>,
    /// Codes of each admission with their place.
    diagnoses: Option<HashMap<u64, Vec<(u64, u32)>>>,
    texts: Interned,
}

/// Texts that many rows repeat, each held once.
#[derive(Default)]
struct Interned {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Interned {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        // Four billion different texts do not fit in memory before this does.
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }
}

impl Joins {
    /// ADMISSIONS (III) or hosp/admissions (IV).
    pub fn read_admissions(&mut self, file: &SourceFile) -> Result<()> {
        let needed = [
            "hadm_id",
            "admittime",
            "admission_type",
            "hospital_expire_flag",
        ];
        let mut table = Table::open(file, &needed, &["diagnosis"])?;
        let mut admissions = HashMap::new();
        while table.advance()? {
            let Some(id) = table.number_in(0, "hadm_id")? else {
                continue;
            };
            let admission = Admission {
                admitted: date(table.cell(1)?),
                kind: self.texts.number(table.cell(2)?.trim()),
                expired: table
                    .number_in(3, "hospital_expire_flag")?
                    .map(|flag| flag != 0),
                diagnosis: self.texts.number(table.cell(4)?.trim()),
            };
            admissions.insert(id, admission);
        }
        self.admissions = Some(admissions);
        Ok(())
    }

    /// PATIENTS (III).
    pub fn read_patients(&mut self, file: &SourceFile) -> Result<()> {
        let mut table = Table::open(file, &["subject_id", "dob"], &["gender"])?;
        let mut patients = HashMap::new();
        while table.advance()? {
            if let Some(id) = table.number_in(0, "subject_id")? {
                let gender = self.texts.number(table.cell(2)?.trim());
                patients.insert(id, (date(table.cell(1)?), gender));
            }
        }
        self.patients = Some(patients);
        Ok(())
    }

    /// PRESCRIPTIONS (III) or hosp/prescriptions (IV).
    pub fn read_prescriptions(&mut self, file: &SourceFile) -> Result<()> {
        let mut table = Table::open(file, &["hadm_id", "drug"], &[])?;
        let mut drugs: HashMap<u64, Vec<u32>> = HashMap::new();
        while table.advance()? {
            let drug = crate::xml::fold(table.cell(1)?);
            if let (Some(id), false) = (table.number_in(0, "hadm_id")?, drug.is_empty()) {
                let drug = self.texts.number(&drug);
                let given = drugs.entry(id).or_default();
                if !given.contains(&drug) {
                    given.push(drug);
                }
            }
        }
        self.drugs = Some(drugs);
        Ok(())
    }

    /// DIAGNOSES_ICD (III) or hosp/diagnoses_icd (IV), whose codes are in the
    /// column `code`.
    pub fn read_diagnoses(&mut self, file: &SourceFile, code: &'static str) -> Result<()> {
        let mut table = Table::open(file, &["hadm_id", "seq_num", code], &["icd_version"])?;
        let mut diagnoses: HashMap<u64, Vec<(u64, u32)>> = HashMap::new();
        while table.advance()? {
            let code = table.cell(2)?.trim();
            let (id, place) = (
                table.number_in(0, "hadm_id")?,
                table.number_in(1, "seq_num")?,
            );
            // A code without a number is not one of the stay's diagnoses.
            let (Some(id), Some(place), false) = (id, place, code.is_empty()) else {
                continue;
            };
            // MIMIC-IV mixes ICD-9 and ICD-10, whose codes can look alike.
            let code = match table.cell(3)?.trim() {
                "" => code.to_string(),
                version => format!("ICD{version}:{code}"),
            };
            let code = self.texts.number(&code);
            diagnoses.entry(id).or_default().push((place, code));
        }
        for codes in diagnoses.values_mut() {
            codes.sort_unstable();
        }
        self.diagnoses = Some(diagnoses);
        Ok(())
    }

    /// Adds what is known of an admission to a note's fields. A field of a
    /// table that was read is always there; null or empty where the table says
    /// nothing.
    pub fn add(
        &self,
        subject: Option<u64>,
        hadm: Option<u64>,
        codes: &str,
        fields: &mut Map<String, Value>,
    ) {
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_string(), value));
        let admission = self
            .admissions
            .as_ref()
            .map(|all| hadm.and_then(|id| all.get(&id)));
        if let Some(admission) = admission {
            let text =
                |number: Option<u32>| number.map_or(Value::Null, |n| self.texts.text(n).into());
            set("admission_type", text(admission.map(|a| a.kind)));
            set("admission_diagnosis", text(admission.map(|a| a.diagnosis)));
            let expired = admission.and_then(|a| a.expired);
            set(
                "hospital_expire_flag",
                expired.map_or(Value::Null, |flag| u8::from(flag).into()),
            );
        }
        if let Some(patients) = &self.patients {
            let patient = subject.and_then(|id| patients.get(&id));
            let gender = patient.map(|(_, gender)| self.texts.text(*gender));
            set("gender", gender.map_or(Value::Null, Value::from));
            let admitted = admission.flatten().and_then(|a| a.admitted);
            let born = patient.and_then(|(born, _)| *born);
            let age = born.zip(admitted).and_then(|(born, then)| age(born, then));
            set("age", age.map_or(Value::Null, Value::from));
        }
        if let Some(drugs) = &self.drugs {
            let given = hadm
                .and_then(|id| drugs.get(&id))
                .map_or(&[][..], Vec::as_slice);
            set(
                "drugs",
                given.iter().map(|&drug| self.texts.text(drug)).collect(),
            );
        }
        if let Some(diagnoses) = &self.diagnoses {
            let found = hadm
                .and_then(|id| diagnoses.get(&id))
                .map_or(&[][..], Vec::as_slice);
            set(
                codes,
                found
                    .iter()
                    .map(|&(_, code)| self.texts.text(code))
                    .collect(),
            );
        }
    }
}

/// The date that `2150-01-09 11:00:00` begins with.
fn date(text: &str) -> Option<Date> {
    let day = text.trim().get(..10)?;
    let mut parts = day.split('-');
    let year = parts.next()?.parse().ok()?;
    let month = parts.next()?.parse().ok()?;
    Some((year, month, parts.next()?.parse().ok()?))
}

/// Whole years between birth and admission; 90 for everyone older than 89,
/// whose births MIMIC-III moved by centuries.
fn age(born: Date, admitted: Date) -> Option<u32> {
    let birthday_to_come = (admitted.1, admitted.2) < (born.1, born.2);
    let years = admitted.0 - born.0 - i32::from(birthday_to_come);
    u32::try_from(years).ok().map(|years| years.min(90))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_whole_years_up_to_ninety() {
        let date = |text| date(text).unwrap();
        assert_eq!(
            age(date("2100-05-10 00:00:00"), date("2150-05-09 23:00:00")),
            Some(49)
        );
        assert_eq!(age(date("2100-05-10"), date("2150-05-10")), Some(50));
        assert_eq!(age(date("1850-05-10"), date("2150-05-10")), Some(90));
        assert_eq!(age(date("2060-05-10"), date("2150-05-09")), Some(89));
        assert_eq!(age(date("2160-05-10"), date("2150-05-10")), None);
        assert_eq!(super::date("2150"), None);
        assert_eq!(super::date("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"), None);
    }
}
