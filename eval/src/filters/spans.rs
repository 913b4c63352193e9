//! A text with `<span class="..">` mark-up, out of the code fence that chat models like to put
//! around it.

use super::Filter;

pub(super) const SPANS: Filter = Filter {
    name: "spans",
    about: "marked-up text, without a code fence around it",
    needs_options: false,
    extract: |text, _| {
        let text = text.trim();
        let inside = fenced(text).unwrap_or(text).trim();
        (!inside.is_empty()).then(|| inside.to_owned())
    },
};

/// What stands between a first line that opens a code fence and the line that closes it.
fn fenced(text: &str) -> Option<&str> {
    let (_language, body) = text.strip_prefix("```")?.split_once('\n')?;
    Some(body.split_once("```").map_or(body, |(inside, _)| inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_fence_away() {
        let text = "```html\n<span class=\"test\">ECG</span> normal\n```\nDone.";
        assert_eq!(
            (SPANS.extract)(text, &[]).as_deref(),
            Some("<span class=\"test\">ECG</span> normal")
        );
        assert_eq!(
            (SPANS.extract)("ECG normal", &[]).as_deref(),
            Some("ECG normal")
        );
        assert_eq!((SPANS.extract)("```\n```", &[]), None);
    }
}
