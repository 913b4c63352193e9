//! The sections of a clinical note.
//!
//! A header is a phrase at a line's start that ends in a colon. It begins a
//! section if
//! - it is one of [`HEADERS`], in any case (`HISTORY OF PRESENT ILLNESS:`), or
//!   holds one of [`LATER`], the words for what happens after admission
//!   (`Hospital course by system:`, `Discharge labs:`), or
//! - it stands alone on its line after a blank line, begins with a capital and
//!   has at most six words (`Wound care:`).
//!
//! Other phrases (`HEENT:`, `BP:`) belong to the section they are in.

/// One section: its name in lower case with underscores, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub name: String,
    /// The header as it is written, without the colon.
    pub header: String,
    pub text: String,
}

/// Headers that are known wherever they stand, and the section they begin.
const HEADERS: &[(&str, &str)] = &[
    ("chief complaint", "chief_complaint"),
    ("reason for admission", "chief_complaint"),
    ("present illness", "history_of_present_illness"),
    ("history of present illness", "history_of_present_illness"),
    (
        "history of the present illness",
        "history_of_present_illness",
    ),
    ("hpi", "history_of_present_illness"),
    ("past medical history", "past_medical_history"),
    ("medical history", "past_medical_history"),
    ("past medical and surgical history", "past_medical_history"),
    ("past medical/surgical history", "past_medical_history"),
    ("pmh", "past_medical_history"),
    ("pmhx", "past_medical_history"),
    ("past surgical history", "past_surgical_history"),
    ("psh", "past_surgical_history"),
    ("social history", "social_history"),
    ("family history", "family_history"),
    ("allergies", "allergies"),
    ("allergies or adverse reactions", "allergies"),
    ("medications on admission", "medications_on_admission"),
    ("admission medications", "medications_on_admission"),
    ("home medications", "medications_on_admission"),
    ("medications at home", "medications_on_admission"),
    ("meds on admission", "medications_on_admission"),
    ("preadmission medications", "medications_on_admission"),
    ("preadmission medication list", "medications_on_admission"),
    ("physical exam", "physical_exam"),
    ("physical examination", "physical_exam"),
    ("physical exam on admission", "physical_exam"),
    ("physical examination on admission", "physical_exam"),
    ("admission physical exam", "physical_exam"),
    ("review of systems", "review_of_systems"),
    ("ros", "review_of_systems"),
    ("pertinent results", "pertinent_results"),
    ("laboratory data", "laboratory_data"),
    ("labs on admission", "laboratory_data"),
    ("admission labs", "laboratory_data"),
    ("studies", "studies"),
    ("imaging", "imaging"),
    ("radiology", "radiology"),
    ("microbiology", "microbiology"),
    (
        "major surgical or invasive procedure",
        "major_surgical_or_invasive_procedure",
    ),
    ("procedures", "procedures"),
    ("brief hospital course", "brief_hospital_course"),
    ("hospital course", "brief_hospital_course"),
    ("hospital course by system", "brief_hospital_course"),
    ("hospital course by systems", "brief_hospital_course"),
    ("hospital course by problem", "brief_hospital_course"),
    (
        "concise summary of hospital course by issue/system",
        "brief_hospital_course",
    ),
    ("brief summary of hospital course", "brief_hospital_course"),
    ("summary of hospital course", "brief_hospital_course"),
    ("discharge medications", "discharge_medications"),
    ("medications on discharge", "discharge_medications"),
    ("discharge diagnosis", "discharge_diagnosis"),
    ("discharge diagnoses", "discharge_diagnosis"),
    ("final diagnosis", "discharge_diagnosis"),
    ("final diagnoses", "discharge_diagnosis"),
    ("discharge condition", "discharge_condition"),
    ("condition on discharge", "discharge_condition"),
    ("condition at discharge", "discharge_condition"),
    ("discharge disposition", "discharge_disposition"),
    ("disposition", "discharge_disposition"),
    ("discharge instructions", "discharge_instructions"),
    ("followup instructions", "followup_instructions"),
    ("follow-up instructions", "followup_instructions"),
    ("follow up instructions", "followup_instructions"),
    ("followup", "followup_instructions"),
    ("follow-up", "followup_instructions"),
    ("facility", "facility"),
    ("transitional issues", "transitional_issues"),
    ("active issues", "active_issues"),
    ("acute issues", "acute_issues"),
    ("chronic issues", "chronic_issues"),
    ("admission date", "admission_date"),
    ("discharge date", "discharge_date"),
    ("date of discharge", "discharge_date"),
    ("date of birth", "date_of_birth"),
    ("service", "service"),
    ("attending", "attending"),
    ("findings", "findings"),
    ("impression", "impression"),
    ("conclusion", "impression"),
    ("conclusions", "impression"),
    ("indication", "indication"),
    ("indications", "indication"),
    ("clinical indication", "indication"),
    ("clinical information", "indication"),
    ("history", "history"),
    ("reason for exam", "reason_for_exam"),
    ("reason for this examination", "reason_for_exam"),
    ("reason for examination", "reason_for_exam"),
    ("medical condition", "medical_condition"),
    ("comparison", "comparison"),
    ("comparisons", "comparison"),
    ("comparison exam", "comparison"),
    ("technique", "technique"),
    ("examination", "examination"),
    ("exam", "examination"),
    ("study", "examination"),
    ("type of examination", "examination"),
    ("procedure", "procedure"),
    ("recommendation", "recommendation"),
    ("recommendations", "recommendation"),
    ("recommendation(s)", "recommendation"),
    ("notification", "notification"),
    ("wet read", "wet_read"),
    ("final report", "final_report"),
];

