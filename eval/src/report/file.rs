//! The schema of `report.json`.

use std::collections::BTreeMap;
use std::path::Path;

use ledger::AccessClass;
use serde::{Deserialize, Deserializer, Serialize};

use super::change::{self, TaskChange};
use super::judged::JudgeReport;
use super::notes::Published;
use crate::judge::Judged;
use crate::metrics::bert_score::BertScoreNote;
use crate::metrics::{Family, MetricName, Tally};
use crate::statistics::{Bootstrap, Interval};
use crate::{Error, Result, Unanswered};

/// A report as `report.json` holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportFile {
    /// The models; changes are counted from the first.
    pub models: Vec<ModelReport>,
    /// Every number under a dotted name.
    #[serde(deserialize_with = "named_nulls_are_nan")]
    pub metrics: BTreeMap<String, f64>,
    /// How the intervals were computed.
    pub intervals: Resampling,
}

/// How intervals and p-values were computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resampling {
    /// What the intervals cover.
    pub confidence: f64,
    /// How many resamples were drawn.
    pub resamples: usize,
    /// The generator's seed.
    pub seed: u64,
}

/// One model's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Which model it is in this report.
    pub label: String,
    /// Its tasks, in the order asked.
    pub tasks: Vec<TaskReport>,
    /// Its perplexities.
    pub perplexity: Vec<PerplexityReport>,
}

/// One model's result on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's name.
    pub task: String,
    /// The task's version.
    pub version: u32,
    /// The model's own name.
    pub model: String,
    /// How it answered.
    pub answering: String,
    /// How many solved examples stood before a question.
    #[serde(default)]
    pub shots: usize,
    /// What the task is part of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The strictest class among the items' sources.
    pub access: AccessClass,
    /// Answers that the filter could not extract; `None` where options were scored.
    pub unextracted: Option<usize>,
    /// Items that the model or its server would not answer; they count as not right.
    #[serde(default)]
    pub unanswered: usize,
    /// How its answers were judged, where it has a judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeReport>,
    /// The options that all items share, where they may be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The score that chose the checkpoint that was asked, where it chose by the items that this
    /// task asks: what they then say of it is too good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chose_checkpoint: Option<String>,
    /// What others have published for the same items: theirs, not measured here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// One score a metric, in the task's order.
    pub scores: Vec<ScoreReport>,
    /// The task's metrics that were not computed, for want of an encoder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_computed: Vec<String>,
    /// How BERTScore was computed, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bert_score: Option<BertScoreNote>,
    /// How it differs from the first model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<TaskChange>,
    /// Every item, in the order asked.
    pub items: Vec<ItemReport>,
}

/// One metric's score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreReport {
    /// The metric's name.
    pub metric: String,
    /// Whose definition it follows.
    pub family: Family,
    /// Its value over all items.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// The value's interval.
    pub interval: Option<Interval>,
    /// The change from the first model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ScoreChange>,
    /// The score without the items that the training data is known to contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unflagged: Option<Unflagged>,
    /// What the score is computed from, item by item.
    pub marks: MarksReport,
}

/// How a score changed from the first model to this one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreChange {
    /// This score minus the first model's.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// Its interval, paired by item, where both answered the same ones.
    pub interval: Option<Interval>,
    /// Two-sided p-value of the paired bootstrap.
    pub p: Option<f64>,
}

/// A score over the items that the training data is not known to contain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Unflagged {
    /// How many items that are.
    pub items: usize,
    /// The score over them.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// Its interval.
    pub interval: Option<Interval>,
}

/// What each item adds to each class of a metric; see [`Marks`](crate::metrics::Marks).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MarksReport {
    /// The classes' names; `None` for one that a record's text may have given, where that may not
    /// be written.
    pub classes: Vec<Option<String>>,
    /// For each item: class, and the three sums that it adds there.
    pub items: Vec<Vec<(usize, f64, f64, f64)>>,
}

