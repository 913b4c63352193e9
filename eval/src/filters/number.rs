//! The number that an answer to a sum ends with (GSM8K).

use super::Filter;

pub(super) const NUMBER: Filter = Filter {
    name: "number",
    about: "the number after `####` if there is one, else the last number",
    needs_options: false,
    extract: |text, _| number_in(text),
};

pub(super) const MARKED_NUMBER: Filter = Filter {
    name: "marked_number",
    about: "the number after `####`, and nothing else",
    needs_options: false,
    extract: |text, _| marked(text),
};

/// A text's final number in one writing: digits with a point and a minus sign at most, so `1004` for
/// `$1,004.00`.
pub(crate) fn number_in(text: &str) -> Option<String> {
    marked(text).or_else(|| numbers(text).last())
}

fn marked(text: &str) -> Option<String> {
    let (_, after) = text.split_once("####")?;
    numbers(after.lines().next()?).next()
}

/// The numbers in a text, each in one writing.
fn numbers(text: &str) -> impl Iterator<Item = String> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < chars.len() && !chars[at].is_ascii_digit() {
            at += 1;
        }
        if let [before @ .., '.'] = &chars[..at]
            && !before
                .last()
                .is_some_and(|c| c.is_alphanumeric() || *c == '.')
        {
            let negative = is_negative(before);
            return run(&chars, &mut at).map(|fraction| canonical(negative, "", &fraction));
        }
        let negative = is_negative(&chars[..at]);
        let mut digits = run(&chars, &mut at)?;
        // A comma belongs to the number only before a full group of thousands.
        while chars.get(at) == Some(&',') {
            let mut next = at + 1;
            match run(&chars, &mut next).filter(|group| group.len() == 3) {
                Some(group) => digits.push_str(&group),
                None => break,
            }
            at = next;
        }
        let mut fraction = String::new();
        if chars.get(at) == Some(&'.') {
            let mut next = at + 1;
            if let Some(found) = run(&chars, &mut next) {
                (fraction, at) = (found, next);
            }
        }
        Some(canonical(negative, &digits, &fraction))
    })
}

/// The digits from here on.
fn run(chars: &[char], at: &mut usize) -> Option<String> {
    let rest = chars.get(*at..)?;
    let digits: String = rest.iter().take_while(|c| c.is_ascii_digit()).collect();
    *at += digits.len();
    Some(digits).filter(|digits| !digits.is_empty())
}

/// Whether a minus sign stands before a number that these precede, and no hyphen ("5-10", "T-4").
fn is_negative(before: &[char]) -> bool {
    let before = match before {
        [rest @ .., '$'] => rest,
        all => all,
    };
    match before {
        [.., last, '-' | '−'] => !last.is_alphanumeric() && *last != ')',
        ['-' | '−'] => true,
        _ => false,
    }
}

fn canonical(negative: bool, digits: &str, fraction: &str) -> String {
    let digits = digits.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let sign = if negative && (digits != "0" || !fraction.is_empty()) {
        "-"
    } else {
        ""
    };
    match fraction {
        "" => format!("{sign}{digits}"),
        _ => format!("{sign}{digits}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_number_wins_over_the_last() {
        let text = "3 + 4 = 7\n#### 7 dollars\nThat took 5 minutes.";
        assert_eq!(number_in(text).as_deref(), Some("7"));
        assert_eq!((MARKED_NUMBER.extract)(text, &[]).as_deref(), Some("7"));
        assert_eq!((MARKED_NUMBER.extract)("The answer is 7", &[]), None);
        assert_eq!(number_in("7, no: 8.").as_deref(), Some("8"));
        assert_eq!(number_in("#### none\nor 9").as_deref(), Some("9"));
    }

    #[test]
    fn one_value_has_one_writing() {
        for (text, number) in [
            ("$1,004.00.", "1004"),
            ("-0.50", "-0.5"),
            ("\u{2212}12", "-12"),
            ("-$5", "-5"),
            ("007", "7"),
            ("-0.0", "0"),
            ("5-10", "10"),
            ("COVID-19", "19"),
            ("1,23", "23"),
            ("1,2345", "2345"),
            ("3.", "3"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("see p.5", "5"),
            ("well...5", "5"),
            ("12,345,678.9", "12345678.9"),
        ] {
            assert_eq!(number_in(text).as_deref(), Some(number), "{text}");
        }
        assert_eq!(number_in("none, ½ or ٣"), None);
    }
}
