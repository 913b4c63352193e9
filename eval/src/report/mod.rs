//! Models side by side: for people as a table, as Markdown and as a page, for programs as JSON with
//! every item and as flat numbers.
//!
//! A [`Report`] gathers results while models are asked. What it comes to is a [`ReportFile`], the
//! schema of `report.json`; every rendering is made from that, so that a report read back from disk,
//! or put together from several runs, shows exactly what the first one did.

mod bert_score;
mod change;
mod file;
pub mod html;
mod json;
mod judged;
mod markdown;
mod notes;
mod results;
mod rows;
mod runs;
mod settings;
mod table;

use std::collections::BTreeMap;

use ledger::AccessClass;
use serde_json::Value;

use crate::judge::Judge;
use crate::run::{PerplexityResult, Progress, TaskResult};
use crate::statistics::Bootstrap;
use crate::{Result, Session, Task};

pub use change::TaskChange;
pub use file::{
    ItemReport, MarksReport, ModelReport, PerplexityReport, ReportFile, Resampling, ScoreChange,
    ScoreReport, TaskReport, Unflagged,
};
pub use judged::{JudgeFailure, JudgeReport};
pub use markdown::markdown_text;
pub use notes::{FORGETTING, Published, TaskNotes};
pub use runs::{RunReport, compare_runs};

/// Results of one or more models on the same tasks, as they come in.
#[derive(Debug, Clone)]
pub struct Report {
    bootstrap: Bootstrap,
    models: Vec<ModelResults>,
    notes: BTreeMap<String, TaskNotes>,
}

/// Results of one model.
#[derive(Debug, Clone)]
struct ModelResults {
    label: String,
    tasks: Vec<TaskResult>,
    perplexities: Vec<PerplexityResult>,
}

impl Report {
    /// An empty report, which computes its paired intervals with these settings.
    pub fn new(bootstrap: Bootstrap) -> Self {
        Report {
            bootstrap,
            models: Vec::new(),
            notes: BTreeMap::new(),
        }
    }

    /// Adds a model's result on a task. `label` says which model it is in this report (`base`,
    /// `tuned`); labels stand in the order in which they are first given, and changes are counted
    /// from the first.
    pub fn add_task(&mut self, label: &str, result: TaskResult) {
        self.model(label).tasks.push(result);
    }

    /// Adds a model's perplexity.
    pub fn add_perplexity(&mut self, label: &str, result: PerplexityResult) {
        self.model(label).perplexities.push(result);
    }

    /// Says what a report tells of the task with this name beside its scores.
    pub fn describe(&mut self, task: &str, notes: TaskNotes) {
        self.notes.insert(task.to_owned(), notes);
    }

    /// Lets a judge judge what all models have answered to a task so far, and adds its scores.
    ///
    /// # Errors
    /// As [`resume_task`](crate::resume_task)'s, of the judge; a record without a field that the
    /// question reads.
    pub fn judge(
        &mut self,
        task: &Task,
        judge: &mut Judge<'_>,
        session: &mut Session<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let results = self.models.iter_mut().flat_map(|model| &mut model.tasks);
        let mut of_task: Vec<&mut TaskResult> =
            results.filter(|result| result.task == task.name).collect();
        let bootstrap = self.bootstrap;
        crate::judge::judge(task, &mut of_task, judge, &bootstrap, session, progress)
    }

    fn model(&mut self, label: &str) -> &mut ModelResults {
        let index = self
            .models
            .iter()
            .position(|model| model.label == label)
            .unwrap_or_else(|| {
                let (label, tasks, perplexities) = (label.to_owned(), Vec::new(), Vec::new());
                self.models.push(ModelResults {
                    label,
                    tasks,
                    perplexities,
                });
                self.models.len() - 1
            });
        &mut self.models[index]
    }

    /// The strictest class of the material that was asked.
    pub fn access(&self) -> AccessClass {
        let tasks = self.models.iter().flat_map(|model| &model.tasks);
        AccessClass::strictest(tasks.map(|task| task.access))
    }

    /// Every number under a dotted name, for a recipe's `[expect]`: `tuned.pubmedqa.accuracy`,
    /// `tuned.pubmedqa.items`, `tuned.pubmedqa.unextracted` and `.unanswered` (shares, where text was generated),
    /// `.judge_failed` (a share, where a judge was asked),
    /// `tuned.validation.perplexity`, and `change.` with the same names for the last model against
    /// the first.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.file(false).metrics
    }

    /// The report as a file holds it. Texts of items (what the model wrote, what it was taken to
    /// say, the gold answer) whose source is not open are left out unless `reveal`; ids, prompt
    /// hashes, option numbers, marks and scores always stand.
    pub fn file(&self, reveal: bool) -> ReportFile {
        ReportFile::of(self, reveal)
    }

    /// [`Report::file`] as JSON.
    pub fn json(&self, reveal: bool) -> Value {
        self.file(reveal).value()
    }

    /// The table for a terminal; see [`ReportFile::table`].
    pub fn table(&self) -> String {
        self.file(false).table()
    }
}
