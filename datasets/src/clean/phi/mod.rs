//! Finds text that may identify a patient: the identifiers that HIPAA's Safe
//! Harbor lists (45 CFR 164.514(b)(2)(i)).
//!
//! A safety net under material that its owner has de-identified, not a way to
//! de-identify: it knows shapes (dates, telephone numbers), labels ("MRN:") and
//! the contexts in which names stand. `docs/phi.md` says what it misses.
//!
//! - `numbers`: identifiers that their own shape gives away;
//! - `labels`: identifiers that only a label tells from any other number;
//! - `dates`: dates and ages; `places`: addresses; `names`: people.
//!
//! Every regular expression is the `regex` crate's, so the time is linear in
//! the text. They use ASCII classes and boundaries (`(?-u)`), because with
//! Unicode's the crate leaves its fast engine at the first letter beyond ASCII;
//! an ASCII boundary is always a character boundary too.

mod dates;
mod labels;
mod lists;
mod names;
mod numbers;
mod places;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// What kind of identifier a finding is: Safe Harbor's list, in its order, with
/// ages over 89 apart from dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhiClass {
    /// A person's name, of whomever: patient, relative, doctor.
    Name,
    /// A place smaller than a state: street, city, county, ZIP code.
    Place,
    /// A date that says more than the year.
    Date,
    /// An age over 89.
    Age,
    /// A telephone or pager number.
    Phone,
    /// A fax number.
    Fax,
    /// An e-mail address.
    Email,
    /// A social security number.
    Ssn,
    /// A medical record number.
    Mrn,
    /// A health plan's number of its member, group or policy.
    HealthPlan,
    /// An account number.
    Account,
    /// A certificate's or licence's number, DEA and NPI among them.
    Licence,
    /// A vehicle's identification number or plate.
    Vehicle,
    /// A device's identifier or serial number.
    Device,
    /// A web address.
    Url,
    /// An IP address.
    Ip,
    /// The identifier of a fingerprint, voiceprint or the like.
    Biometric,
    /// The file of a photograph.
    Photo,
    /// Any other number that stands for one person: case, study, accession.
    OtherId,
}

impl PhiClass {
    /// Every class.
    pub const ALL: [Self; 19] = [
        Self::Name,
        Self::Place,
        Self::Date,
        Self::Age,
        Self::Phone,
        Self::Fax,
        Self::Email,
        Self::Ssn,
        Self::Mrn,
        Self::HealthPlan,
        Self::Account,
        Self::Licence,
        Self::Vehicle,
        Self::Device,
        Self::Url,
        Self::Ip,
        Self::Biometric,
        Self::Photo,
        Self::OtherId,
    ];

    /// As it stands in manifests and in `dropped.jsonl`: `health_plan`.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// What [`redact`] writes in its place: `[HEALTH_PLAN]`.
    pub fn surrogate(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => ("name", "[NAME]"),
            Self::Place => ("place", "[PLACE]"),
            Self::Date => ("date", "[DATE]"),
            Self::Age => ("age", "[AGE]"),
            Self::Phone => ("phone", "[PHONE]"),
            Self::Fax => ("fax", "[FAX]"),
            Self::Email => ("email", "[EMAIL]"),
            Self::Ssn => ("ssn", "[SSN]"),
            Self::Mrn => ("mrn", "[MRN]"),
            Self::HealthPlan => ("health_plan", "[HEALTH_PLAN]"),
            Self::Account => ("account", "[ACCOUNT]"),
            Self::Licence => ("licence", "[LICENCE]"),
            Self::Vehicle => ("vehicle", "[VEHICLE]"),
            Self::Device => ("device", "[DEVICE]"),
            Self::Url => ("url", "[URL]"),
            Self::Ip => ("ip", "[IP]"),
            Self::Biometric => ("biometric", "[BIOMETRIC]"),
            Self::Photo => ("photo", "[PHOTO]"),
            Self::OtherId => ("other_id", "[OTHER_ID]"),
        }
    }
}

/// One piece of text that may identify someone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What it looks like.
    pub class: PhiClass,
    /// Where it starts, in bytes; a character boundary.
    pub start: usize,
    /// Where it ends, in bytes; a character boundary.
    pub end: usize,
}

/// How many findings there are of each class.
pub fn counts(findings: &[Finding]) -> BTreeMap<PhiClass, u64> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.class).or_default() += 1;
    }
    counts
}

/// Writes each finding's [`PhiClass::surrogate`] in its place.
///
/// # Panics
///
/// If the findings are not those of [`Scanner::scan`] on this text.
pub fn redact(text: &str, findings: &[Finding]) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut at = 0;
    for finding in findings {
        redacted.push_str(&text[at..finding.start]);
        redacted.push_str(finding.class.surrogate());
        at = finding.end;
    }
    redacted.push_str(&text[at..]);
    redacted
}

