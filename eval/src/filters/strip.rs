//! The whole text, without white space around it.

use super::Filter;

pub(super) const STRIP: Filter = Filter {
    name: "strip",
    about: "the whole text without white space around it",
    needs_options: false,
    extract: |text, _| {
        Some(text.trim())
            .filter(|t| !t.is_empty())
            .map(String::from)
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_text_is_no_answer() {
        assert_eq!(
            (STRIP.extract)(" two\nlines ", &[]).as_deref(),
            Some("two\nlines")
        );
        assert_eq!((STRIP.extract)(" \n", &[]), None);
    }
}
