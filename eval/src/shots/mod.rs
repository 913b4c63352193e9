//! Few-shot: solved examples that stand before a question.
//!
//! They come from a training split that the task names, never from what is asked: a training split
//! that holds the test's own items is refused, and an item is never shown its own near copy. Which
//! examples an item is shown depends on the seed and the item's id alone, not on the other items,
//! their order or the model.

mod bm25;
mod choose;
mod layout;
mod pool;

use std::path::Path;

use datasets::recipe::SourceSection;
use ledger::AccessClass;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::{Item, ItemMaker, Task};
use crate::{Error, Prompt, Result, TaskProblem};

use choose::Chooser;
use pool::Pool;

/// Where solved examples come from, and how they are chosen and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FewShot {
    /// How many are shown where the recipe doesn't say.
    #[serde(default)]
    pub count: usize,
    /// How those of an item are chosen.
    #[serde(default)]
    pub selection: Selection,
    /// A field that must be the same in the item and its examples, such as MMLU's `subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same: Option<String>,
    /// How they are written: by default `multi-turn` under a chat template, `inline` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// The training split that they come from, asked as the task's own records are
    /// where it has no [few_shot.source.task].
    pub source: SourceSection,
}

/// How the examples of an item are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Drawn by the seed and the item's id.
    #[default]
    Random,
    /// Drawn so that each right answer comes up as often as any other.
    Stratified,
    /// Those whose questions are most like the item's (BM25), the most alike last.
    Bm25,
}

/// How examples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// As turns of the conversation: a question by the user, its answer by the model.
    MultiTurn,
    /// As text before the question, in the same message.
    Inline,
}

impl FewShot {
    pub(crate) fn layout(&self, chat_template: bool) -> Layout {
        self.layout.unwrap_or(match chat_template {
            true => Layout::MultiTurn,
            false => Layout::Inline,
        })
    }

    /// Refuses what contradicts the task.
    pub(crate) fn check(&self, task: &Task) -> Result<(), TaskProblem> {
        if self.selection == Selection::Stratified && task.options.is_none() {
            return Err(TaskProblem::StratifiedFreeText);
        }
        if self.layout(task.chat_template) == Layout::MultiTurn && !task.chat_template {
            return Err(TaskProblem::TurnsWithoutTemplate);
        }
        Ok(())
    }
}

/// A task's items as they are asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// In the order of the source's files.
    pub items: Vec<Item>,
    /// What became of their examples; `None` for a task that has none.
    pub shots: Option<ShotReport>,
}

/// What became of a task's examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShotReport {
    /// The task.
    pub task: String,
    /// How many each item was to be shown.
    pub shots: usize,
    /// Records of the training split that could be shown.
    pub candidates: usize,
    /// Records of the training split without an answer.
    pub unanswered: usize,
    /// Items that the training split has too, word for word, and no more often than the test.
    pub shared_items: usize,
    /// Items of which the training split has near copies, which they are not shown; those that it
    /// has word for word among them.
    pub copied_items: usize,
    /// Items that are shown fewer examples because too few of the others are no copies of them.
    pub lacking_items: usize,
    /// Items that are shown fewer examples because all would be too long.
    pub shortened_items: usize,
    /// How many examples were left out of prompts that would be too long.
    pub dropped: usize,
}

impl ShotReport {
    /// For people, where there is something to say.
    pub fn line(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.dropped > 0 {
            parts.push(format!(
                "{} shots left out, as the prompts of {} items would be too long",
                self.dropped, self.shortened_items
            ));
        }
        if self.copied_items > 0 {
            parts.push(format!(
                "{} items have near copies in the training split, which they are not shown",
                self.copied_items
            ));
        }
        if self.lacking_items > 0 {
            parts.push(format!(
                "{} of them are shown fewer shots",
                self.lacking_items
            ));
        }
        (!parts.is_empty()).then(|| format!("{}: {}", self.task, parts.join("; ")))
    }
}

impl Task {
    /// The items with their examples before them. `fits` says whether a prompt leaves room for its
    /// answer; where it doesn't, the examples farthest from the question are left out until it
    /// does. The question itself is never cut.
    ///
    /// # Errors
    /// As [`Task::items`], for either split; [`Error::ShotsFromTest`] for a training split that
    /// holds the test's items; [`Error::TooFewShots`] where it has not enough records.
    pub fn asked(
        &self,
        data_root: &Path,
        seed: u64,
        fits: &mut dyn FnMut(&Prompt) -> bool,
    ) -> Result<Asked> {
        let Some(few_shot) = self.few_shot.as_ref().filter(|_| self.shots > 0) else {
            let items = self.items(data_root)?;
            return Ok(Asked { items, shots: None });
        };
        let records = self.own_records(data_root)?;
        let maker = ItemMaker::new(self, &self.templates)?;
        let mut items = self.own_items(&maker, &records)?;
        let pool = Pool::read(self, few_shot, &items, &records, data_root)?;
        let chooser = Chooser::new(few_shot.selection, seed, &pool);
        let layout = few_shot.layout(self.chat_template);
        let mut report = ShotReport {
            task: self.name.clone(),
            shots: self.shots,
            candidates: pool.shots.len(),
            unanswered: pool.unanswered,
            shared_items: pool.shared,
            copied_items: pool.copied_items(),
            lacking_items: 0,
            shortened_items: 0,
            dropped: 0,
        };
        for (index, (item, record)) in items.iter_mut().zip(&records).enumerate() {
            let chosen = chooser.choose(&pool, index, item, self.shots);
            if chosen.len() < self.shots && pool.usual(index) < self.shots {
                return Err(Error::TooFewShots {
                    task: self.name.clone(),
                    item: item.id.clone(),
                    source_name: few_shot.source.name.clone(),
                    shots: self.shots,
                    found: pool.usual(index),
                });
            }
            report.lacking_items += usize::from(chosen.len() < self.shots);
            let (question, _) = maker.solved(record)?;
            let prompt = |left_out: usize| {
                let shots = chosen[left_out..].iter().map(|&shot| &pool.shots[shot]);
                layout.prompt(self, shots, &question)
            };
            let left_out = fewest(chosen.len(), |left_out| fits(&prompt(left_out)));
            item.prompt = prompt(left_out);
            let shown = &chosen[left_out..];
            report.dropped += chosen.len() - shown.len();
            report.shortened_items += usize::from(shown.len() < chosen.len());
            let of_shots = shown.iter().map(|&shot| pool.shots[shot].access);
            item.access = item.access.max(AccessClass::strictest(of_shots));
        }
        Ok(Asked {
            items,
            shots: Some(report),
        })
    }
}

/// The fewest of `all` that must be left out, the farthest first, for the rest to fit. Fewer examples
/// are a shorter prompt, so that halving finds it; with none the question stands alone, and is asked
/// whether it fits or not.
fn fewest(all: usize, mut fits: impl FnMut(usize) -> bool) -> usize {
    if all == 0 || fits(0) {
        return 0;
    }
    let (mut too_few, mut enough) = (0, all);
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if fits(middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    enough
}

#[cfg(test)]
mod tests {
    use super::fewest;

    #[test]
    fn halving_finds_what_trying_all_would() {
        for all in 0..20 {
            for needed in 0..=all {
                assert_eq!(fewest(all, |left_out| left_out >= needed), needed);
            }
            assert_eq!(fewest(all, |_| false), all);
        }
    }
}
