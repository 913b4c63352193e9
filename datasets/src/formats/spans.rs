//! Marked spans of a text: entities as lists of offsets and as HTML mark-up,
//! the answer that recognition tasks ask for.

use serde_json::{Value, json};

/// A named part of a text. Offsets count characters (Unicode code points), as
/// annotation files do; the end is exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: usize,
    pub end: usize,
    pub kind: String,
    /// The words of a span in several pieces; otherwise all that is between its
    /// ends.
    pub words: Option<String>,
}

/// Where each character of `text` begins, in bytes, and where the last ends.
/// Texts here are at most 32 MiB, so an offset fits.
pub(crate) fn byte_offsets(text: &str) -> Vec<u32> {
    let starts = text.char_indices().map(|(byte, _)| byte as u32);
    starts.chain([text.len() as u32]).collect()
}

/// The part of `text` between two characters; `None` beyond its end.
pub(crate) fn slice<'t>(text: &'t str, bytes: &[u32], start: usize, end: usize) -> Option<&'t str> {
    let (start, end) = (*bytes.get(start)?, *bytes.get(end)?);
    text.get(start as usize..end as usize)
}

/// `text` with `<span class="kind">` around each span. Spans are written side
/// by side and never in each other: of spans that overlap the one that begins
/// first is marked, of those that begin together the longest. Nothing in the
/// text is escaped.
pub(crate) fn marked(text: &str, spans: &[Span]) -> String {
    let bytes = byte_offsets(text);
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by(|a, b| (a.start, b.end, &a.kind).cmp(&(b.start, a.end, &b.kind)));
    let mut out = String::with_capacity(text.len() + 32 * spans.len());
    let mut done = 0;
    for span in spans {
        if span.start < done || span.start == span.end {
            continue;
        }
        let before = slice(text, &bytes, done, span.start);
        let inside = slice(text, &bytes, span.start, span.end);
        if let (Some(before), Some(inside)) = (before, inside) {
            out.push_str(before);
            out.push_str(&format!("<span class=\"{}\">{inside}</span>", span.kind));
            done = span.end;
        }
    }
    out.push_str(slice(text, &bytes, done, bytes.len() - 1).unwrap_or_default());
    out
}

/// Spans as `[{start, end, type, text}]`, in the order of the text.
pub(crate) fn entities(text: &str, spans: &[Span]) -> Value {
    let bytes = byte_offsets(text);
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by(|a, b| (a.start, a.end, &a.kind).cmp(&(b.start, b.end, &b.kind)));
    let entity = |span: &Span| {
        let whole = slice(text, &bytes, span.start, span.end).unwrap_or_default();
        let text = span.words.as_deref().unwrap_or(whole);
        json!({"start": span.start, "end": span.end, "type": span.kind, "text": text})
    };
    spans.into_iter().map(entity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, end: usize, kind: &str) -> Span {
        let kind = kind.to_string();
        Span {
            start,
            end,
            kind,
            words: None,
        }
    }

    #[test]
    fn offsets_count_characters_and_overlaps_are_written_once() {
        let text = "Fièvre < 39 °C après aspirin";
        let spans = [
            span(21, 28, "drug"),
            span(0, 6, "problem"),
            span(0, 3, "part"),
            span(4, 8, "crossing"),
            span(28, 28, "nothing"),
        ];
        assert_eq!(
            marked(text, &spans),
            "<span class=\"problem\">Fièvre</span> < 39 °C après <span class=\"drug\">aspirin</span>"
        );
        let entities = entities(text, &spans);
        assert_eq!(entities[4]["text"], "");
        assert_eq!(
            entities[3],
            json!({"start": 21, "end": 28, "type": "drug", "text": "aspirin"})
        );
        assert_eq!(marked("", &[]), "");
    }
}
