//! i2b2-2012: the F1 that the paper calls macro and that is seqeval's micro average.
//!
//! Both texts are read as HTML. Outside top-level elements words are split at white space; inside,
//! by a tokenizer, and the element's first class makes them B-/I- tags if it is problem, treatment,
//! test or drug. The answer is then walked along the gold: equal tokens are paired, of two where one
//! begins with the other the shorter is paired and the rest kept, and where neither does both are
//! dropped. So whatever follows an inserted word may never be paired again, and counts for nothing:
//! neither as found nor as missed.
//!
//! The scorer's tokenizer is spaCy's `en_core_web_lg`; here punctuation is split from words. Because
//! the walk splits tokens itself, this matters only where the texts differ.

use std::collections::{BTreeMap, BTreeSet};

use super::super::token_f1::is_python_space;
use super::super::{Answered, Metric, Needs, Tally, pooled_f1};
use super::html::{Node, top_level};
use super::metric;

pub(in super::super) const F1: Metric = metric(
    "paper_ner_f1",
    "as released (i2b2): pooled entity F1 of the tokens that could be aligned",
    Needs::Spans,
    mark,
    pooled_f1,
);

const CLASSES: &[&str] = &["problem", "treatment", "test", "drug"];

/// A token with its tag.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    tag: Tag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Begin(&'static str),
    Inside(&'static str),
    Outside,
}

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let (answer, gold) = paired(tokens(item.written), tokens(item.gold));
    let (answer, gold) = (entities(&answer), entities(&gold));
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for entity in answer.union(&gold) {
        let (found, wanted) = (answer.contains(entity), gold.contains(entity));
        let tally = tallies.entry(entity.0).or_default();
        tally[0] += f64::from(found && wanted);
        tally[1] += f64::from(found && !wanted);
        tally[2] += f64::from(wanted && !found);
    }
    let named = |(class, tally): (&str, Tally)| (class.to_owned(), tally);
    tallies.into_iter().map(named).collect()
}

fn tokens(html: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for node in top_level(html) {
        match node {
            Node::Text(text) => {
                let words = text.split(is_python_space).filter(|word| !word.is_empty());
                tokens.extend(words.map(|word| Token {
                    text: word.to_owned(),
                    tag: Tag::Outside,
                }));
            }
            Node::Element { class, text } => {
                let class = CLASSES.iter().find(|known| class.as_deref() == Some(known));
                let words = words_and_signs(&text).into_iter().enumerate();
                tokens.extend(words.map(|(index, text)| Token {
                    text,
                    tag: match class {
                        Some(class) if index == 0 => Tag::Begin(class),
                        Some(class) => Tag::Inside(class),
                        None => Tag::Outside,
                    },
                }));
            }
        }
    }
    tokens
}

/// Runs of letters and digits, and every other sign by itself.
fn words_and_signs(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if in_word && c.is_alphanumeric() => word.push(c),
            _ if is_python_space(c) => {}
            _ => words.push(c.to_string()),
        }
        in_word = c.is_alphanumeric();
    }
    words
}

/// The tags of the tokens that pair, the answer's and the gold's.
fn paired(mut answer: Vec<Token>, mut gold: Vec<Token>) -> (Vec<Tag>, Vec<Tag>) {
    let mut tags = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(g)) = (answer.get_mut(i), gold.get_mut(j)) {
        let equal = a.text == g.text;
        let (longer_gold, longer_answer) =
            (g.text.starts_with(&a.text), a.text.starts_with(&g.text));
        if equal || longer_gold || longer_answer {
            tags.0.push(a.tag);
            tags.1.push(g.tag);
        }
        // The rest of a split token goes on with its entity.
        match (longer_gold, longer_answer) {
            (true, false) => *g = rest(g, a.text.len()),
            (false, true) => *a = rest(a, g.text.len()),
            _ => (),
        }
        i += usize::from(longer_gold || !longer_answer);
        j += usize::from(longer_answer || !longer_gold);
    }
    tags
}

fn rest(token: &Token, from: usize) -> Token {
    Token {
        text: token.text[from..].to_owned(),
        tag: match token.tag {
            Tag::Begin(class) => Tag::Inside(class),
            other => other,
        },
    }
}

/// Entities as seqeval reads them by default: one also begins at an inside tag that follows nothing
/// or another class.
fn entities(tags: &[Tag]) -> BTreeSet<(&'static str, usize, usize)> {
    let mut entities = BTreeSet::new();
    let mut open: Option<(&'static str, usize)> = None;
    for (at, tag) in tags.iter().chain([&Tag::Outside]).enumerate() {
        if let (Some((class, _)), Tag::Inside(same)) = (open, tag)
            && class == *same
        {
            continue;
        }
        entities.extend(open.map(|(class, start)| (class, start, at)));
        open = match tag {
            Tag::Begin(class) | Tag::Inside(class) => Some((class, at)),
            Tag::Outside => None,
        };
    }
    entities
}

#[cfg(test)]
mod tests {
    use super::super::super::Marks;
    use super::*;

    fn score(gold: &str, written: &str) -> f64 {
        let item = Answered {
            gold,
            written,
            ..Answered::default()
        };
        Marks::new(&F1, [item].into_iter()).score()
    }

    const GOLD: &str = r#"Denies <span class="problem">chest pain</span>, on <span class="treatment">aspirin</span>."#;

    #[test]
    fn what_follows_an_inserted_word_is_dropped_on_both_sides() {
        assert_eq!(score(GOLD, GOLD), 1.0);
        // "The" and "Denies" are dropped, then nothing pairs: no entity is found, and none missed.
        assert_eq!(score(GOLD, &format!("The {GOLD}")), 0.0);
        // After an inserted word at the end, the first entity still counts and the second is gone.
        let inserted = GOLD.replace("on <", "now on <");
        assert_eq!(score(GOLD, &inserted), 1.0);
    }

    #[test]
    fn tokens_are_split_to_fit_and_other_classes_ignored() {
        let whole = r#"Denies <span class="problem">chest pain,</span> on <span class="drugs">aspirin</span>."#;
        // The answer's entity has the comma too; "drugs" is no class.
        assert_eq!(score(GOLD, whole), 0.0);
        let nested = r#"Denies <span class="problem">chest <b>pain</b></span>, on aspirin."#;
        assert!((score(GOLD, nested) - 2.0 / 3.0).abs() < 1e-12);
    }
}
