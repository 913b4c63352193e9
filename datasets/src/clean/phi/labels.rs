//! Identifiers that only a label tells from any other number: "MRN: 0043512",
//! "serial number PJN4471", "page 4-5512".

use regex::Regex;

use super::PhiClass::{
    Account, Biometric, Device, Fax, HealthPlan, Licence, Mrn, OtherId, Phone, Photo, Place, Ssn,
    Vehicle,
};
use super::{Candidate, LABELLED, PhiClass, after, pattern};

/// How far from its label a value may stand, and what it looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// Right after it, or after words such as "number is".
    Near,
    /// Up to three other words between: "insurance: Blue Cross W12345678".
    Far,
    /// A telephone number, however short: extensions and pagers.
    ShortPhone,
    /// A telephone number of seven or ten digits.
    Phone,
    /// A plate: capitals and digits, perhaps in two groups.
    Plate,
    /// Five digits, or nine.
    Zip,
}

/// How far behind its label a value is looked for.
const MAX_REACH_BYTES: usize = 160;

struct Label {
    class: PhiClass,
    words: &'static str,
    value: Value,
    min_digits: usize,
}

const fn label(class: PhiClass, value: Value, min_digits: usize, words: &'static str) -> Label {
    Label {
        class,
        words,
        value,
        min_digits,
    }
}

/// "number", "no.", "#", "ID" after a word that means nothing without.
const MARK: &str =
    r"\s{0,3}(?:numbers?|num|nos?\b\.?|nbr|#|ids?\b|identifiers?|codes?|ref(?:erence)?\b\.?)";

/// `{m}` is [`MARK`]. The first that matches wins.
const LABELS: &[Label] = &[
    label(
        Ssn,
        Value::Near,
        4,
        r"ssn|ss ?#|ss no|social\s{1,2}security|soc\.? sec\.?",
    ),
    label(
        Mrn,
        Value::Near,
        3,
        r"mrn?(?:[ \t]*#|\b)|m\.r\.n\.|medical\s{1,3}records?|med\.?[ \t]?rec\.?|medrec|(?:health|hospital|clinic|patient|pt\.?|chart|unit|record|hosp\.?|file){m}|emr{m}|ehr{m}",
    ),
    label(
        HealthPlan,
        Value::Far,
        4,
        r"(?:health\s{1,3}plan|insurance|insurer|policy|subscriber|beneficiary|member(?:ship)?|group|plan|payer|coverage){m}|(?:medicare|medicaid|tricare|insurance|insured by|health\s{1,3}plan|policyholder|mbi|hicn|humana|aetna|cigna|kaiser|unitedhealthcare|blue\s{1,3}(?:cross|shield))\b",
    ),
    label(
        Account,
        Value::Far,
        4,
        r"(?:account|acct\.?|a/c|billing|bill|invoice|visit|encounter|financial|bank|credit card|debit card|routing|guarantor|statement){m}|(?:account|acct\.?|iban|csn|har|credit card|debit card|visa|mastercard)\b",
    ),
    label(
        Vehicle,
        Value::Far,
        3,
        r"vin\b(?:{m})?|vehicle(?:{m}|\s{1,3}identification)",
    ),
    label(
        Vehicle,
        Value::Plate,
        1,
        r"(?:licen[cs]e\s{1,3}|number\s{1,3}|registration\s{1,3}|vehicle\s{1,3}|car\s{1,3})?plates?(?:{m})?|(?:license|car|vehicle)\s{1,3}tag(?:{m})?|vehicle\s{1,3}registration",
    ),
    label(
        Licence,
        Value::Far,
        3,
        r"(?:licen[cs]e|lic\.?|certificate|certification|cert\.?|registration|permit){m}|(?:licen[cs]e|dea|npi|upin|lic)\b",
    ),
    label(
        Device,
        Value::Far,
        3,
        r"(?:serial|device|implant|pacemaker|generator|lead|pump|valve|icd|equipment|unit serial){m}|serial\b|s/n|sn(?:[ \t]*[:#])|udi\b|imei\b|device\s{1,3}identifier",
    ),
    label(
        Biometric,
        Value::Far,
        3,
        r"(?:finger[ -]?prints?|voice[ -]?prints?|palm[ -]?prints?|hand[ -]?prints?|foot[ -]?prints?|retina(?:l)?\s{1,3}scan|iris\s{1,3}(?:scan|code|template)|face\s{1,3}template|faceprint|facial\s{1,3}(?:recognition|template)|biometrics?|dna\s{1,3}profile)(?:{m})?",
    ),
    label(
        Photo,
        Value::Near,
        3,
        r"(?:full[- ]face\s{1,3})?(?:photo(?:graph)?s?|picture|image|headshot){m}|(?:photograph|photo|headshot)\s{1,3}(?:file|filed as)",
    ),
    label(Fax, Value::ShortPhone, 4, r"fax|facsimile"),
    label(
        Phone,
        Value::ShortPhone,
        4,
        r"tele?phone|phone|tel\b\.?|pager|beeper|extension|ext\b\.?|voicemail",
    ),
    label(
        Phone,
        Value::Phone,
        7,
        r"cell(?:ular)?\b|mobile|call(?:ed|ing)?\b|dial|reach(?:ed|able)?\b|contact(?:ed)?\b|text(?:ed)?\b|paged?\b|ph\b\.?|whatsapp|(?:home|work|office|direct)[ \t]*:",
    ),
    label(
        Place,
        Value::Zip,
        5,
        r"zip(?:[ -]?code)?\b|postal[ -]?code|postcode",
    ),
    label(
        OtherId,
        Value::Far,
        3,
        r"(?:case|study|subject|participant|accession|specimen|sample|claim|order|docket|employee|badge|student|staff|confirmation|tracking|referral|authori[sz]ation|prior auth|auth|prescription|rx|incident|passport|alien|visa|national|citizen|military|service|veteran|va|trial|enrol+ment|randomi[sz]ation|screening|registry|donor|transplant|report|requisition|ticket|confirmation|inmate|prisoner|tax|identification|event|cohort|biobank|barcode|wristband){m}|accession\b|passport\b|study\s{1,3}subject",
    ),
];