/// One item's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemReport {
    /// The item's id.
    pub id: String,
    /// SHA-256 of the prompt.
    pub prompt_sha256: String,
    /// The task's first metric on this item alone.
    #[serde(deserialize_with = "null_is_nan")]
    pub score: f64,
    /// Whose terms its text is under.
    #[serde(default, skip_serializing_if = "is_open")]
    pub access: AccessClass,
    /// Whether the training data is known to contain it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flagged: bool,
    /// The number of the right option, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_option: Option<usize>,
    /// The number of the option that was picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picked_option: Option<usize>,
    /// Why there is no answer, where the model or its server gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<Unanswered>,
    /// Whether that is right; only where there are options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
    /// How likely each option was.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nulls_are_nan"
    )]
    pub log_probs: Vec<f64>,
    /// How many tokens each option has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<usize>,
    /// The right answer. It and the next two are the record's or the model's words, and only there
    /// where they may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// What the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What it was taken to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
    /// What a judge found of its candidates, best first, up to the first that is right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<Judged>,
}

/// A model's perplexity on a set of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerplexityReport {
    /// What the set is called.
    pub name: String,
    /// The model's own name.
    pub model: String,
    /// How many samples were read.
    pub samples: usize,
    /// How many tokens.
    pub tokens: u64,
    /// Their summed loss, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_sum: f64,
    /// e to the mean loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub perplexity: f64,
}

/// JSON has no digits for what is not finite.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nulls_are_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let values = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

fn named_nulls_are_nan<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?.into_iter();
    Ok(values
        .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
        .collect())
}

fn is_open(access: &AccessClass) -> bool {
    *access == AccessClass::Open
}

impl ReportFile {
    /// Reads `report.json`.
    ///
    /// # Errors
    /// [`Error::TaskFile`] when it can't be read, [`Error::ReportFile`] when it is no report.
    pub fn read(path: &Path) -> Result<ReportFile> {
        let text = std::fs::read(path).map_err(|source| ledger::Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let file: ReportFile = serde_json::from_slice(&text).map_err(|e| Error::ReportFile {
            path: path.to_owned(),
            problem: format!("{e}"),
        })?;
        file.check().map_err(|problem| Error::ReportFile {
            path: path.to_owned(),
            problem,
        })?;
        Ok(file)
    }

    /// What every rendering relies on.
    fn check(&self) -> Result<(), String> {
        for task in self.models.iter().flat_map(|model| &model.tasks) {
            for score in &task.scores {
                let marks = &score.marks;
                let place = || format!("task `{}`, metric `{}`", task.task, score.metric);
                if marks.items.len() != task.items.len() {
                    let (marks, items) = (marks.items.len(), task.items.len());
                    return Err(format!("{}: {marks} marks for {items} items", place()));
                }
                let classes = marks.items.iter().flatten().map(|mark| mark.0);
                if let Some(class) = classes.max().filter(|class| *class >= marks.classes.len()) {
                    return Err(format!("{}: there is no class {class}", place()));
                }
            }
        }
        Ok(())
    }

    /// The report without what may not be shown: the texts of items that are not open, and the
    /// names of classes that could be such a text.
    pub fn without_texts(mut self) -> ReportFile {
        for task in self.models.iter_mut().flat_map(|model| &mut model.tasks) {
            for item in task.items.iter_mut().filter(|item| !is_open(&item.access)) {
                (item.gold, item.answer, item.extracted) = (None, None, None);
                for judged in &mut item.judged {
                    judged.said = None;
                }
            }
            if is_open(&task.access) {
                continue;
            }
            let named = |class: &String| class.is_empty() || task.labels.contains(class);
            for score in &mut task.scores {
                for class in &mut score.marks.classes {
                    *class = class.take().filter(named);
                }
            }
        }
        self
    }

    /// The strictest class of what the report's texts, where it has any, are under.
    pub fn access(&self) -> AccessClass {
        let tasks = self.models.iter().flat_map(|model| &model.tasks);
        AccessClass::strictest(tasks.map(|task| task.access))
    }

    /// Computes what follows from the models' results: changes and flat numbers.
    pub(super) fn complete(&mut self) {
        change::add_changes(self);
        self.metrics = self.numbers();
    }

    pub(super) fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.intervals.resamples,
            seed: self.intervals.seed,
        }
    }

    fn numbers(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        for model in &self.models {
            for (name, value) in model.numbers() {
                metrics.insert(format!("{}.{name}", model.label), value);
            }
        }
        if let [first, .., last] = self.models.as_slice() {
            let mut before = first.numbers();
            last.remove_incomparable(&mut before);
            for (name, after) in last.numbers() {
                // Two infinite perplexities have no difference.
                let change = before.get(&name).map(|before| after - before);
                if let Some(change) = change.filter(|change| !change.is_nan()) {
                    metrics.insert(format!("change.{name}"), change);
                }
            }
        }
        metrics
    }
}

