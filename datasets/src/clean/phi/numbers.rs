//! Identifiers that their own shape gives away: telephone and social security
//! numbers, addresses on the net, image files.

use regex::Regex;

use super::PhiClass::{Device, Email, Fax, Ip, Phone, Photo, Ssn, Url};
use super::{Candidate, LABELLED, PhiClass, SHAPE, after, before, pattern};

#[derive(Debug)]
pub(super) struct Numbers {
    numbers: Regex,
    email: Regex,
    web: Regex,
}

const PHONE: usize = 1;
const SSN: usize = 2;
const IP4: usize = 3;
const IP6: usize = 4;
const MAC: usize = 5;

impl Numbers {
    pub(super) fn new() -> Self {
        let phone = r"(?:\+?1[-.\s]{1,2})?(?:\(\d{3}\)[-.\s]{0,2}|\b\d{3}[-.\s/]{1,3})\d{3}[-.\s]{1,2}\d{4}\b(?:[ ,]{0,2}(?:x|ext\.?|extension)[ .:#]{0,2}\d{1,6}\b)?|\+\d{1,3}(?:[-.\s]\(?\d{1,4}\)?){2,5}\b";
        let ssn =
            r"\b\d{3}-\d{2}-\d{4}\b|\b\d{3} \d{2} \d{4}\b|(?:\bxxx|\*\*\*)-(?:xx|\*\*)-\d{4}\b";
        let ip4 = r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b";
        let ip6 = r"\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b|\b(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}\b";
        let mac = r"\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b";
        Self {
            numbers: pattern(&format!("(?i-u)({phone})|({ssn})|({ip4})|({ip6})|({mac})")),
            email: pattern(r"(?i-u)[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+"),
            web: pattern(
                r#"(?i)(?-u:\b)(?:(?:https?|s?ftp)://|www\.)[^\s<>"|\[\]]+|(?-u:\b[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.(?:(com|org|net|edu|gov|info|io|health)\b(?:/[a-z0-9_/?=&%.#~+-]*)?|jpe?g\b|png\b|heic\b|tiff?\b|bmp\b|gif\b))"#,
            ),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        self.find_numbers(text, out);
        if text.contains('@') {
            for found in self.email.find_iter(text) {
                out.push(shape(Email, found.start(), found.end()));
            }
        }
        if text.contains('.') {
            self.find_web(text, out);
        }
    }

    fn find_numbers(&self, text: &str, out: &mut Vec<Candidate>) {
        for captures in self.numbers.captures_iter(text) {
            let Some(group) = (PHONE..=MAC).find_map(|i| Some((i, captures.get(i)?))) else {
                continue;
            };
            let (kind, found) = group;
            let (start, end) = (found.start(), found.end());
            if in_longer_number(text, start, end) {
                continue;
            }
            match kind {
                PHONE if plausible_phone(found.as_str()) => out.push(Candidate {
                    class: phone_or_fax(text, start, end),
                    start,
                    end,
                    rank: SHAPE,
                }),
                SSN => out.push(shape(Ssn, start, end)),
                IP4 if octets(found.as_str()) => out.push(shape(Ip, start, end)),
                IP6 => out.push(shape(Ip, start, end)),
                MAC => out.push(shape(Device, start, end)),
                _ => {}
            }
        }
    }

    fn find_web(&self, text: &str, out: &mut Vec<Candidate>) {
        for captures in self.web.captures_iter(text) {
            let found = captures.get(0).expect("the whole match");
            let shown = found
                .as_str()
                .trim_end_matches(['.', ',', ';', ':', ')', '\'', '!', '?']);
            let lower = shown.to_ascii_lowercase();
            let image = [
                ".jpg", ".jpeg", ".png", ".heic", ".tif", ".tiff", ".bmp", ".gif",
            ]
            .iter()
            .any(|end| lower.ends_with(end));
            let class = if image && !lower.contains("://") && !lower.starts_with("www.") {
                Photo
            } else {
                Url
            };
            // A file's name may have characters that a host's cannot.
            let start = if class == Photo {
                let name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
                let head = before(text, found.start(), 80);
                found.start() - (head.len() - head.trim_end_matches(name).len())
            } else {
                found.start()
            };
            out.push(Candidate {
                class,
                start,
                end: found.start() + shown.len(),
                rank: if class == Photo { LABELLED } else { SHAPE },
            });
        }
    }
}

fn shape(class: PhiClass, start: usize, end: usize) -> Candidate {
    Candidate {
        class,
        start,
        end,
        rank: SHAPE,
    }
}

/// Is it a piece of something longer, such as an object identifier?
fn in_longer_number(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let joins = |byte: u8| matches!(byte, b'.' | b'-' | b'/' | b':');
    let head = start > 0
        && (bytes[start - 1].is_ascii_alphanumeric()
            || (start > 1 && joins(bytes[start - 1]) && bytes[start - 2].is_ascii_digit()));
    let tail = end + 1 < bytes.len() && joins(bytes[end]) && bytes[end + 1].is_ascii_digit();
    head || tail
}

fn octets(shown: &str) -> bool {
    shown
        .split('.')
        .all(|part| part.parse::<u16>().is_ok_and(|octet| octet <= 255))
}

/// Three numbers with spaces between may be laboratory values: then area and
/// exchange must be ones that exist.
fn plausible_phone(shown: &str) -> bool {
    if shown.contains(['-', '(', '+', '.', '/']) {
        let digits = shown.bytes().filter(u8::is_ascii_digit).count();
        return digits >= 8;
    }
    let parts: Vec<&str> = shown.split_ascii_whitespace().collect();
    let first = usize::from(parts.first() == Some(&"1"));
    parts
        .iter()
        .skip(first)
        .take(2)
        .all(|part| part.as_bytes()[0] >= b'2')
}

/// A fax number is a telephone number that the nearest word calls one.
fn phone_or_fax(text: &str, start: usize, end: usize) -> PhiClass {
    let head = before(text, start, 24).to_ascii_lowercase();
    let fax = ["fax", "facsimile"]
        .iter()
        .filter_map(|w| head.rfind(w))
        .max();
    let phone = ["phone", "tel", "cell", "pager", "mobile", "call"]
        .iter()
        .filter_map(|w| head.rfind(w))
        .max();
    // "Fax: 1, phone 2": digits after the word mean that it told of another.
    let near = fax.filter(|&at| !head[at..].bytes().any(|b| b.is_ascii_digit()));
    let tail = after(text, end, 6).to_ascii_lowercase();
    if near.is_some_and(|fax| phone.is_none_or(|phone| phone < fax))
        || tail.starts_with(" (fax")
        || tail.starts_with(" (f)")
    {
        Fax
    } else {
        Phone
    }
}
