//! The option letter that a multiple-choice answer names.
//!
//! A capital A alone proves nothing ("A 45-year-old man"), so a letter counts only where it is
//! clearly a choice: after "answer is", "answer:" or "option"; at the start, followed by `.`, `)`,
//! `:`, a line's end or the text's; or in parentheses.

use super::Filter;

pub(super) const LETTER: Filter = Filter {
    name: "letter",
    about: "the letter of the chosen option, where it clearly is a choice",
    needs_options: true,
    extract: |text, options| {
        let letters = letters_of(options);
        let index = choice(text, &letters)?;
        Some(options[index].clone())
    },
};

/// The letters that stand for the options: the options themselves where they are letters, else
/// A, B, C, .. by position.
fn letters_of(options: &[String]) -> Vec<char> {
    let own: Option<Vec<char>> = options
        .iter()
        .map(|option| {
            let mut chars = option.trim().chars();
            chars
                .next()
                .filter(|c| c.is_ascii_alphabetic() && chars.next().is_none())
        })
        .collect();
    own.unwrap_or_else(|| ('A'..='Z').take(options.len()).collect())
}

fn choice(text: &str, letters: &[char]) -> Option<usize> {
    let text: Vec<char> = text.chars().filter(|c| !matches!(c, '*' | '`')).collect();
    let index_of = |c: char| letters.iter().position(|letter| *letter == c);
    after_cue(&text)
        .find_map(|at| {
            let at = skip(&text, at, |c| c.is_whitespace() || c == '(' || c == ':');
            text.get(at)
                .copied()
                .filter(|_| ends_word(&text, at))
                .and_then(index_of)
        })
        .or_else(|| {
            let at = skip(&text, 0, |c| c.is_whitespace() || c == '(');
            let alone = match text.get(at + 1) {
                None => true,
                Some(c) => matches!(c, '.' | ')' | ':' | ',' | '\n' | '\r'),
            };
            text.get(at).copied().filter(|_| alone).and_then(index_of)
        })
        .or_else(|| {
            text.windows(3).find_map(|w| {
                (w[0] == '(' && w[2] == ')')
                    .then(|| index_of(w[1]))
                    .flatten()
            })
        })
}

fn skip(text: &[char], from: usize, what: impl Fn(char) -> bool) -> usize {
    from + text[from..].iter().take_while(|c| what(**c)).count()
}

/// Not followed by more of a word, nor by a lower-case word that would make "A" an article.
fn ends_word(text: &[char], at: usize) -> bool {
    let next = text.get(at + 1).copied().unwrap_or('.');
    let article = next == ' ' && text.get(at + 2).is_some_and(|c| c.is_lowercase());
    !next.is_alphanumeric() && next != '-' && next != '\'' && !article
}

const CUES: &[&str] = &["answer is", "answer:", "option", "choice"];

/// Positions right after each cue, in the order of the text.
fn after_cue(text: &[char]) -> impl Iterator<Item = usize> {
    let lower: Vec<char> = text.iter().map(char::to_ascii_lowercase).collect();
    (0..lower.len()).filter_map(move |at| {
        CUES.iter().find_map(|cue| {
            let end = at + cue.len();
            let here = lower.get(at..end)?.iter().copied().eq(cue.chars());
            here.then_some(end)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(text: &str) -> Option<String> {
        (LETTER.extract)(text, &["A", "B", "C", "D"].map(String::from))
    }

    #[test]
    fn takes_clear_choices() {
        for text in [
            "B",
            " B. Heparin",
            "(B) Heparin",
            "B)",
            "**B**",
            "The answer is B.",
            "The correct answer is (B).",
            "Answer: B\nbecause",
            "I choose option B",
            "so it is (B)",
        ] {
            assert_eq!(pick(text).as_deref(), Some("B"), "{text}");
        }
    }

    #[test]
    fn leaves_ordinary_words_alone() {
        for text in [
            "A 45-year-old man",
            "Because of",
            "Aspirin",
            "",
            "The answer is a beta blocker",
            "The answer is Aspirin",
            "The answer is A beta blocker",
            "E",
            "b is right",
        ] {
            assert_eq!(pick(text), None, "{text}");
        }
    }

    #[test]
    fn letters_stand_for_options_by_position() {
        let options = ["Heparin", "Warfarin"].map(String::from);
        assert_eq!(
            (LETTER.extract)("B.", &options).as_deref(),
            Some("Warfarin")
        );
    }
}
