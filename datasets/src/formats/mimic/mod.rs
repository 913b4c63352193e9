//! MIMIC: de-identified notes of a hospital in Boston, under PhysioNet's
//! credentialed terms.

mod cxr;
mod joins;
mod notes;
mod sections;
mod table;

use super::Format;

pub(super) const III_NOTES: Format = Format {
    name: "mimic-iii-notes",
    about: "NOTEEVENTS.csv: row_id, subject_id, hadm_id, category, description, chartdate, text, sections (by name), admission_note (of discharge summaries); tables.admissions (admission_type, admission_diagnosis, hospital_expire_flag), .patients (gender, age), .prescriptions (drugs: list), .diagnoses (icd9: list). Notes with ISERROR = 1 are bad records",
    splits: &[],
    read: notes::read_iii,
    sample: None,
};

pub(super) const IV_NOTES: Format = Format {
    name: "mimic-iv-notes",
    about: "MIMIC-IV-Note discharge.csv or radiology.csv: note_id, subject_id, hadm_id, note_type, charttime, text, sections (by name), admission_note (of DS notes); tables.admissions (admission_type, hospital_expire_flag), .prescriptions (drugs: list), .diagnoses (icd: list of ICD9:code and ICD10:code)",
    splits: &[],
    read: notes::read_iv,
    sample: None,
};

pub(super) const CXR: Format = Format {
    name: "mimic-cxr",
    about: "MIMIC-CXR report files, a row a file: subject_id, study_id, findings, impression, indication, comparison, examination, technique, sections (by name), text",
    splits: &[],
    read: cxr::read_reports,
    sample: None,
};

pub(super) const CXR_SECTIONED: Format = Format {
    name: "mimic-cxr-sectioned",
    about: "mimic_cxr_sectioned.csv: study_id, impression, findings, last_paragraph, comparison; tables.studies = cxr-study-list.csv (subject_id)",
    splits: &[],
    read: cxr::read_sectioned,
    sample: None,
};
