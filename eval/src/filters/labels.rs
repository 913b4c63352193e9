//! Every option that stands in the text as a whole word, as a `;`-separated list.

use super::Filter;
use super::label::occurrences;
use crate::metrics::join_labels;

pub(super) const LABELS: Filter = Filter {
    name: "labels",
    about: "every option in the text, as whole words, case-insensitive",
    needs_options: true,
    extract: |text, options| {
        let found = occurrences(text, options).map(|found| options[found.option].as_str());
        Some(join_labels(found)).filter(|list| !list.is_empty())
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_it_finds_in_the_options_order() {
        let options = ["avoiding immune destruction", "cellular energetics"].map(String::from);
        let text = "Cellular energetics; avoiding immune destruction.";
        assert_eq!(
            (LABELS.extract)(text, &options).as_deref(),
            Some("avoiding immune destruction; cellular energetics")
        );
        assert_eq!((LABELS.extract)("none of them", &options), None);
    }
}
