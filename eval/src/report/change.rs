//! One model against another on the same items.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{ItemReport, ReportFile, ScoreChange, TaskReport};
use crate::statistics::{Bootstrap, McNemar, holm};

/// How a model's answers to a task differ from the first model's to the same items. Whether an item
/// came out better is judged by the task's first metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskChange {
    /// Whether the two were asked in other words (other shots, another chat template).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompts_differ: bool,
    /// McNemar's test, where the first metric says of each item only whether it is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
    /// The p-value of the first metric's change: McNemar's, else the paired bootstrap's.
    pub p: Option<f64>,
    /// The same after Holm's adjustment for all tasks of this model.
    pub p_holm: Option<f64>,
    /// Ids of the items that came out better than with the first model.
    pub better: Vec<String>,
    /// Ids of the items that came out worse.
    pub worse: Vec<String>,
}

impl TaskChange {
    /// Whether the change is more than chance, at 5 % over all tasks.
    pub fn is_significant(&self) -> bool {
        self.p_holm.is_some_and(|p| p < 0.05)
    }
}

/// Computes every model's changes from the first.
pub(super) fn add_changes(file: &mut ReportFile) {
    let bootstrap = file.bootstrap();
    // A run's report comes with its own changes, from its own base.
    for task in file.models.iter_mut().flat_map(|model| &mut model.tasks) {
        task.change = None;
        for score in &mut task.scores {
            score.change = None;
        }
    }
    let Some((first, others)) = file.models.split_first_mut() else {
        return;
    };
    for model in others {
        for task in &mut model.tasks {
            let before = first.tasks.iter().find(|before| before.task == task.task);
            // Another version of a task asks or marks otherwise.
            if let Some(before) = before.filter(|before| before.version == task.version) {
                add_change(before, task, &bootstrap);
            }
        }
        adjust(&mut model.tasks);
    }
}

/// Holm's adjustment over a model's tasks.
fn adjust(tasks: &mut [TaskReport]) {
    let changes = tasks.iter_mut().filter_map(|task| task.change.as_mut());
    let (mut changes, p_values): (Vec<_>, Vec<_>) =
        changes.filter_map(|c| c.p.map(|p| (c, p))).unzip();
    for (change, p) in changes.iter_mut().zip(holm(&p_values)) {
        change.p_holm = Some(p);
    }
}

fn add_change(before: &TaskReport, after: &mut TaskReport, bootstrap: &Bootstrap) {
    let order = same_items(&before.items, &after.items);
    let otherwise: Vec<bool> = after
        .scores
        .iter()
        .map(|score| before.is_measured_otherwise(after, &score.metric))
        .collect();
    let first_otherwise = otherwise.first() == Some(&true);
    for (score, otherwise) in after.scores.iter_mut().zip(otherwise) {
        let earlier = before.score(&score.metric).filter(|_| !otherwise);
        let Some(earlier) = earlier else {
            continue;
        };
        let paired = order.as_ref().and_then(|order| {
            let (old, new) = (earlier.score_fn()?, score.score_fn()?);
            let moved =
                |items: &[usize]| -> Vec<usize> { items.iter().map(|i| order[*i]).collect() };
            bootstrap.change_of(order.len(), old, |items| new(&moved(items)))
        });
        score.change = Some(ScoreChange {
            value: score.value - earlier.value,
            interval: paired.map(|paired| paired.interval),
            p: paired.map(|paired| paired.p),
        });
    }
    // Items came out better or worse by the first metric, if that is the same one.
    let order = order.filter(|_| !first_otherwise);
    after.change = order.map(|order| {
        let pairs: Vec<(&ItemReport, &ItemReport)> = before
            .items
            .iter()
            .zip(order.iter().map(|index| &after.items[*index]))
            .collect();
        let p = after.scores.first().and_then(|score| score.change?.p);
        task_change(&pairs, p)
    });
}

impl TaskReport {
    /// Whether two scores under this metric don't compare, because something else than the model's
    /// answers is behind them: another judge or question, another encoder or its settings.
    fn is_measured_otherwise(&self, other: &TaskReport, metric: &str) -> bool {
        self.is_judged_otherwise(other, metric) || self.is_embedded_otherwise(other, metric)
    }
}

fn task_change(pairs: &[(&ItemReport, &ItemReport)], p: Option<f64>) -> TaskChange {
    let ids = |differs: fn(f64, f64) -> bool| -> Vec<String> {
        let differing = pairs.iter().filter(|(b, a)| differs(b.score, a.score));
        differing.map(|(before, _)| before.id.clone()).collect()
    };
    let (better, worse) = (ids(|b, a| a > b), ids(|b, a| a < b));
    let binary = |score: f64| score == 0.0 || score == 1.0;
    let mcnemar = pairs
        .iter()
        .all(|(before, after)| binary(before.score) && binary(after.score))
        .then(|| McNemar::new(worse.len(), better.len()));
    TaskChange {
        prompts_differ: pairs
            .iter()
            .any(|(b, a)| b.prompt_sha256 != a.prompt_sha256),
        p: mcnemar.map(|test| test.p).or(p),
        p_holm: None,
        mcnemar,
        better,
        worse,
    }
}

/// For each item before, its place after; `None` unless both have the same items, each once.
fn same_items(before: &[ItemReport], after: &[ItemReport]) -> Option<Vec<usize>> {
    let places: BTreeMap<&str, usize> = after
        .iter()
        .enumerate()
        .map(|(index, item)| (item.id.as_str(), index))
        .collect();
    if before.len() != after.len() || places.len() != after.len() {
        return None;
    }
    let mut order = Vec::with_capacity(before.len());
    for item in before {
        order.push(*places.get(item.id.as_str())?);
    }
    let mut seen = order.clone();
    seen.sort_unstable();
    seen.dedup();
    (seen.len() == order.len() && !order.is_empty()).then_some(order)
}
