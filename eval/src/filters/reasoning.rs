//! What a model thinks aloud before it answers is no part of the answer.

use std::borrow::Cow;

const TAGS: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
];

/// The text without reasoning. An end tag without a start ends what the prompt began, and a start
/// without an end, where the model ran out of tokens, takes the rest.
pub(super) fn without_reasoning(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for (start, end) in TAGS {
        if text.contains(start) || text.contains(end) {
            text = Cow::Owned(without(&text, start, end));
        }
    }
    text
}

fn without(text: &str, start: &str, end: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    loop {
        let (starts, ends) = (rest.find(start), rest.find(end));
        match (starts, ends) {
            (Some(from), to) if to.is_none_or(|to| from < to) => {
                kept.push_str(&rest[..from]);
                match to {
                    Some(to) => rest = &rest[to + end.len()..],
                    None => return kept,
                }
            }
            (_, Some(to)) => {
                kept.clear();
                rest = &rest[to + end.len()..];
            }
            _ => {
                kept.push_str(rest);
                return kept;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_the_answer() {
        for (text, answer) in [
            ("B", "B"),
            ("<think>A or B?</think>B", "B"),
            ("A or B?</think>B", "B"),
            ("<think>A?</think>B <think>C?</think>or so", "B or so"),
            ("B<think>A", "B"),
            ("<think>A", ""),
            ("<thinking>A</thinking>B<reasoning>C</reasoning>", "B"),
            ("x < 5 </b>", "x < 5 </b>"),
        ] {
            assert_eq!(without_reasoning(text), answer, "{text}");
        }
    }
}
