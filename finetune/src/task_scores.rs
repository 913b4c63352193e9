//! Evaluation tasks asked of a model in training, as it is at a step: the way is that of `medtune eval`, so a score is
//! the same as that of the same weights afterwards.
//!
//! The weights that answer are those that are trained, in place. Nothing is drawn and no parameter changes: a training
//! that asks ends in the same bytes as one that does not.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use datasets::{Template, Tokenizer};
use eval::{Answering, Bootstrap, Item, LanguageModel, Name, Progress, Session, Settings, Task};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::generate::SEQUENCES_AT_ONCE;
use crate::language_model::{packed_together, prompt_ids};
use crate::load::Model;
use crate::plan::AnsweringShape;
use crate::recipe::{EVAL_LOSS, TrainSection};
use crate::{Error, Result};

/// Scores by `TASK.METRIC`.
pub type Scores = BTreeMap<String, f64>;

/// A task, with those of its items that are asked.
pub struct ValidationTask {
    /// What is asked.
    pub task: Task,
    /// Of which items, in their order.
    pub items: Vec<Item>,
}

/// What asks a model in training.
pub struct TaskScorer<'a> {
    /// The decoder that is being trained, as something that answers.
    pub model: Model,
    /// What it is asked.
    pub tasks: &'a [ValidationTask],
    /// How many items are given to it at a time, as an evaluation has it.
    pub batch_items: usize,
    /// Told how far it is.
    pub progress: &'a mut dyn FnMut(Progress<'_>),
}

impl TaskScorer<'_> {
    /// Asks all tasks; `None` where `stop` was set before the end.
    pub fn scores(&mut self, stop: &AtomicBool) -> Result<Option<Scores>> {
        // The items are chosen already, and one score needs no interval.
        let settings = Settings {
            items: None,
            batch_items: self.batch_items,
            bootstrap: Bootstrap {
                resamples: 0,
                seed: 0,
            },
        };
        let mut scores = Scores::new();
        for ValidationTask { task, items } in self.tasks {
            let mut session = Session {
                journals: None,
                identity: Value::Null,
                stop,
            };
            let model: &mut dyn LanguageModel = &mut self.model;
            let result =
                eval::resume_task(task, items, model, &settings, &mut session, self.progress);
            let result = match result {
                Err(eval::Error::Stopped { .. }) => return Ok(None),
                result => result.map_err(|error| Error::Tasks(Box::new(error)))?,
            };
            let named = result.scores.iter();
            scores.extend(named.map(|score| (score_name(&task.name, &score.metric), score.value)));
        }
        Ok(Some(scores))
    }
}

fn score_name(task: &str, metric: &eval::metrics::MetricName) -> String {
    format!("{task}.{}", metric.name)
}

/// The names of the scores that asking a task gives.
pub fn score_names(task: &Task) -> Vec<String> {
    let metrics = task.metrics.iter();
    metrics
        .map(|metric| score_name(&task.name, metric))
        .collect()
}

/// Reads scores, of which one that is no number is `null` in a file.
pub(crate) fn scores_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Scores, D::Error> {
    let scores = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    let filled = scores.into_iter();
    Ok(filled
        .map(|(name, score)| (name, score.unwrap_or(f64::NAN)))
        .collect())
}

/// What the best checkpoint is chosen by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BestBy {
    /// The name of a score; `None` for the held-out loss.
    score: Option<String>,
    higher_is_better: bool,
}

impl BestBy {
    /// As the settings say.
    pub fn of(settings: &TrainSection) -> Self {
        let name = &settings.metric_for_best_model;
        if name == EVAL_LOSS {
            return Self {
                score: None,
                higher_is_better: false,
            };
        }
        // A task's name may have dots of its own, a metric's has none.
        let metric = name.rsplit('.').next().unwrap_or_default();
        let metric = Name::<eval::metrics::Metric>::find(metric);
        Self {
            higher_is_better: metric.is_none_or(|metric| metric.higher_is_better),
            score: Some(name.clone()),
        }
    }

    /// Whether held-out samples are what it needs.
    pub fn is_loss(&self) -> bool {
        self.score.is_none()
    }

    /// What an evaluation measured of it.
    pub fn value(&self, eval_loss: Option<f64>, scores: &Scores) -> Option<f64> {
        match &self.score {
            Some(name) => scores.get(name).copied(),
            None => eval_loss,
        }
    }

    /// Whether a value is better than the best so far: not where they are equal, and never where it is NaN.
    pub fn is_better(&self, value: f64, best: Option<f64>) -> bool {
        match best {
            None => !value.is_nan(),
            Some(best) if self.higher_is_better => value > best,
            Some(best) => value < best,
        }
    }
}