/// What a pass found, before overlaps are settled.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    class: PhiClass,
    start: usize,
    end: usize,
    /// Which class an overlap gets: a label's word counts more than a shape.
    rank: u8,
}

/// Names, and shapes that say little.
const WEAK: u8 = 0;
/// Shapes that say what they are.
const SHAPE: u8 = 1;
/// A label says so.
const LABELLED: u8 = 2;

/// Stands in for what is already hidden. No pass matches it or looks past it,
/// so that how long it is makes no difference.
const BLANK: u8 = b'|';

/// Rounds of [`Scanner::scan`]; two are the rule.
const MAX_ROUNDS: usize = 8;

/// Searches text for identifiers. Made once (it compiles the patterns), used
/// from any number of threads.
#[derive(Debug)]
pub struct Scanner {
    hidden: Regex,
    numbers: numbers::Numbers,
    labels: labels::Labels,
    dates: dates::Dates,
    places: places::Places,
    names: names::Names,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// Compiles the patterns.
    pub fn new() -> Self {
        Self {
            // De-identification's marks: MIMIC-III's, MIMIC-IV's, and surrogates.
            hidden: pattern(r"(?s)\[\*\*.{0,200}?\*\*\]|___+|(?-u:\[[A-Z][A-Z0-9_ -]{0,40}\])"),
            numbers: numbers::Numbers::new(),
            labels: labels::Labels::new(),
            dates: dates::Dates::new(),
            places: places::Places::new(),
            names: names::Names::new(),
        }
    }

    /// What may identify someone in `text`, in order, without overlaps.
    ///
    /// The text is searched again with what was found blanked out, until nothing
    /// more is found: taking one finding away can make another visible, and
    /// redacted text is to be clean.
    pub fn scan(&self, text: &str) -> Vec<Finding> {
        let mut text = self.without_hidden(text);
        let mut findings = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let found = settle(self.candidates(&text));
            if found.is_empty() {
                break;
            }
            let mut bytes = text.into_owned().into_bytes();
            for finding in &found {
                bytes[finding.start..finding.end].fill(BLANK);
            }
            // Whole characters were replaced by as many ASCII ones.
            text = Cow::Owned(String::from_utf8(bytes).expect("findings end at characters"));
            findings.extend(found);
        }
        findings.sort_by_key(|finding| finding.start);
        findings
    }

    /// The text with marks and surrogates blanked out, byte for byte.
    fn without_hidden<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut marks = self.hidden.find_iter(text).peekable();
        if marks.peek().is_none() {
            return Cow::Borrowed(text);
        }
        let mut bytes = text.as_bytes().to_vec();
        for mark in marks {
            bytes[mark.range()].fill(BLANK);
        }
        Cow::Owned(String::from_utf8(bytes).expect("marks end at characters"))
    }

    fn candidates(&self, text: &str) -> Vec<Candidate> {
        let mut found = Vec::new();
        self.numbers.find(text, &mut found);
        self.labels.find(text, &mut found);
        self.dates.find(text, &mut found);
        self.places.find(text, &mut found);
        self.names.find(text, &mut found);
        found
    }
}

/// Joins what overlaps; the class is that of the best evidence, then of the
/// longest.
fn settle(mut found: Vec<Candidate>) -> Vec<Finding> {
    found.retain(|candidate| candidate.start < candidate.end);
    found.sort_by_key(|c| (c.start, std::cmp::Reverse(c.end), c.class));
    let weight = |c: &Candidate| (c.rank, c.end - c.start);
    let mut settled: Vec<(Finding, (u8, usize))> = Vec::new();
    for candidate in found {
        let Candidate {
            class, start, end, ..
        } = candidate;
        match settled.last_mut() {
            Some((last, best)) if start < last.end => {
                last.end = last.end.max(end);
                if weight(&candidate) > *best {
                    *best = weight(&candidate);
                    last.class = class;
                }
            }
            _ => settled.push((Finding { class, start, end }, weight(&candidate))),
        }
    }
    settled.into_iter().map(|(finding, _)| finding).collect()
}

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("the scanner's patterns are valid")
}

/// The `bytes` of `text` before `at`, or fewer, from a character boundary.
fn before(text: &str, at: usize, bytes: usize) -> &str {
    let mut start = at.saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..at]
}

/// The `bytes` of `text` after `at`, or fewer, up to a character boundary.
fn after(text: &str, at: usize, bytes: usize) -> &str {
    let mut end = (at + bytes).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[at..end]
}
