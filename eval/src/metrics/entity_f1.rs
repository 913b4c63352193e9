//! Strict entity F1 over texts marked up with `<span class="..">` elements.
//!
//! Gold and answer are the same text with mark-up, but a model may also alter the text. Both are
//! cut into words and signs; the answer's are aligned to the gold's by their longest common
//! subsequence. An answered entity is right if its words all align to consecutive words that are
//! exactly a gold entity of the same class. One whose words don't align is spurious: text that the
//! model made up earns nothing. `entity_f1` pools the counts (seqeval's default, micro);
//! `entity_macro_f1` averages over the classes seen.

use std::collections::BTreeSet;

use super::{Answered, Metric, Needs, Tally, mean_f1_of_seen, pooled_f1};

pub(super) const ENTITY_F1: Metric = Metric {
    name: "entity_f1",
    about: "F1 of entities with the right class and exact boundaries, counts pooled (micro)",
    needs: Needs::Spans,
    mark,
    score: pooled_f1,
};

pub(super) const ENTITY_MACRO_F1: Metric = Metric {
    name: "entity_macro_f1",
    about: "F1 of entities with the right class and exact boundaries, averaged over classes",
    needs: Needs::Spans,
    mark,
    score: mean_f1_of_seen,
};

/// An entity: its class and the range of words that it covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entity {
    class: String,
    start: usize,
    end: usize,
}

/// A text without its mark-up.
#[derive(Debug, Default)]
struct Marked {
    words: Vec<String>,
    entities: Vec<Entity>,
}

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let gold = parse(item.gold);
    let answer = item.answer.map(parse).unwrap_or_default();
    let aligned = align(&answer.words, &gold.words);
    let wanted: BTreeSet<Entity> = gold.entities.into_iter().collect();
    let mut found = BTreeSet::new();
    let mut tallies = Vec::new();
    for entity in answer.entities {
        match in_gold(&entity, &aligned) {
            Some(entity) => {
                found.insert(entity);
            }
            None => tallies.push((entity.class, [0.0, 1.0, 0.0])),
        }
    }
    for entity in found.union(&wanted) {
        let (found, wanted) = (found.contains(entity), wanted.contains(entity));
        let tally = [found && wanted, found && !wanted, wanted && !found].map(f64::from);
        tallies.push((entity.class.clone(), tally));
    }
    tallies
}

/// The same entity in the gold text's word numbers, if its words align to consecutive ones.
fn in_gold(entity: &Entity, aligned: &[Option<usize>]) -> Option<Entity> {
    let first = aligned[entity.start]?;
    let consecutive = (entity.start..entity.end)
        .zip(first..)
        .all(|(index, expected)| aligned[index] == Some(expected));
    let end = first + (entity.end - entity.start);
    consecutive.then(|| Entity {
        class: entity.class.clone(),
        start: first,
        end,
    })
}

/// Reads mark-up leniently, as models write it: an unclosed element ends with the text, a stray
/// end tag and any other tag are text.
fn parse(text: &str) -> Marked {
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
fn align(answer: &[String], gold: &[String]) -> Vec<Option<usize>> {
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
    use super::super::Marks;
    use super::*;

    const GOLD: &str = r#"Denies <span class="problem">chest pain</span>; on <span class="treatment">aspirin</span>."#;

    fn counts(answer: &str) -> Tally {
        let marks = Marks::new(
            &ENTITY_F1,
            [Answered {
                options: &[],
                gold: GOLD,
                answer: Some(answer),
            }]
            .into_iter(),
        );
        let mut sum = [0.0; 3];
        for (_, tally) in &marks.items[0] {
            for (total, value) in sum.iter_mut().zip(tally) {
                *total += value;
            }
        }
        sum
    }

    #[test]
    fn the_gold_text_itself_is_all_right() {
        assert_eq!(counts(GOLD), [2.0, 0.0, 0.0]);
        assert_eq!(
            counts(&GOLD.replace('"', "'").replace("span", "SPAN")),
            [2.0, 0.0, 0.0]
        );
    }

    #[test]
    fn class_and_boundaries_must_be_exact() {
        // A wrong class, and a boundary that is one word short.
        let answer = r#"Denies <span class="test">chest pain</span>; on <span class="treatment">aspirin</span>."#;
        assert_eq!(counts(answer), [1.0, 1.0, 1.0]);
        let answer = r#"Denies chest <span class="problem">pain</span>; on <span class="treatment">aspirin</span>."#;
        assert_eq!(counts(answer), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn altered_text_around_an_entity_does_not_hurt_it() {
        let answer = r#"The patient denies <span class="problem">chest  pain</span> and takes <span class="treatment">aspirin</span>"#;
        assert_eq!(counts(answer), [2.0, 0.0, 0.0]);
    }

    #[test]
    fn made_up_text_is_spurious() {
        let answer = r#"<span class="problem">fever</span>"#;
        assert_eq!(counts(answer), [0.0, 1.0, 2.0]);
        // "chest" and "pain" align, but not to consecutive words once "wall" stands between them.
        let answer = r#"Denies <span class="problem">chest wall pain</span>"#;
        assert_eq!(counts(answer), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn broken_markup_is_read_leniently() {
        let answer = "Denies <span class=problem>chest pain</span></span>; on < <span class=treatment>aspirin.";
        // The unclosed element takes the full stop too, so its boundary is wrong.
        assert_eq!(counts(answer), [1.0, 1.0, 1.0]);
        assert_eq!(counts(""), [0.0, 0.0, 2.0]);
        assert_eq!(counts("<span class=\"problem\"></span><"), [0.0, 0.0, 2.0]);
    }

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