impl ModelReport {
    /// The result on a task.
    pub fn task(&self, name: &str) -> Option<&TaskReport> {
        self.tasks.iter().find(|task| task.task == name)
    }

    /// The perplexity on a set.
    pub fn perplexity_of(&self, name: &str) -> Option<&PerplexityReport> {
        self.perplexity.iter().find(|result| result.name == name)
    }

    /// Takes away the first model's numbers from which this one's scores have no change, such as
    /// those of another encoder.
    fn remove_incomparable(&self, numbers: &mut BTreeMap<String, f64>) {
        for task in &self.tasks {
            for score in task.scores.iter().filter(|score| score.change.is_none()) {
                let name = format!("{}.{}", task.task, score.metric);
                numbers.remove(&format!("{name}_unflagged"));
                numbers.remove(&name);
            }
        }
    }

    fn numbers(&self) -> BTreeMap<String, f64> {
        let mut numbers = BTreeMap::new();
        for task in &self.tasks {
            let mut add =
                |name: &str, value| numbers.insert(format!("{}.{name}", task.task), value);
            for score in &task.scores {
                add(&score.metric, score.value);
                if let Some(unflagged) = score.unflagged {
                    add(&format!("{}_unflagged", score.metric), unflagged.value);
                }
            }
            add("items", task.items.len() as f64);
            if let Some(share) = task.unextracted_share() {
                add("unextracted", share);
                add("unanswered", task.unanswered_share());
            }
            if let Some(share) = task.judge_failed_share() {
                add("judge_failed", share);
            }
        }
        for result in &self.perplexity {
            numbers.insert(format!("{}.perplexity", result.name), result.perplexity);
        }
        numbers
    }
}

impl TaskReport {
    /// The score under a metric.
    pub fn score(&self, metric: &str) -> Option<&ScoreReport> {
        self.scores.iter().find(|score| score.metric == metric)
    }

    /// Share of the answers that the filter could not extract.
    pub fn unextracted_share(&self) -> Option<f64> {
        self.unextracted
            .map(|count| count as f64 / self.items.len() as f64)
    }

    /// Share of the items that the model or its server would not answer.
    pub fn unanswered_share(&self) -> f64 {
        self.unanswered as f64 / self.items.len() as f64
    }

    /// Whether the task is part of something.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl ScoreReport {
    /// Whether the metric is one that copies a published scorer, defects and all.
    pub fn is_paper_compatible(&self) -> bool {
        self.family == Family::PaperCompatible
    }

    /// How the marks of some items, which may repeat, make a score; `None` for a metric that this
    /// version doesn't have.
    pub(super) fn score_fn(&self) -> Option<impl Fn(&[usize]) -> f64 + '_> {
        let metric = MetricName::find(&self.metric)?;
        Some(move |items: &[usize]| (metric.score)(&self.marks.totals(items.iter().copied())))
    }
}

impl MarksReport {
    /// The sums of some items, by class.
    pub fn totals(&self, items: impl Iterator<Item = usize>) -> Vec<Tally> {
        let mut totals = vec![[0.0; 3]; self.classes.len()];
        for item in items {
            for (class, a, b, c) in &self.items[item] {
                for (total, value) in totals[*class].iter_mut().zip([a, b, c]) {
                    *total += value;
                }
            }
        }
        totals
    }
}
