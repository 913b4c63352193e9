//! The marks that de-identification leaves in notes, and what they stand for.
//!
//! MIMIC-III writes `[**` what was there, often with a number `**]`, such as
//! `[**2151-7-16**]`, `[**Known lastname 123**]` or `[**Hospital1 18**]`
//! (Neamatullah et al. 2008, "Automated de-identification of free-text medical
//! records", whose program made them). MIMIC-IV and MIMIC-CXR write `___` for
//! everything.

/// Words of a mark and what a mark with one of them stands for; the first line
/// that fits counts, so `Hospital Unit Name` is a hospital and `E-mail address`
/// is no place.
const KINDS: [(&str, &[&str]); 10] = [
    ("[EMAIL]", &["mail", "email"]),
    ("[URL]", &["url", "website"]),
    ("[PHONE]", &["telephone", "phone", "fax", "pager", "beeper"]),
    ("[HOSPITAL]", &["hospital", "ward", "wardname"]),
    (
        "[ID]",
        &["number", "numeric", "identifier", "ssn", "mrn", "security"],
    ),
    ("[AGE]", &["age"]),
    ("[DATE]", &["date", "day", "month", "year", "holiday"]),
    (
        "[LOCATION]",
        &[
            "location",
            "address",
            "street",
            "state",
            "country",
            "county",
            "city",
            "town",
            "apartment",
            "box",
            "zip",
        ],
    ),
    (
        "[ORGANISATION]",
        &["university", "college", "school", "company", "organization"],
    ),
    (
        "[NAME]",
        &[
            "name",
            "names",
            "firstname",
            "lastname",
            "surname",
            "initial",
            "initials",
            "attending",
            "dictator",
            "doctor",
            "contact",
        ],
    ),
];

/// What is known only to be hidden.
const UNKNOWN: &str = "[REDACTED]";

/// The text with each mark replaced; none if it has none.
pub(super) fn surrogates(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(next) = text[at..].find(['[', '_']) {
        at += next;
        match mark(&text[at..]) {
            Some((length, surrogate)) => {
                out.push_str(&text[copied..at]);
                out.push_str(surrogate);
                at += length;
                copied = at;
            }
            // Past the whole run: two underscores are not the end of three.
            None => at += underscores(&text[at..]).max(1),
        }
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// The mark that `text` starts with: its length in bytes and its surrogate.
fn mark(text: &str) -> Option<(usize, &'static str)> {
    let blank = underscores(text);
    if blank >= 3 {
        return Some((blank, UNKNOWN));
    }
    let inside = text.strip_prefix("[**")?;
    // A mark holds no bracket, so a mark that is not closed ends at the next.
    let close = inside.find(['[', ']'])?;
    let content = inside[..close].strip_suffix("**")?;
    let closed = inside[close..].starts_with(']') && !content.contains("\n\n");
    closed.then(|| ("[**".len() + close + 1, stands_for(content)))
}

fn underscores(text: &str) -> usize {
    text.bytes().take_while(|&b| b == b'_').count()
}

fn stands_for(content: &str) -> &'static str {
    let words: Vec<String> = content
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    if words.is_empty() {
        return numbers_stand_for(content);
    }
    KINDS
        .iter()
        .find(|(_, known)| words.iter().any(|word| known.contains(&word.as_str())))
        .map_or(UNKNOWN, |(surrogate, _)| surrogate)
}

/// `2151-7-16`, `7-16`, `2151` and `12/2151` are dates; a longer number is not.
fn numbers_stand_for(content: &str) -> &'static str {
    let digits = content.bytes().filter(u8::is_ascii_digit).count();
    let apart = content.trim().contains(['-', '/']);
    match digits {
        0 => UNKNOWN,
        1..=4 => "[DATE]",
        _ if apart => "[DATE]",
        _ => "[ID]",
    }
}

#[cfg(test)]
mod tests {
    use super::surrogates;

    #[test]
    fn marks_become_what_they_stand_for() {
        for (mark, surrogate) in [
            ("2151-7-16", "[DATE]"),
            ("7-16", "[DATE]"),
            ("2151", "[DATE]"),
            ("-9/2151", "[DATE]"),
            ("Month/Day (2) 1234", "[DATE]"),
            ("Date range (1) 8", "[DATE]"),
            ("Holiday 12", "[DATE]"),
            ("1234567", "[ID]"),
            ("Known lastname 123", "[NAME]"),
            ("Known firstname", "[NAME]"),
            ("First Name8 (NamePattern2)", "[NAME]"),
            ("Initials (NamePattern4) 7", "[NAME]"),
            ("Doctor Last Name 12", "[NAME]"),
            ("Attending Info ", "[NAME]"),
            ("Hospital1 18", "[HOSPITAL]"),
            ("Hospital Ward Name 3", "[HOSPITAL]"),
            ("Wardname 5", "[HOSPITAL]"),
            ("Telephone/Fax (1) 5", "[PHONE]"),
            ("Pager number 9", "[PHONE]"),
            ("Clip Number (Radiology) 4", "[ID]"),
            ("Medical Record Number 4", "[ID]"),
            ("Numeric Identifier 4", "[ID]"),
            ("Age over 90 ", "[AGE]"),
            ("Street Address(1) 3", "[LOCATION]"),
            ("Location (un) 3", "[LOCATION]"),
            ("State 3", "[LOCATION]"),
            ("Country", "[LOCATION]"),
            ("E-mail address 3", "[EMAIL]"),
            ("URL 1", "[URL]"),
            ("University/College 1", "[ORGANISATION]"),
            ("Religion 3", "[REDACTED]"),
            ("", "[REDACTED]"),
            ("Known\nlastname 3", "[NAME]"),
        ] {
            assert_eq!(
                surrogates(&format!("a [**{mark}**], b")).unwrap(),
                format!("a {surrogate}, b"),
                "{mark}"
            );
        }
    }

    #[test]
    fn blanks_are_hidden_text() {
        assert_eq!(
            surrogates("___ is a ___F, seen ______.").unwrap(),
            "[REDACTED] is a [REDACTED]F, seen [REDACTED]."
        );
        assert_eq!(surrogates("snake_case __init__ a_ _b"), None);
    }

    #[test]
    fn what_is_not_a_whole_mark_stays() {
        for text in [
            "[**",
            "[** a",
            "[**a]",
            "[**a**",
            "[a**]",
            "[*a*]",
            "[**a\n\nb**]",
            "**]",
        ] {
            assert_eq!(surrogates(text), None, "{text}");
        }
        assert_eq!(surrogates("[** lost [**Age**]").unwrap(), "[** lost [AGE]");
    }
}
