//! The number that an answer to a sum comes to: what follows `####` (GSM8K's mark) where that is
//! there, otherwise the last number of the text.

use super::Filter;

pub(super) const NUMBER: Filter = Filter {
    name: "number",
    about: "the number after `####`, or else the last number, without thousands separators",
    needs_options: false,
    extract: |text, _| {
        let marked = text.split_once("####").map(|(_, rest)| rest);
        match marked.map(numbers) {
            Some(numbers) if !numbers.is_empty() => numbers.into_iter().next(),
            _ => numbers(text).pop(),
        }
    },
};

/// Every number of a text: digits with an optional sign and decimals, thousands parted by commas.
fn numbers(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !digit(at) {
            at += 1;
            continue;
        }
        // `3-4` is two numbers, `-4` and `= -4` are one.
        let signed =
            at > 0 && bytes[at - 1] == b'-' && (at < 2 || !bytes[at - 2].is_ascii_alphanumeric());
        let mut number = String::from(if signed { "-" } else { "" });
        while digit(at) {
            number.push(char::from(bytes[at]));
            at += 1;
            let thousands = bytes.get(at) == Some(&b',')
                && (1..=3).all(|next| digit(at + next))
                && !digit(at + 4);
            let decimals = bytes.get(at) == Some(&b'.') && digit(at + 1) && !number.contains('.');
            if thousands {
                at += 1;
            } else if decimals {
                number.push('.');
                at += 1;
            }
        }
        if number.contains('.') {
            // 18.00 dollars are 18.
            let whole = number.trim_end_matches('0').trim_end_matches('.').len();
            number.truncate(whole);
        }
        found.push(number);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_marked_or_the_last_number() {
        let number = |text: &str| (NUMBER.extract)(text, &[]);
        assert_eq!(
            number("16 - 3 = 13\n#### 18 eggs, 2 dollars").as_deref(),
            Some("18")
        );
        assert_eq!(
            number("She makes $1,234,567.50 a day.").as_deref(),
            Some("1234567.5")
        );
        assert_eq!(number("in all 12,34 and 5,600").as_deref(), Some("5600"));
        assert_eq!(number("x = -4").as_deref(), Some("-4"));
        assert_eq!(number("it is 9-4").as_deref(), Some("4"));
        assert_eq!(number("$18.00.").as_deref(), Some("18"));
        assert_eq!(number("version 1.2.3").as_deref(), Some("3"));
        assert_eq!(number("#### unknown, say 7").as_deref(), Some("7"));
        assert_eq!(number("no number, not ½"), None);
    }
}
