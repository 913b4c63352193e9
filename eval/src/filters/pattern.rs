//! A regular expression that says where in the text the answer is.

use regex::Regex;
use serde::{Serialize, Serializer};

/// A regular expression, compiled. The `regex` crate's syntax: no look-around or back-references, and
/// matching takes time linear in the text.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// Says in words what is wrong with the expression.
    pub fn new(pattern: &str) -> Result<Self, String> {
        Regex::new(pattern).map(Pattern).map_err(|error| {
            // The last line of a syntax error is the reason; those before draw the place.
            let shown = error.to_string();
            let reason = shown.lines().last().unwrap_or_default();
            reason.trim_start_matches("error: ").to_owned()
        })
    }

    /// The first group of the first match, or all of it where the expression has no group.
    pub(super) fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        let captures = self.0.captures(text)?;
        let group = usize::from(captures.len() > 1);
        captures.get(group).map(|found| found.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_group_or_the_match() {
        let find = |pattern: &str, text: &'static str| Pattern::new(pattern).unwrap().find(text);
        assert_eq!(find("answer: (.+)", "answer: yes\nanswer: no"), Some("yes"));
        assert_eq!(
            find("(?s).*answer: (.+)", "answer: yes\nanswer: no"),
            Some("no")
        );
        assert_eq!(find("[0-9]+ mg", "take 81 mg"), Some("81 mg"));
        assert_eq!(find("x(y)?", "x"), None);
        assert_eq!(find("z", "x"), None);
    }

    #[test]
    fn a_bad_expression_is_explained_in_a_line() {
        assert_eq!(Pattern::new("answer: (").unwrap_err(), "unclosed group");
        assert!(
            Pattern::new("(a{1000}){1000}")
                .unwrap_err()
                .contains("size limit")
        );
    }
}