#[derive(Debug)]
pub(super) struct Labels {
    labels: Regex,
    near: Regex,
    far: Regex,
    phone: Regex,
    plate: Regex,
    zip: Regex,
    date: Regex,
}

impl Labels {
    pub(super) fn new() -> Self {
        let labels: Vec<String> = LABELS
            .iter()
            .map(|label| format!("({})", label.words.replace("{m}", MARK)))
            .collect();
        // Punctuation, and one line break where a form is set in columns.
        let gap = r#"[ \t:#=.(,"-]*\n?[ \t:#="-]*"#;
        let linking = format!(
            r"(?:(?:numbers?|num|no|nbr|id|ids|identifier|is|was|of|as|code|card|listed|recorded|reads|ending|in|with|last|four|4|digits|the|on|file|scanned|now|new|old|at|to|or|her|him|his|them|us|me|back|via|line|phone|cell|office|home|work|direct|dial|please|also|under|assigned|template|record|ref|reference|tag|filed)\b{gap}){{0,5}}"
        );
        // Digits somewhere, perhaps after letters.
        let value = r"((?:[A-Z]{1,10}[-/_.]){0,3}[A-Z]{0,8}\d[A-Z0-9]*(?:[-/_.:][A-Z0-9]+)*)";
        Self {
            labels: pattern(&format!(r"(?i-u)\b(?:{})", labels.join("|"))),
            near: pattern(&format!("(?i-u)^{gap}{linking}{value}")),
            far: pattern(&format!(
                r"(?i-u)^{gap}{linking}(?:[A-Z]+(?:[&'-][A-Z]+)?[ \t,:#(]+){{0,3}}{linking}{value}"
            )),
            phone: pattern(&format!(
                r"(?i-u)^s?{gap}{linking}((?:\+?\d{{1,3}}[-. ]{{0,2}})?\(?\d{{3}}\)?[-. ]{{0,2}}\d{{3}}[-. ]{{0,2}}\d{{4}}(?:[ ,]{{0,2}}(?:x|ext\.?)[ ]?\d{{1,6}})?|\d{{3}}[-. ]\d{{4}}|x?\d[-. ]\d{{4}}|x?\d{{4,7}})\b"
            )),
            plate: pattern(&format!(
                r"(?-u)^{gap}(?i:{linking})(?:[A-Z][a-z]+[ \t,:#(]+){{0,2}}([A-Z0-9]{{1,8}}(?:[- ][A-Z0-9]{{2,5}})?)\b"
            )),
            zip: pattern(&format!(r"(?i-u)^{gap}{linking}(\d{{5}}(?:-\d{{4}})?)\b")),
            date: pattern(
                r"(?-u)^\d{1,2}[-/.]\d{1,2}[-/.](?:\d{2}|\d{4})$|^(?:19|20)\d{2}[-/.]\d{1,2}[-/.]\d{1,2}$|^\d{1,2}/\d{1,4}$|^\d+\.\d+$|^\d{1,2}:\d{2}",
            ),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        for captures in self.labels.captures_iter(text) {
            let Some((label, word)) = LABELS
                .iter()
                .enumerate()
                .find_map(|(i, label)| Some((label, captures.get(i + 1)?)))
            else {
                continue;
            };
            if let Some((start, end)) = self.value(text, word.end(), label) {
                out.push(Candidate {
                    class: label.class,
                    start,
                    end,
                    rank: LABELLED,
                });
            }
        }
    }

    /// Where the value that belongs to a label is, if there is one.
    fn value(&self, text: &str, at: usize, label: &Label) -> Option<(usize, usize)> {
        let rest = after(text, at, MAX_REACH_BYTES);
        // The label is the start of a longer word: "barometer", "grouping".
        let ended = |byte: u8| !byte.is_ascii_alphabetic() || label.value == Value::ShortPhone;
        if !rest.bytes().next().is_none_or(ended) {
            return None;
        }
        let values = match label.value {
            Value::Near => &self.near,
            Value::Far => &self.far,
            Value::ShortPhone | Value::Phone => &self.phone,
            Value::Plate => &self.plate,
            Value::Zip => &self.zip,
        };
        let found = values.captures(rest)?.get(1)?;
        let value = found.as_str();
        let digits = value.bytes().filter(u8::is_ascii_digit).count();
        // A trial's public registration stands for no person.
        if value.starts_with("NCT0")
            || digits < label.min_digits
            || (digits < 9 && self.date.is_match(value))
        {
            return None;
        }
        let end = at + found.end();
        let start = at + found.start();
        let whole = extended(text, start, end);
        if whole == end && is_quantity(value, &text[end..]) {
            return None;
        }
        Some((start, whole))
    }
}

/// A number with a unit, or a year in a sentence, is not an identifier.
fn is_quantity(value: &str, rest: &str) -> bool {
    const UNITS: &[&str] = &[
        "mg",
        "mcg",
        "ml",
        "cc",
        "cm",
        "mm",
        "kg",
        "g/",
        "%",
        "meq",
        "units",
        "unit",
        "iu",
        "mmhg",
        "bpm",
        "patients",
        "people",
        "years",
        "year",
        "days",
        "hours",
        "weeks",
        "months",
        "percent",
        "milligrams",
        "cells",
        "times",
        "women",
        "men",
        "children",
        "subjects",
        "participants",
        "cases",
        "samples",
    ];
    if !value
        .bytes()
        .all(|b| b.is_ascii_digit() || b"-.".contains(&b))
    {
        return false;
    }
    let rest = rest.trim_start_matches([' ', '-']);
    let year = value.len() == 4 && (value.starts_with("19") || value.starts_with("20"));
    let next = rest
        .split(|c: char| !(c.is_ascii_alphabetic() || c == '%' || c == '/'))
        .next()
        .unwrap_or("");
    year || UNITS.iter().any(|unit| next.eq_ignore_ascii_case(unit))
}

/// Takes in further groups of digits of a number written in groups:
/// "4111 1111 1111 1111".
fn extended(text: &str, start: usize, mut end: usize) -> usize {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    if end - start > 4 || !digits(start..end) {
        return end;
    }
    while bytes.get(end) == Some(&b' ') {
        let group = bytes[end + 1..]
            .iter()
            .take(7)
            .take_while(|b| b.is_ascii_digit())
            .count();
        let next = bytes.get(end + 1 + group);
        if !(2..=6).contains(&group) || next.is_some_and(|b| b"/.%-:".contains(b)) {
            break;
        }
        end += 1 + group;
    }
    end
}
