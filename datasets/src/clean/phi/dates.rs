//! Dates that say more than the year, and ages over 89.

use regex::Regex;

use super::PhiClass::{Age, Date};
use super::{Candidate, PhiClass, SHAPE, after, before, pattern};

#[derive(Debug)]
pub(super) struct Dates {
    numeric: Regex,
    month: Regex,
    day_before: Regex,
    day_after: Regex,
    month_cue: Regex,
    other: Regex,
    age: Regex,
    date_word: Regex,
    not_a_date: Regex,
}

const MONTHS: &str = r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?";

/// Over 89, and no older than anyone was.
const OLD: &str = r"(?:9[0-9]|1[0-2][0-9])";

impl Dates {
    pub(super) fn new() -> Self {
        let spelled = "ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|(?:one|a)[- ]hundred(?:[- ](?:and[- ])?(?:one|two|three|four|five|six|seven|eight|nine|ten))?";
        Self {
            numeric: pattern(
                r"(?-u)\b(?:\d{1,4}/\d{1,4}(?:/\d{1,4})?|\d{1,4}-\d{1,4}(?:-\d{1,4})?|\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)(?:T\d|\b)|\b(?:19|20)\d{6}\b",
            ),
            month: pattern(&format!(r"(?i-u)(?:\b|[0-9])(?:{MONTHS})(?:\b|[0-9])")),
            day_before: pattern(
                r"(?i-u)(?:\b\d{1,2}(?:st|nd|rd|th)?\s{0,2}(?:-|to|and|through|&)\s{0,2}(?:the )?)?\b\d{1,2}(?:st|nd|rd|th)?[-\s.,/]{0,2}(?:(?:day )?of\s{1,2})?$",
            ),
            day_after: pattern(
                r"(?i-u)^\.?[-\s,/]{0,2}(?:the )?(?:\d{1,2}(?:st|nd|rd|th)?\b(?:\s{0,2}(?:-|to|through|thru|and|&|or|until)\s{0,2}(?:the )?\d{1,2}(?:st|nd|rd|th)?\b)?(?:[-\s,/]{1,2}(?:of\s)?(?:'?\d{2}\b|(?:19|20)\d{2}\b))?|(?:of\s)?(?:19|20)\d{2}\b|'\d{2}\b)",
            ),
            month_cue: pattern(
                r"(?i-u)\b(?:in|since|last|this|next|until|early|mid|late|by|during|through|till|between)[-\s](?:early |mid[- ]|late )?$",
            ),
            other: pattern(
                r"(?i-u)\b(?:(?:spring|summer|fall|autumn|winter)(?: of)?,? (?:19|20)\d{2}\b|Christmas(?: (?:Day|Eve))?\b|Thanksgiving(?: Day)?\b|New\sYear'?s(?: (?:Day|Eve))?\b|Halloween\b|Labor Day\b|Memorial Day\b|Valentine'?s Day\b|Independence Day\b|Fourth of July\b|Mother'?s Day\b|Father'?s Day\b|Easter(?: Sunday)?\b|(?:on|from|since|until|by|through|before|after) the (\d{1,2}(?:st|nd|rd|th)(?: (?:and|to|through|until|or) (?:the )?\d{1,2}(?:st|nd|rd|th))?)(?: of (?:this|last|the|next) month|[.,;)]|\s*$))",
            ),
            age: pattern(&format!(
                r"(?i-u)\b(?:({OLD})[- \n]?(?:years?|yrs?\.?|y\.?)[- /\n]{{0,2}}(?:old|o\b|o\.|of[ -]age|m\b|f\b|male|female|man\b|woman\b)|age[ds]?\s?[:=]?[ \t]?(?:is |was |of |at )?({OLD})\b|({spelled})[- ]years?[- ](?:old|of[ -]age)|(nonagenarian|centenarian)s?\b|(?:turn(?:ed|ing|s)|(?:died|passed away|deceased|lived)(?:,| at| to)(?: the)?(?: age)?(?: of)?) ({OLD})\b|({OLD})(?:st|nd|rd|th) birthday|(?:his|her|their) (?:early |mid[- ]|late )?((?:90|100)'?s|nineties)\b|(?:a|an|pt|patient|this)[ \n]({OLD})[ -]?(?:m|f|male|female|man|woman|gentleman|lady)\b|({OLD})[- ](?:male|female)\b)",
            )),
            date_word: pattern(
                r"(?i-u)(?:\b(?:on|since|from|until|till|thru|through|dated?|by|after|before|between|starting|started|due|due on|admitted|discharged|seen|dob|exam|visit|dos|d/c|adm|of|collected|performed|repeat(?:ed)?|last|and|for|clinic|appt|appointment|scheduled|taken|drawn)[ \t\n:(]{1,2}|[dt]:[ \t]?)$",
            ),
            not_a_date: pattern(
                r"(?i-u)^(?:%|[ -]?(?:strength|tab(?:let)?s?|cups?|doses?|packs?|ppd|pint|pound|lbs?|inch(?:es)?|in\.|cm|mm|mg|mcg|ml|cc|dl|teaspoons?|tsp|tbsp|of the|of a|nodes?|lymph|positive|negative|cores?|murmurs?|systolic|diastolic|SEM|pain|in |throughout|bilateral|on the |intensity|severity|out |pulses?|reflexes|power|score|days|weeks|months|hours|times|pills?|bottles?|sets?|samples?|patients|scale|points|beats|normal|saline|NS\b|strides|lead|vessels?|full|quadrants|extremit)|[/])",
            ),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        let mut push = |class: PhiClass, start, end| {
            out.push(Candidate {
                class,
                start,
                end,
                rank: SHAPE,
            });
        };
        let mut previous: Option<(usize, usize)> = None;
        for found in self.numeric.find_iter(text) {
            let (start, mut end) = (found.start(), found.end());
            if found.as_str().contains('T') {
                end -= 2;
            }
            match self.numeric_date(text, start, end) {
                Reading::Date => {
                    push(Date, start, end);
                    previous = Some((start, end));
                }
                Reading::Perhaps => {
                    // Two of them with a dash or "to" between are a range.
                    if let Some((first, last)) = previous
                        && is_range(&text[last..start])
                        && !self.not_a_date.is_match(&text[end..])
                    {
                        push(Date, first, last);
                        push(Date, start, end);
                    }
                    previous = Some((start, end));
                }
                Reading::No => {}
            }
        }
        for found in self.month.find_iter(text) {
            let digit = |byte: &u8| usize::from(byte.is_ascii_digit());
            let bytes = found.as_str().as_bytes();
            let start = found.start() + bytes.first().map_or(0, digit);
            let end = found.end() - bytes.last().map_or(0, digit);
            if let Some((start, end)) = self.month_date(text, start, end) {
                push(Date, start, end);
            }
        }
        for found in self.other.captures_iter(text) {
            let span = found.get(1).or(found.get(0)).expect("the whole match");
            if span
                .as_str()
                .bytes()
                .any(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            {
                push(Date, span.start(), span.end());
            }
        }
        for found in self.age.captures_iter(text) {
            let span = found.iter().skip(1).flatten().next();
            if let Some(span) = span.filter(|span| is_age(text, span.start(), span.end())) {
                push(Age, span.start(), span.end());
            }
        }
    }

    /// Reads digits with separators: is it a date?
    fn numeric_date(&self, text: &str, start: usize, end: usize) -> Reading {
        let shown = &text[start..end];
        let bytes = text.as_bytes();
        let joined = |at: usize, next: Option<usize>| {
            matches!(bytes.get(at), Some(b'.' | b'/' | b'-'))
                && next
                    .and_then(|next| bytes.get(next))
                    .is_some_and(u8::is_ascii_digit)
        };
        // A piece of a longer thing: 1.2.3.4, 120/80/60. A dash may be a range.
        if start > 0 && bytes[start - 1] != b'-' && joined(start - 1, start.checked_sub(2))
            || bytes.get(end) != Some(&b'-') && joined(end, Some(end + 1))
            || start > 0 && matches!(bytes[start - 1], b'$' | b'#')
        {
            return Reading::No;
        }
        let Some(separator) = shown.bytes().find(|b| !b.is_ascii_digit()) else {
            let (year, month, day) = (&shown[..4], &shown[4..6], &shown[6..]);
            return Reading::sure(is_year(year) && is_month(month) && is_day(day));
        };
        let parts: Vec<&str> = shown.split(['-', '/', '.']).collect();
        match parts[..] {
            [a, b, c] => Reading::sure(three_parts(a, b, c, separator)),
            [a, b] if separator == b'/' && b.len() == 4 => {
                Reading::sure(is_month(a) && is_year(b) && !self.is_amount(text, end))
            }
            [a, b] if separator == b'-' && b.len() == 4 => Reading::sure(
                a.len() == 2 && is_month(a) && is_year(b) && !self.is_amount(text, end),
            ),
            [a, b] if a.len() == 4 && separator != b'.' => {
                // 2010-12 may be a month or a range of years; a search for
                // identifiers takes the month.
                Reading::sure(b.len() == 2 && is_year(a) && is_month(b))
            }
            [a, b] if separator == b'/' => self.month_and_day(text, start, end, a, b),
            _ => Reading::No,
        }
    }

    fn is_amount(&self, text: &str, end: usize) -> bool {
        self.not_a_date.is_match(&text[end..])
    }

    /// "3/14": a date only where the words around say so; else a ratio, a
    /// score, a fraction.
    fn month_and_day(&self, text: &str, start: usize, end: usize, a: &str, b: &str) -> Reading {
        let valid = is_month(a) && is_day(b) || is_month(b) && is_day(a);
        if !valid || a.len() > 2 || b.len() > 2 {
            return Reading::No;
        }
        let cue = self.date_word.is_match(before(text, start, 16));
        if cue && !self.is_amount(text, end) {
            Reading::Date
        } else {
            Reading::Perhaps
        }
    }

    /// A month's name with a day, a year, or a word such as "since".
    fn month_date(&self, text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        let name = &text[start..end];
        let capital = bytes[start].is_ascii_uppercase();
        let word = matches!(
            name.to_ascii_lowercase().as_str(),
            "may" | "march" | "mar" | "sep" | "dec" | "jan" | "jun"
        );
        let glued = start > 0 && bytes[start - 1].is_ascii_digit();
        if word && !capital && !glued && bytes.get(start.wrapping_sub(1)) != Some(&b'-') {
            return None;
        }
        let head = before(text, start, 28);
        let tail = after(text, end, 36);
        let day = self.day_before.find(head).map(|found| found.start());
        let rest = self.day_after.find(tail).map(|found| found.end());
        match (day, rest) {
            (Some(day), rest) if plausible_day(&head[day..]) => {
                Some((start - (head.len() - day), end + rest.unwrap_or(0)))
            }
            (_, Some(rest)) => Some((start, end + rest)),
            _ if capital && name.len() > 2 && self.month_cue.is_match(head) => {
                // "In May," but not "May" that begins a question or an order.
                (name != name.to_ascii_uppercase()).then_some((start, end))
            }
            _ => None,
        }
    }
}

enum Reading {
    Date,
    /// A month and a day, or a ratio.
    Perhaps,
    No,
}

impl Reading {
    fn sure(is_date: bool) -> Self {
        if is_date { Self::Date } else { Self::No }
    }
}

fn number(part: &str) -> u32 {
    part.parse().unwrap_or(u32::MAX)
}

fn is_month(part: &str) -> bool {
    part.len() <= 2 && (1..=12).contains(&number(part))
}

fn is_day(part: &str) -> bool {
    part.len() <= 2 && (1..=31).contains(&number(part))
}

/// Any of the years that a patient can have lived in, and the shifted ones of
/// de-identified notes (2100 to 2250) as well.
fn is_year(part: &str) -> bool {
    part.len() == 4 && (1850..=2250).contains(&number(part))
}

fn three_parts(a: &str, b: &str, c: &str, separator: u8) -> bool {
    let month_day = |m: &str, d: &str| is_month(m) && is_day(d) || is_month(d) && is_day(m);
    if is_year(a) {
        return c.len() <= 2 && month_day(b, c);
    }
    if is_year(c) {
        return month_day(a, b);
    }
    // Two figures for the year: "1-2-10" and "1.2.10" may be something else.
    let padded = a.len() == 2 && b.len() == 2;
    c.len() == 2 && month_day(a, b) && (separator == b'/' || padded)
}

fn is_range(between: &str) -> bool {
    matches!(
        between.trim(),
        "-" | "to" | "through" | "thru" | "until" | "till" | "\u{2013}"
    )
}

/// The digits before a month are a day, not "Room 412".
fn plausible_day(day: &str) -> bool {
    day.split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .all(is_day)
}

/// "90 or older" is Safe Harbor's own category; "98 degrees F" no age at all.
fn is_age(text: &str, start: usize, end: usize) -> bool {
    let tail = after(text, end, 28).to_ascii_lowercase();
    let tail = tail.trim_start_matches([' ', '-']);
    let tail = ["years", "year", "yrs"]
        .iter()
        .find_map(|unit| tail.strip_prefix(unit))
        .unwrap_or(tail)
        .trim_start_matches([' ', '-']);
    let category = [
        "or older",
        "and older",
        "or over",
        "and over",
        "+",
        "and above",
        "or above",
        "or more",
        "days",
        "months",
        "weeks",
        "hours",
        "%",
        "f fever",
        "f temp",
    ];
    let head = before(text, start, 12).to_ascii_lowercase();
    let limit = [
        "over ", "above ", "under ", "than ", ">", "< ", "to ", "to age ",
    ];
    let comparison = limit
        .iter()
        .any(|word| head.trim_end_matches("age ").ends_with(word));
    !(category.iter().any(|word| tail.starts_with(word))
        || comparison && !tail.starts_with("old m"))
}
