//! The training split that examples come from, and what each item must not see of it.

use std::collections::HashMap;
use std::path::Path;

use datasets::clean::{Contamination, Probe};
use datasets::{Message, Record, Role};
use ledger::AccessClass;

use super::FewShot;
use crate::task::{Item, ItemMaker, Task};
use crate::{Error, Result};

/// Words in a row that make a training record a near copy of an item: those of the rule by which
/// evaluation items are kept out of training data.
const COPY_WORDS: usize = 13;
/// A training split that has more than this share of the test's items, word for word, is no other
/// split. Independent collections share some short sentences (3 % of DDI-2013's validation pairs
/// are among its training pairs): these are only kept from the item that they repeat.
const SHARED_PERCENT: usize = 10;

/// One solved example.
#[derive(Debug)]
pub(super) struct Shot {
    messages: Vec<Message>,
    /// As the template writes it, which is what tuning teaches.
    pub answer: String,
    /// Everything asked, for comparing.
    pub text: String,
    pub access: AccessClass,
}

impl Shot {
    /// What the user asks.
    pub(super) fn question(&self) -> impl Iterator<Item = &Message> {
        let asked = |message: &&Message| message.role != Role::System;
        self.messages.iter().filter(asked)
    }
}

/// Every example that could be shown.
#[derive(Debug)]
pub(super) struct Pool {
    pub shots: Vec<Shot>,
    /// Records without an answer.
    pub unanswered: usize,
    /// Items that are among the examples, word for word, and there no more often than here.
    pub shared: usize,
    /// For each item, the numbers of the examples that are copies of it, sorted.
    copies: Vec<Vec<usize>>,
    /// What must be the same in an item and its examples: of the examples, and of the items; empty
    /// where nothing must.
    same: (Vec<String>, Vec<String>),
}

impl Pool {
    /// Reads the training split and holds it against the items, which are made of `asked`.
    pub(super) fn read(
        task: &Task,
        few_shot: &FewShot,
        items: &[Item],
        asked: &[Record],
        data_root: &Path,
    ) -> Result<Pool> {
        let source = &few_shot.source;
        let maker = ItemMaker::new(task, source.task.as_ref().unwrap_or(&task.templates))?;
        let records = task.records(source, data_root)?;
        let mut pool = Pool {
            shots: Vec::with_capacity(records.len()),
            unanswered: 0,
            shared: 0,
            copies: vec![Vec::new(); items.len()],
            same: (Vec::new(), Vec::new()),
        };
        let same = |record: &Record, values: &mut Vec<String>| -> Result<()> {
            if let Some(field) = &few_shot.same {
                let value = record.text(field).map_err(|error| task.data_error(error))?;
                values.push(value.to_owned());
            }
            Ok(())
        };
        for record in asked {
            same(record, &mut pool.same.1)?;
        }
        for record in &records {
            let (messages, answer) = maker.solved(record)?;
            if answer.trim().is_empty() {
                pool.unanswered += 1;
                continue;
            }
            same(record, &mut pool.same.0)?;
            pool.shots.push(Shot {
                text: task.prompt(messages.clone()).text(),
                messages,
                answer,
                access: record.provenance.access,
            });
        }
        pool.shared = pool.find_same(items);
        // One of a handful of items is no share to speak of.
        if pool.shared * 100 > items.len() * SHARED_PERCENT && pool.shared > 1 {
            return Err(Error::ShotsFromTest {
                task: task.name.clone(),
                source_name: source.name.clone(),
                shared: pool.shared,
                items: items.len(),
                records: records.len(),
            });
        }
        pool.find_copies(task, items);
        Ok(pool)
    }

    /// Whether an example may be shown to an item.
    pub(super) fn may_show(&self, item: usize, shot: usize) -> bool {
        let (of_shots, of_items) = &self.same;
        (of_shots.is_empty() || of_shots[shot] == of_items[item])
            && self.copies[item].binary_search(&shot).is_err()
    }

    /// How many examples an item could be shown but for its copies.
    pub(super) fn usual(&self, item: usize) -> usize {
        let (of_shots, of_items) = &self.same;
        match of_shots.is_empty() {
            true => self.shots.len(),
            false => of_shots.iter().filter(|v| **v == of_items[item]).count(),
        }
    }

    /// Items of which there are copies.
    pub(super) fn copied_items(&self) -> usize {
        self.copies
            .iter()
            .filter(|copies| !copies.is_empty())
            .count()
    }

    /// Notes the examples that ask just what an item asks; returns how many items the split has.
    ///
    /// What is more often among the examples than among the items is a phrase of the trade (normal
    /// chests are described in the same words by many reports), and tells nothing.
    fn find_same(&mut self, items: &[Item]) -> usize {
        let mut by_text: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, shot) in self.shots.iter().enumerate() {
            by_text.entry(key(&shot.text)).or_default().push(number);
        }
        let keys: Vec<String> = items.iter().map(|item| key(&item.prompt.text())).collect();
        let mut asked: HashMap<&str, usize> = HashMap::new();
        for key in &keys {
            *asked.entry(key).or_default() += 1;
        }
        let mut shared = 0;
        for (key, copies) in keys.iter().zip(&mut self.copies) {
            if let Some(same) = by_text.get(key) {
                copies.extend(same);
                shared += usize::from(same.len() <= asked[key.as_str()]);
            }
        }
        shared
    }

    fn find_copies(&mut self, task: &Task, items: &[Item]) {
        let probes: Vec<Probe> = items
            .iter()
            .map(|item| Probe {
                task: task.family.clone(),
                item_id: item.id.clone(),
                text: item.prompt.text(),
                options: Vec::new(),
            })
            .collect();
        let contamination = Contamination::new(&probes, COPY_WORDS);
        for (number, shot) in self.shots.iter().enumerate() {
            for hit in contamination.hits(&shot.text) {
                self.copies[hit.probe].push(number);
            }
        }
        for copies in &mut self.copies {
            copies.sort_unstable();
            copies.dedup();
        }
    }
}

/// The same for texts that differ in case, punctuation or space only.
fn key(text: &str) -> String {
    let words: Vec<String> = super::bm25::words(text).collect();
    ledger::hash::sha256_bytes(words.join(" ").as_bytes())
}
