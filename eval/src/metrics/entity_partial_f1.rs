//! Partial entity F1 over texts marked up with `<span class="..">` elements: half credit for an
//! entity of the right class that overlaps.
//!
//! The "partial" measure of SemEval-2013 task 9.1 (Segura-Bedmar et al. 2013) as nervaluate computes
//! it for each entity type: with COR entities of exact boundaries and PAR that only overlap,
//! precision = (COR + PAR/2) / answered, recall = (COR + PAR/2) / gold. Answered entities are taken
//! in the order of the text; each is matched with the gold entity that has its boundaries, else with
//! the first one not yet matched that it overlaps. An answered entity covers the words that its own
//! align to; if some don't, or not to consecutive ones, its boundaries are not exact.

use super::markup::{Entity, align, parse};
use super::{Answered, Family, Metric, Needs, Tally, mean_f1_of_seen, pooled_f1};

pub(super) const ENTITY_PARTIAL_F1: Metric = Metric {
    name: "entity_partial_f1",
    about: "entity F1 with half credit for the right class and overlapping boundaries (micro)",
    needs: Needs::Spans,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: pooled_f1,
};

pub(super) const ENTITY_PARTIAL_MACRO_F1: Metric = Metric {
    name: "entity_partial_macro_f1",
    about: "entity F1 with half credit for overlapping boundaries, averaged over classes",
    needs: Needs::Spans,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean_f1_of_seen,
};

/// An answered entity in the gold text's word numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Where its words are in the gold text; `None` where the text has none of them.
    range: Option<(usize, usize)>,
    /// Whether every word aligns, to consecutive ones.
    exact: bool,
    class: String,
}

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let gold = parse(item.gold);
    let answer = item.answer.map(parse).unwrap_or_default();
    let aligned = align(&answer.words, &gold.words);
    let mut candidates: Vec<Candidate> = answer
        .entities
        .into_iter()
        .map(|entity| candidate(entity, &aligned))
        .collect();
    candidates.sort();
    candidates.dedup();
    let mut wanted = gold.entities;
    wanted.sort_by(|a, b| (a.start, a.end, &a.class).cmp(&(b.start, b.end, &b.class)));
    wanted.dedup();

    let mut taken = vec![false; wanted.len()];
    let mut tallies = Vec::new();
    for candidate in candidates {
        let (credit, matched) = best(&candidate, &wanted, &taken);
        if let Some(index) = matched {
            taken[index] = true;
        }
        // Half a match leaves half an answered entity wrong, and half a gold one missed.
        let missed = if matched.is_some() { 1.0 - credit } else { 0.0 };
        tallies.push((candidate.class, [credit, 1.0 - credit, missed]));
    }
    let missed = wanted.into_iter().zip(taken).filter(|(_, taken)| !taken);
    tallies.extend(missed.map(|(entity, _)| (entity.class, [0.0, 0.0, 1.0])));
    tallies
}

fn candidate(entity: Entity, aligned: &[Option<usize>]) -> Candidate {
    let words = &aligned[entity.start..entity.end];
    let found = || words.iter().flatten();
    let range = found().min().zip(found().max());
    let range = range.map(|(first, last)| (*first, last + 1));
    Candidate {
        // Alignment is increasing, so nothing is missing and nothing lies between.
        exact: range.is_some_and(|(start, end)| {
            words.iter().all(Option::is_some) && end - start == words.len()
        }),
        range,
        class: entity.class,
    }
}

/// The credit of a candidate, and the gold entity that it is matched with.
fn best(candidate: &Candidate, wanted: &[Entity], taken: &[bool]) -> (f64, Option<usize>) {
    let Some((start, end)) = candidate.range else {
        return (0.0, None);
    };
    let free = |(index, entity): &(usize, &Entity)| {
        !taken[*index]
            && entity.class == candidate.class
            && entity.start < end
            && start < entity.end
    };
    let overlapping = || wanted.iter().enumerate().filter(free);
    let same = |(_, entity): &(usize, &Entity)| (entity.start, entity.end) == (start, end);
    match overlapping().find(same) {
        Some((index, _)) if candidate.exact => (1.0, Some(index)),
        Some((index, _)) => (0.5, Some(index)),
        None => match overlapping().next() {
            Some((index, _)) => (0.5, Some(index)),
            None => (0.0, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;

    const GOLD: &str = r#"Denies <span class="problem">severe chest pain</span>; on <span class="treatment">aspirin</span>."#;

    fn score(answer: &str) -> f64 {
        let item = Answered {
            gold: GOLD,
            answer: Some(answer),
            ..Answered::default()
        };
        Marks::new(&ENTITY_PARTIAL_F1, [item].into_iter()).score()
    }

    #[test]
    fn an_overlap_earns_half() {
        assert_eq!(score(GOLD), 1.0);
        let short = r#"Denies severe <span class="problem">chest pain</span>; on <span class="treatment">aspirin</span>."#;
        assert!((score(short) - 1.5 / 2.0).abs() < 1e-12);
        let class = r#"Denies severe <span class="test">chest pain</span>; on <span class="treatment">aspirin</span>."#;
        assert!((score(class) - 1.0 / 2.0).abs() < 1e-12);
    }

    #[test]
    fn one_gold_entity_is_matched_once() {
        let split = r#"Denies <span class="problem">severe</span> <span class="problem">chest pain</span>; on aspirin."#;
        // COR 0, PAR 1 of 2 answered and 2 gold.
        assert!((score(split) - 0.5 / 2.0).abs() < 1e-12);
    }

    #[test]
    fn altered_words_are_never_exact() {
        let inserted = r#"Denies <span class="problem">severe left chest pain</span>; on aspirin."#;
        // PAR 1 of 1 answered and 2 gold: P 1/2, R 1/4.
        assert!((score(inserted) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(score(r#"<span class="problem">fever</span>"#), 0.0);
        assert_eq!(score(""), 0.0);
    }
}
