//! Which examples an item is shown.

use std::collections::{BTreeMap, HashMap};

use datasets::random::Draws;

use super::Selection;
use super::bm25::Bm25;
use super::pool::Pool;
use crate::task::Item;

/// Chooses examples; made once a task.
pub(super) struct Chooser {
    draws: Draws,
    by: By,
}

enum By {
    Random,
    /// The examples of each right answer, in the order of the answers' texts.
    Answer(Vec<Vec<usize>>),
    Likeness(Bm25),
}

impl Chooser {
    pub(super) fn new(selection: Selection, seed: u64, pool: &Pool) -> Chooser {
        let by = match selection {
            Selection::Random => By::Random,
            Selection::Stratified => {
                let mut by_answer: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
                for (number, shot) in pool.shots.iter().enumerate() {
                    by_answer
                        .entry(shot.answer.trim())
                        .or_default()
                        .push(number);
                }
                By::Answer(by_answer.into_values().collect())
            }
            Selection::Bm25 => {
                By::Likeness(Bm25::new(pool.shots.iter().map(|shot| shot.text.as_str())))
            }
        };
        Chooser {
            draws: Draws::new(seed, "shots"),
            by,
        }
    }

    /// At most `count` examples for the item with this number, the farthest from the question
    /// first.
    pub(super) fn choose(
        &self,
        pool: &Pool,
        number: usize,
        item: &Item,
        count: usize,
    ) -> Vec<usize> {
        let seed = self.draws.of(&item.id);
        let may = |shot: &usize| pool.may_show(number, *shot);
        match &self.by {
            By::Random => Shuffled::new(pool.shots.len(), seed, "any")
                .filter(may)
                .take(count)
                .collect(),
            By::Answer(groups) => stratified(groups, seed, count, may),
            By::Likeness(index) => {
                let mut nearest = index.nearest(&item.prompt.text(), count, |shot| may(&shot));
                nearest.reverse();
                nearest
            }
        }
    }
}

/// One of each group in turn, in an order of the groups that is the item's own.
fn stratified(
    groups: &[Vec<usize>],
    seed: u64,
    count: usize,
    may: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    let mut streams: Vec<_> = Shuffled::new(groups.len(), seed, "groups")
        .map(|group| {
            let members = &groups[group];
            // Groups of one size must not be drawn alike.
            let purpose = format!("group {group}");
            Shuffled::new(members.len(), seed, &purpose).map(|at| members[at])
        })
        .collect();
    let mut chosen = Vec::new();
    let mut more = true;
    while more && chosen.len() < count {
        more = false;
        for stream in &mut streams {
            if let Some(shot) = stream.find(&may) {
                chosen.push(shot);
                more = true;
            }
            if chosen.len() == count {
                break;
            }
        }
    }
    // The order of the groups would tell what answer comes next.
    Shuffled::new(chosen.len(), seed, "order")
        .map(|at| chosen[at])
        .collect()
}

/// The numbers below `n` in a random order, drawn as they are asked for (Fisher and Yates).
struct Shuffled {
    draws: Draws,
    n: usize,
    next: usize,
    /// What stands at places that were swapped.
    moved: HashMap<usize, usize>,
}

impl Shuffled {
    fn new(n: usize, seed: u64, purpose: &str) -> Self {
        Shuffled {
            draws: Draws::new(seed, purpose),
            n,
            next: 0,
            moved: HashMap::new(),
        }
    }
}

impl Iterator for Shuffled {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next >= self.n {
            return None;
        }
        let at = self.next;
        let left = (self.n - at) as u128;
        let drawn = at + ((u128::from(self.draws.at(at as u64)) * left) >> 64) as usize;
        let here = self.moved.get(&at).copied().unwrap_or(at);
        self.next += 1;
        Some(self.moved.insert(drawn, here).unwrap_or(drawn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_has_every_number_once() {
        for n in [0, 1, 2, 7, 123] {
            for seed in 0..20 {
                let mut numbers: Vec<usize> = Shuffled::new(n, seed, "any").collect();
                numbers.sort_unstable();
                assert_eq!(numbers, (0..n).collect::<Vec<_>>(), "{n}, {seed}");
            }
        }
        let first: Vec<usize> = (0..7000)
            .map(|seed| Shuffled::new(7, seed, "any").next().unwrap())
            .collect();
        for number in 0..7 {
            let count = first.iter().filter(|&&drawn| drawn == number).count();
            assert!((850..1150).contains(&count), "{number} came {count} times");
        }
    }

    #[test]
    fn groups_take_turns() {
        let groups = [(0..50).collect(), vec![50, 51], vec![52]];
        let group_of = |shot: usize| groups.iter().position(|g: &Vec<usize>| g.contains(&shot));
        for seed in 0..30 {
            let counts = |chosen: &[usize]| {
                [0, 1, 2].map(|g| chosen.iter().filter(|&&s| group_of(s) == Some(g)).count())
            };
            assert_eq!(counts(&stratified(&groups, seed, 3, |_| true)), [1, 1, 1]);
            assert_eq!(counts(&stratified(&groups, seed, 7, |_| true)), [4, 2, 1]);
            let [many, two, copy] = counts(&stratified(&groups, seed, 3, |&s| s != 52));
            assert_eq!((many + two, many.abs_diff(two), copy), (3, 1, 0));
        }
        assert_eq!(stratified(&groups, 1, 99, |_| true).len(), 53);
        assert!(stratified(&[], 1, 3, |_| true).is_empty());
    }
}
