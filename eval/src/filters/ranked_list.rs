//! A numbered or bulleted list: one entry a line, without what stands before and behind it.

use super::Filter;

pub(super) const RANKED_LIST: Filter = Filter {
    name: "ranked_list",
    about: "the entries of a numbered or bulleted list, one a line, without numbers and marks",
    needs_options: false,
    extract: |text, _| {
        let entries: Vec<&str> = text.lines().filter_map(entry).collect();
        (!entries.is_empty()).then(|| entries.join("\n"))
    },
};

/// What a line of a list names: `2. **Sarcoidosis** - because ..` names Sarcoidosis.
fn entry(line: &str) -> Option<&str> {
    let line = line.trim();
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = if number.len() < line.len() {
        number.strip_prefix(['.', ')', ':'])?
    } else {
        line.strip_prefix(['-', '*', '•'])?
    };
    // A reason often follows the name.
    let rest = rest.trim_start_matches(['*', '_', ' ', '\t']);
    let ends = [" - ", " – ", " — ", ": ", "**"];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    let name = rest[..end.unwrap_or(rest.len())]
        .trim_matches(|c: char| c.is_whitespace() || "*_.:;,".contains(c));
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_models_write_them() {
        let list = |text: &str| (RANKED_LIST.extract)(text, &[]);
        let text = "Here is my differential:\n\n1. **Sarcoidosis**: because of the nodes.\n\
                    2) Tuberculosis - less likely\n  - Lymphoma.\n* *Lung cancer*\n10. Type 2 diabetes";
        assert_eq!(
            list(text).as_deref(),
            Some("Sarcoidosis\nTuberculosis\nLymphoma\nLung cancer\nType 2 diabetes")
        );
        assert_eq!(list("It is sarcoidosis."), None);
        assert_eq!(list("1.\n- \n2. **"), None);
        assert_eq!(list("3 days of fever"), None);
        assert_eq!(list(""), None);
    }
}