/// The memory that asking these tasks takes follows from this: their largest passes.
///
/// # Errors
/// An item whose prompt and answer are more than the `context` tokens that the model can read: now, and not at the first
/// evaluation.
pub fn answering_shape(
    tasks: &[ValidationTask],
    batch_items: usize,
    tokenizer: &Tokenizer,
    template: &Template,
    context: usize,
) -> Result<AnsweringShape> {
    let mut shape = AnsweringShape::default();
    let hold = |item: &Item, tokens: usize| match tokens > context {
        true => Err(Error::TooLong {
            id: item.id.clone(),
            tokens,
            limit: context,
        }),
        false => Ok(()),
    };
    for ValidationTask { task, items } in tasks {
        for batch in items.chunks(batch_items.max(1)) {
            let prompts = batch
                .iter()
                .map(|item| prompt_ids(tokenizer, template, &item.prompt))
                .collect::<Result<Vec<_>>>()?;
            match &task.answering {
                Answering::LogLikelihood { before_option, .. } => {
                    let mut sizes = Vec::with_capacity(batch.len());
                    for (item, prompt) in batch.iter().zip(&prompts) {
                        let mut targets = 0;
                        for option in &item.options {
                            let option = format!("{before_option}{option}");
                            let last = prompt.last().copied();
                            let tokens = tokenizer.encode_after(last, &option)?.len();
                            hold(item, prompt.len() + tokens)?;
                            targets += tokens;
                        }
                        sizes.push((prompt.len() + targets, targets));
                    }
                    shape.score(&sizes);
                }
                Answering::Generate { max_new_tokens, .. } => {
                    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
                    for (item, length) in batch.iter().zip(&lengths) {
                        hold(item, length.saturating_add(*max_new_tokens))?;
                    }
                    shape.write(&lengths, *max_new_tokens);
                }
            }
        }
    }
    Ok(shape)
}

impl AnsweringShape {
    /// Requests of one batch that score options: the tokens of each, and those of its options.
    fn score(&mut self, sizes: &[(usize, usize)]) {
        for pack in packed_together(sizes, |(tokens, _)| *tokens) {
            let tokens = pack.iter().map(|(tokens, _)| tokens).sum();
            let targets = pack.iter().map(|(_, targets)| targets).sum();
            self.scored_tokens = self.scored_tokens.max(tokens);
            self.scored_targets = self.scored_targets.max(targets);
        }
    }

    /// Prompts of one batch that are continued, the longest of them at once.
    fn write(&mut self, prompts: &[usize], max_new_tokens: usize) {
        let mut longest = prompts.to_vec();
        longest.sort_unstable_by(|a, b| b.cmp(a));
        longest.truncate(SEQUENCES_AT_ONCE);
        self.add_written(&longest, max_new_tokens);
    }

    /// Sequences that are written side by side.
    fn add_written(&mut self, prompts: &[usize], max_new_tokens: usize) {
        self.read_tokens = self.read_tokens.max(prompts.iter().sum());
        // The last token is not read again. A list of keys doubles when it is full.
        let room = |more: usize| {
            let tokens = prompts.iter().map(|prompt| prompt.saturating_add(more));
            tokens.map(usize::next_power_of_two).sum::<usize>()
        };
        self.read_room_tokens = self.read_room_tokens.max(room(0));
        let more = max_new_tokens.saturating_sub(1);
        self.written_room_tokens = self.written_room_tokens.max(room(more));
        self.sequences = self.sequences.max(prompts.len());
    }

    /// Before there are items: as if every prompt were of so many tokens.
    pub fn estimate(&mut self, task: &Task, items: usize, prompt_tokens: usize) {
        match &task.answering {
            Answering::LogLikelihood { .. } => {
                let tokens = items.saturating_mul(prompt_tokens);
                let tokens = tokens.min(crate::language_model::TOKENS_AT_ONCE.max(prompt_tokens));
                self.scored_tokens = self.scored_tokens.max(tokens);
                self.scored_targets = self.scored_targets.max(tokens);
            }
            Answering::Generate { max_new_tokens, .. } => {
                let prompts = vec![prompt_tokens; items.min(SEQUENCES_AT_ONCE)];
                self.add_written(&prompts, *max_new_tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_two_values_follows_from_the_metric() {
        let by = |metric: &str| {
            BestBy::of(&TrainSection {
                metric_for_best_model: metric.into(),
                ..Default::default()
            })
        };
        let (loss, accuracy, error) = (
            by("eval_loss"),
            by("my.task@3.accuracy"),
            by("qa.word_perplexity"),
        );
        assert!(loss.is_loss() && !accuracy.is_loss());
        assert!(loss.is_better(1.0, Some(1.5)) && !loss.is_better(1.5, Some(1.0)));
        assert!(accuracy.is_better(0.6, Some(0.5)) && !accuracy.is_better(0.5, Some(0.6)));
        assert!(error.is_better(7.0, Some(9.0)) && !error.is_better(9.0, Some(7.0)));
        for by in [&loss, &accuracy, &error] {
            assert!(!by.is_better(0.5, Some(0.5)), "the earlier of equals");
            assert!(!by.is_better(f64::NAN, None) && !by.is_better(f64::NAN, Some(0.5)));
            assert!(by.is_better(0.5, None));
        }
        let scores = Scores::from([("my.task@3.accuracy".to_owned(), 0.25)]);
        assert_eq!(accuracy.value(Some(2.0), &scores), Some(0.25));
        assert_eq!(loss.value(Some(2.0), &scores), Some(2.0));
        assert_eq!(error.value(Some(2.0), &scores), None);
    }

    #[test]
    fn the_largest_passes_decide() {
        let mut shape = AnsweringShape::default();
        // 1,500 and 500 go together, 600 does not.
        shape.score(&[(1500, 7), (500, 5), (600, 30)]);
        assert_eq!((shape.scored_tokens, shape.scored_targets), (2000, 30));
        shape.write(&[123; 20], 33);
        assert_eq!((shape.read_tokens, shape.sequences), (16 * 123, 16));
        assert_eq!(
            (shape.read_room_tokens, shape.written_room_tokens),
            (16 * 128, 16 * 256)
        );
        shape.write(&[5], 2);
        assert_eq!(shape.sequences, 16);
    }
}
