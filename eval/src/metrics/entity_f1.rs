//! Strict entity F1 over texts marked up with `<span class="..">` elements.
//!
//! An answered entity is right if its words all align ([`markup`](super::markup)) to consecutive
//! words that are exactly a gold entity of the same class. One whose words don't align is spurious:
//! text that the model made up earns nothing. `entity_f1` pools the counts (seqeval's default, micro);
//! `entity_macro_f1` averages over the classes seen.

use std::collections::BTreeSet;

use super::markup::{Entity, align, parse};
use super::{Answered, Family, Metric, Needs, Tally, mean_f1_of_seen, pooled_f1};

pub(super) const ENTITY_F1: Metric = Metric {
    name: "entity_f1",
    about: "F1 of entities with the right class and exact boundaries, counts pooled (micro)",
    needs: Needs::Spans,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: pooled_f1,
};

pub(super) const ENTITY_MACRO_F1: Metric = Metric {
    name: "entity_macro_f1",
    about: "F1 of entities with the right class and exact boundaries, averaged over classes",
    needs: Needs::Spans,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean_f1_of_seen,
};

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

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;

    const GOLD: &str = r#"Denies <span class="problem">chest pain</span>; on <span class="treatment">aspirin</span>."#;

    fn counts(answer: &str) -> Tally {
        let marks = Marks::new(
            &ENTITY_F1,
            [Answered {
                gold: GOLD,
                answer: Some(answer),
                ..Answered::default()
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
}