/// Words for what happens after admission: a header with one of them begins a
/// section of its own and is no part of an admission note.
const LATER: &[&str] = &[
    "hospital course",
    "discharge",
    "expired",
    "death",
    "deceased",
    "autopsy",
    "disposition",
    "post-op",
    "postoperative course",
    "icu course",
    "floor course",
    "course in hospital",
    "on transfer",
    "cause of death",
    "addendum",
];

/// The longest phrase that is tried as a header, in bytes.
const LONGEST: usize = 60;

/// Cuts a note at its headers. Text before the first one is left out.
pub(super) fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut after_blank = true;
    for line in text.lines() {
        let trimmed = line.trim();
        match header(trimmed, after_blank) {
            Some((name, header, rest)) => sections.push(Section {
                name,
                header: header.to_string(),
                text: rest.to_string(),
            }),
            None => {
                if let Some(section) = sections.last_mut() {
                    section.text.push('\n');
                    section.text.push_str(line.trim_end());
                }
            }
        }
        after_blank = trimmed.is_empty();
    }
    for section in &mut sections {
        section.text = crate::xml::tidy(&section.text);
    }
    sections
}

/// A line's section name, header and what follows the colon.
fn header(line: &str, after_blank: bool) -> Option<(String, &str, &str)> {
    // A colon is one byte, so this cuts at a character.
    let colon = line.bytes().take(LONGEST).position(|byte| byte == b':')?;
    let (phrase, rest) = (line[..colon].trim_end(), line[colon + 1..].trim());
    let phrase = phrase.trim_start_matches(['#', '*', '-', '=', ' ']);
    let plain = crate::xml::fold(&phrase.to_lowercase());
    if let Some((_, name)) = HEADERS.iter().find(|(known, _)| *known == plain) {
        return Some(((*name).to_string(), phrase, rest));
    }
    if is_later(&plain) && words(&plain) <= 8 {
        return Some((snake(&plain), phrase, rest));
    }
    let alone = rest.is_empty() && after_blank;
    let capital = phrase.starts_with(|c: char| c.is_ascii_uppercase());
    let wordy = plain.chars().any(|c| c.is_ascii_lowercase());
    (alone && capital && wordy && words(&plain) <= 6).then(|| (snake(&plain), phrase, rest))
}

fn words(phrase: &str) -> usize {
    phrase.split_whitespace().count()
}

fn is_later(phrase: &str) -> bool {
    LATER.iter().any(|word| phrase.contains(word))
}

fn snake(phrase: &str) -> String {
    let mut name = String::with_capacity(phrase.len());
    for character in phrase.chars() {
        match character.is_ascii_alphanumeric() {
            true => name.push(character),
            false if name.ends_with('_') || name.is_empty() => {}
            false => name.push('_'),
        }
    }
    name.trim_end_matches('_').to_string()
}

/// What is known when a patient is admitted, in the order it is written: the
/// sections that van Aken et al. (2021, clinical outcome prediction) keep.
const ADMISSION: &[(&str, &str)] = &[
    ("chief_complaint", "CHIEF COMPLAINT"),
    ("history_of_present_illness", "PRESENT ILLNESS"),
    ("past_medical_history", "MEDICAL HISTORY"),
    ("medications_on_admission", "MEDICATION ON ADMISSION"),
    ("allergies", "ALLERGIES"),
    ("physical_exam", "PHYSICAL EXAM"),
    ("family_history", "FAMILY HISTORY"),
    ("social_history", "SOCIAL HISTORY"),
];

