//! The first line that isn't blank, without white space around it.

use super::Filter;

pub(super) const FIRST_LINE: Filter = Filter {
    name: "first_line",
    about: "the first line that isn't blank",
    needs_options: false,
    extract: |text, _| {
        text.lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(String::from)
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_blank_lines() {
        assert_eq!(
            (FIRST_LINE.extract)("\n  \n yes \nno", &[]).as_deref(),
            Some("yes")
        );
        assert_eq!((FIRST_LINE.extract)(" \n", &[]), None);
    }
}
