//! Texts marked up with `<span class="..">` elements, and how an answer's words line up with the
//! source text's.
//!
//! Gold and answer should be the same text with mark-up, but a model may also alter the text. Both
//! are cut into words and signs; the answer's are aligned to the gold's by their longest common
//! subsequence. What the answer adds is aligned to nothing.

/// An entity: its class and the range of words that it covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entity {
    pub(super) class: String,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A text without its mark-up.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) words: Vec<String>,
    pub(super) entities: Vec<Entity>,
}

/// Reads mark-up leniently, as models write it: an unclosed element ends with the text, a stray
/// end tag and any other tag are text.
pub(super) fn parse(text: &str) -> Marked {
    let mut marked = Marked::default();
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        push_words(&rest[..at], &mut marked.words);
        rest = &rest[at..];
        match read_tag(rest) {
            Some((Tag::Open(class), length)) => {
                open.push((class, marked.words.len()));
                rest = &rest[length..];
            }
            Some((Tag::Close, length)) => {
                if let Some((class, start)) = open.pop() {
                    marked.entities.push(Entity {
                        class,
                        start,
                        end: marked.words.len(),
                    });
                }
                rest = &rest[length..];
            }
            None => {
                push_words("<", &mut marked.words);
                rest = &rest[1..];
            }
        }
    }
    push_words(rest, &mut marked.words);
    let end = marked.words.len();
    marked.entities.extend(
        open.into_iter()
            .map(|(class, start)| Entity { class, start, end }),
    );
    marked.entities.retain(|entity| entity.start < entity.end);
    marked
}

enum Tag {
    Open(String),
    Close,
}

/// A `<span ..>` or `</span>` at the start of the text, and its length in bytes.
fn read_tag(text: &str) -> Option<(Tag, usize)> {
    let end = text.find('>')?;
    let inside = text[1..end].trim();
    if inside
        .strip_prefix('/')
        .is_some_and(|name| name.trim().eq_ignore_ascii_case("span"))
    {
        return Some((Tag::Close, end + 1));
    }
    let (name, attributes) = inside
        .split_once(char::is_whitespace)
        .unwrap_or((inside, ""));
    if !name.eq_ignore_ascii_case("span") {
        return None;
    }
    let class = attributes
        .trim_start()
        .strip_prefix("class")
        .and_then(|rest| rest.trim_start().strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']).trim().to_lowercase())
        .unwrap_or_default();
    Some((Tag::Open(class), end + 1))
}

/// Words are runs of letters and digits; every other sign that isn't white space stands alone.
fn push_words(text: &str, words: &mut Vec<String>) {
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
}

/// Largest table that alignment fills, in cells; beyond it (texts of 8,000 words that share no
/// beginning or end) the differing middle counts as not aligned.
const MAX_ALIGNMENT_CELLS: usize = 64 << 20;

/// For each answered word its gold word under a longest common subsequence.
pub(super) fn align(answer: &[String], gold: &[String]) -> Vec<Option<usize>> {
    let prefix = answer.iter().zip(gold).take_while(|(a, g)| a == g).count();
    let (answer_rest, gold_rest) = (&answer[prefix..], &gold[prefix..]);
    let suffix = answer_rest
        .iter()
        .rev()
        .zip(gold_rest.iter().rev())
        .take_while(|(a, g)| a == g)
        .count();
    let a = &answer_rest[..answer_rest.len() - suffix];
    let g = &gold_rest[..gold_rest.len() - suffix];

    let mut aligned: Vec<Option<usize>> = (0..prefix).map(Some).collect();
    aligned.extend(
        align_middle(a, g)
            .into_iter()
            .map(|index| index.map(|i| i + prefix)),
    );
    aligned.extend((gold.len() - suffix..gold.len()).map(Some));
    aligned
}

fn align_middle(a: &[String], g: &[String]) -> Vec<Option<usize>> {
    let mut aligned = vec![None; a.len()];
    if a.len().saturating_mul(g.len()) > MAX_ALIGNMENT_CELLS {
        return aligned;
    }
    // length[i][j] is the longest common subsequence of a[i..] and g[j..].
    let width = g.len() + 1;
    let mut length = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..g.len()).rev() {
            length[i * width + j] = if a[i] == g[j] {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < g.len() {
        if a[i] == g[j] {
            aligned[i] = Some(j);
            (i, j) = (i + 1, j + 1);
        } else if length[(i + 1) * width + j] >= length[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_entities_are_both_read() {
        let text = r#"<span class="a">x <span class="b">y</span></span>"#;
        let marked = parse(text);
        let entity = |class: &str, start, end| Entity {
            class: class.into(),
            start,
            end,
        };
        assert_eq!(marked.entities, [entity("b", 1, 2), entity("a", 0, 2)]);
    }
}