/// The part of a discharge summary that is known at admission, for predicting
/// what follows. Only the sections of [`ADMISSION`] are in it, and
/// - of what stands after the hospital course only the medications on admission
///   (their place in MIMIC's notes; an examination there is one at discharge),
/// - no section from the first line on that is a heading of something later
///   (`Discharge exam:`, `ON DISCHARGE`, `Expired`),
/// - no line that says that the patient has died.
///
/// Empty where the note has none of these sections.
pub(super) fn admission_note(sections: &[Section]) -> String {
    // The date of discharge stands at the head of every note.
    let course = |section: &Section| {
        section.name != "discharge_date" && is_later(&section.header.to_lowercase())
    };
    let first_course = sections.iter().position(course).unwrap_or(sections.len());
    let mut parts = Vec::new();
    for (name, title) in ADMISSION {
        for (place, section) in sections.iter().enumerate() {
            let medications = *name == "medications_on_admission";
            if section.name != *name || (place > first_course && !medications) {
                continue;
            }
            let text = known_at_admission(&section.text);
            if !text.is_empty() {
                parts.push(format!("{title}: {text}"));
            }
        }
    }
    parts.join("\n\n")
}

/// The lines up to the first heading of something later, without those that
/// tell of the patient's death.
fn known_at_admission(text: &str) -> String {
    let known = text.lines().take_while(|line| !is_later_heading(line));
    let kept: Vec<&str> = known.filter(|line| !tells_of_death(line)).collect();
    crate::xml::tidy(&kept.join("\n"))
}

fn is_later_heading(line: &str) -> bool {
    let lower = line.to_lowercase();
    // "Discharged from another hospital last week" is history.
    let phrase = lower.split(':').next().unwrap_or_default();
    let heading = lower.contains(':') || words(&lower) <= 4;
    heading && words(phrase) <= 6 && is_later(phrase)
}

fn tells_of_death(line: &str) -> bool {
    let lower = line.to_lowercase();
    [
        "expired",
        "time of death",
        "pronounced dead",
        "passed away",
        "comfort measures only",
        "autopsy",
    ]
    .iter()
    .any(|words| lower.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "Admission Date:  [**2150-1-1**]   Discharge Date:  [**2150-1-9**]\n\
        \n\
        CHIEF COMPLAINT: Cough\n\
        \n\
        History of Present Illness:\n\
        A made-up person. Discharged from elsewhere last week.\n\
        BP: 120/80\n\
        \n\
        Past Medical History:\n\
        asthma\n\
        \n\
        Wound care:\n\
        none\n\
        \n\
        Physical Exam:\n\
        HEENT: normal\n\
        \n\
        On discharge: well\n\
        Lungs: clear\n\
        \n\
        Hospital course by problem list:  1. treated\n\
        RESPIRATORY: better\n\
        \n\
        Medications on Admission:\n\
        1. drug\n\
        \n\
        Physical examination:\n\
        better now\n\
        \n\
        Discharge Instructions:\n\
        Call us.\n";

    #[test]
    fn notes_are_cut_at_their_headers() {
        let found = sections(NOTE);
        let names: Vec<&str> = found.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "admission_date",
                "chief_complaint",
                "history_of_present_illness",
                "past_medical_history",
                "wound_care",
                "physical_exam",
                "on_discharge",
                "hospital_course_by_problem_list",
                "medications_on_admission",
                "physical_exam",
                "discharge_instructions",
            ]
        );
        assert_eq!(found[1].text, "Cough");
        assert_eq!(
            found[2].text,
            "A made-up person. Discharged from elsewhere last week.\nBP: 120/80"
        );
        assert_eq!(found[7].text, "1. treated\nRESPIRATORY: better");
        assert_eq!(sections(""), []);
        assert_eq!(sections(":\n::\n\u{e9}:\n"), []);
    }

    #[test]
    fn an_admission_note_knows_nothing_of_what_follows() {
        assert_eq!(
            admission_note(&sections(NOTE)),
            "CHIEF COMPLAINT: Cough\n\n\
             PRESENT ILLNESS: A made-up person. Discharged from elsewhere last week.\nBP: 120/80\n\n\
             MEDICAL HISTORY: asthma\n\n\
             MEDICATION ON ADMISSION: 1. drug\n\n\
             PHYSICAL EXAM: HEENT: normal"
        );
        let exam = "Physical Exam:\nwell\nDISCHARGE EXAM\nbad\n";
        assert_eq!(admission_note(&sections(exam)), "PHYSICAL EXAM: well");
        let died = "Physical Exam:\nThe patient expired on day 3.\nwell\n";
        assert_eq!(admission_note(&sections(died)), "PHYSICAL EXAM: well");
        assert_eq!(
            admission_note(&sections("Brief Hospital Course:\nlong\n")),
            ""
        );
    }
}
