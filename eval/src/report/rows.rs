//! A report by task: each with every model's result beside it.

use super::file::{ModelReport, ReportFile, ScoreReport, TaskReport};
use super::notes::FORGETTING;

/// Where a task stands in a report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The task, as the first model that was asked has it.
    pub task: &'a TaskReport,
    /// Each model's result, in the models' order.
    pub results: &'a [ModelReport],
}

impl<'a> Row<'a> {
    /// Each model's result on the task.
    pub fn by_model(self) -> impl Iterator<Item = Option<&'a TaskReport>> {
        self.results
            .iter()
            .map(move |model| model.task(&self.task.task))
    }

    /// The metrics that any model has, corrected ones first.
    pub fn metrics(self) -> Vec<&'a ScoreReport> {
        let mut metrics: Vec<&ScoreReport> = Vec::new();
        for score in self.by_model().flatten().flat_map(|task| &task.scores) {
            if metrics.iter().all(|known| known.metric != score.metric) {
                metrics.push(score);
            }
        }
        metrics.sort_by_key(|score| score.is_paper_compatible());
        metrics
    }

    /// Of which models the task's items chose the checkpoint, and by which score: a line each, or one
    /// for all. A maximum over checkpoints is too high on the items that it was taken over.
    pub fn chose_checkpoint(self) -> Vec<String> {
        let asked = || {
            let models = self.results.iter();
            models.filter_map(|model| Some((model, model.task(&self.task.task)?)))
        };
        let line = |whose: &str, by: &str| {
            format!("chose {whose} checkpoint, by {by}: expect less on new items")
        };
        let by = self.task.chose_checkpoint.as_ref();
        if let Some(by) = by
            && asked().all(|(_, task)| task.chose_checkpoint.as_ref() == Some(by))
        {
            return vec![line("the", by)];
        }
        let choosing = asked().filter_map(|(model, task)| {
            let by = task.chose_checkpoint.as_ref()?;
            Some(line(&format!("{}'s", model.label), by))
        });
        choosing.collect()
    }

    /// Whether any model left items unanswered.
    pub fn refused(self) -> bool {
        self.by_model().flatten().any(|task| task.unanswered > 0)
    }

    /// Whether the task's answers were generated, by any model.
    pub fn generated(self) -> bool {
        self.by_model()
            .flatten()
            .any(|task| task.unextracted.is_some())
    }
}

impl ReportFile {
    /// Every task that any model was asked, first those that are no measure of forgetting.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut tasks: Vec<&TaskReport> = Vec::new();
        for task in self.models.iter().flat_map(|model| &model.tasks) {
            if tasks.iter().all(|known| known.task != task.task) {
                tasks.push(task);
            }
        }
        tasks.sort_by_key(|task| task.has_tag(FORGETTING));
        let results = &self.models;
        tasks
            .into_iter()
            .map(|task| Row { task, results })
            .collect()
    }

    /// Every set whose perplexity any model has.
    pub(super) fn perplexity_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for result in self.models.iter().flat_map(|model| &model.perplexity) {
            if !names.contains(&result.name.as_str()) {
                names.push(&result.name);
            }
        }
        names
    }
}
