//! The first option that stands in the text as a whole word, whatever its case.

use super::Filter;

pub(super) const LABEL: Filter = Filter {
    name: "label",
    about: "the first option in the text, as a whole word, case-insensitive",
    needs_options: true,
    extract: |text, options| {
        // At one position the longest option wins: "Surgery" must not shadow "Surgery - Plastic".
        occurrences(text, options)
            .min_by_key(|found| (found.at, std::cmp::Reverse(found.length)))
            .map(|found| options[found.option].clone())
    },
};

/// An option found in a text.
pub(super) struct Occurrence {
    pub(super) option: usize,
    /// Where, in characters.
    pub(super) at: usize,
    /// How long, in characters.
    pub(super) length: usize,
}

/// Where each option stands first as a whole word, for those that do.
pub(super) fn occurrences(text: &str, options: &[String]) -> impl Iterator<Item = Occurrence> {
    let text = folded(text);
    options
        .iter()
        .enumerate()
        .filter_map(move |(option, label)| {
            let label = folded(label.trim());
            let at = whole_word(&text, &label)?;
            Some(Occurrence {
                option,
                at,
                length: label.len(),
            })
        })
}

/// Lower-cased one character for one, so that positions stay comparable.
fn folded(text: &str) -> Vec<char> {
    text.chars()
        .map(|c| c.to_lowercase().next().unwrap_or(c))
        .collect()
}

fn whole_word(text: &[char], label: &[char]) -> Option<usize> {
    if label.is_empty() {
        return None;
    }
    (0..(text.len() + 1).saturating_sub(label.len())).find(|&at| {
        let end = at + label.len();
        text[at..end] == *label && !joined(text, at, -1) && !joined(text, end - 1, 1)
    })
}

/// Whether the word goes on beyond this character: a letter or digit is next, or a hyphen or
/// apostrophe and then one ("no" is not a word of "no-one").
fn joined(text: &[char], at: usize, step: isize) -> bool {
    let is_word = |offset: isize| {
        at.checked_add_signed(offset * step)
            .and_then(|index| text.get(index))
            .is_some_and(|c| c.is_alphanumeric() || *c == '_')
    };
    let is_joint = at
        .checked_add_signed(step)
        .and_then(|index| text.get(index))
        .is_some_and(|c| matches!(c, '-' | '\'' | '’'));
    is_word(1) || (is_joint && is_word(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(text: &str, options: &[&str]) -> Option<String> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        (LABEL.extract)(text, &options)
    }

    const YES_NO_MAYBE: &[&str] = &["yes", "no", "maybe"];

    #[test]
    fn takes_whole_words_only() {
        assert_eq!(
            pick("It is not known. Maybe.", YES_NO_MAYBE).as_deref(),
            Some("maybe")
        );
        assert_eq!(pick("No-one can't tell", YES_NO_MAYBE), None);
        assert_eq!(pick("**NO**, because", YES_NO_MAYBE).as_deref(), Some("no"));
        assert_eq!(pick("", YES_NO_MAYBE), None);
    }

    #[test]
    fn takes_the_first_in_the_text_not_in_the_list() {
        assert_eq!(pick("no, not yes", YES_NO_MAYBE).as_deref(), Some("no"));
    }

    #[test]
    fn prefers_the_longer_of_two_that_start_together() {
        let options = ["Surgery", "Surgery Plastic"];
        assert_eq!(
            pick("surgery plastic", &options).as_deref(),
            Some("Surgery Plastic")
        );
        assert_eq!(
            pick("surgery, general", &options).as_deref(),
            Some("Surgery")
        );
    }

    #[test]
    fn labels_with_hyphens_and_non_ascii_text() {
        let options = ["DDI-effect", "DDI-int"];
        assert_eq!(pick("ddi-int", &options).as_deref(), Some("DDI-int"));
        assert_eq!(pick("DDI-interaction", &options), None);
        assert_eq!(
            pick("İé: DDI-effect.", &options).as_deref(),
            Some("DDI-effect")
        );
    }
}
