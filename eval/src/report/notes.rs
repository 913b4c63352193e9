//! What a report says of a task that its results don't.

use serde::{Deserialize, Serialize};

use crate::task::{Options, Task};

/// The tag of tasks that ask for what tuning must not undo.
pub const FORGETTING: &str = "forgetting";

/// What a report says of a task beside its scores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskNotes {
    /// The options that all items share, which are the task's and no record's; empty where each
    /// item has its own. Only these are written where a record's text may not be.
    pub labels: Vec<String>,
    /// How many solved examples stand before a question.
    pub shots: usize,
    /// What the task is part of, such as [`FORGETTING`].
    pub tags: Vec<String>,
    /// The score that chose the checkpoint that is asked, where it chose by this task's items.
    pub chose_checkpoint: Option<String>,
    /// Scores that others have published for the same items, beside those that the results know of
    /// (see [`PublishedSet::scores`](crate::PublishedSet::scores)).
    pub published: Vec<Published>,
    /// Ids of the items that the training data is known to contain, beside those that the results
    /// know of (see [`FlaggedItems::mark`](crate::FlaggedItems::mark)).
    pub flagged: Vec<String>,
}

/// A score that somebody else has published. It is theirs: nothing here has measured it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The model, as they name it.
    pub model: String,
    /// The metric, by its name here.
    pub metric: String,
    /// The score, between 0 and 1 where it is a share.
    pub value: f64,
    /// Where it is published.
    pub source: String,
}

impl Published {
    /// A score of the published set whose items a task asked, under the metric with this name.
    pub(super) fn beside(metric: &str, theirs: &crate::Published) -> Published {
        Published {
            model: theirs.model.clone(),
            metric: metric.to_owned(),
            value: theirs.value,
            source: format!(
                "{} ({}, measured by {})",
                theirs.source, theirs.setting, theirs.by
            ),
        }
    }
}

impl TaskNotes {
    /// What the task's file says.
    pub fn of(task: &Task) -> TaskNotes {
        let labels = match &task.options {
            Some(Options::Fixed(labels)) => labels.clone(),
            _ => Vec::new(),
        };
        TaskNotes {
            labels,
            shots: task.shots,
            ..TaskNotes::default()
        }
    }
}
