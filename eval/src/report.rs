//! Models side by side: as a table for people, as JSON with every item, and as flat numbers.

use std::collections::BTreeMap;

use ledger::AccessClass;
use serde_json::{Value, json};

use crate::run::{ItemResult, PerplexityResult, Score, TaskResult};
use crate::statistics::{Bootstrap, CONFIDENCE, Interval};

mod table;

/// Results of one or more models on the same tasks.
#[derive(Debug, Clone)]
pub struct Report {
    bootstrap: Bootstrap,
    models: Vec<ModelResults>,
}

/// Results of one model.
#[derive(Debug, Clone)]
struct ModelResults {
    label: String,
    tasks: Vec<TaskResult>,
    perplexities: Vec<PerplexityResult>,
}

/// How a score differs between two models.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    value: f64,
    /// The paired 95 % interval, where both answered the same items.
    interval: Option<Interval>,
}

impl Report {
    /// An empty report, which computes its paired intervals with these settings.
    pub fn new(bootstrap: Bootstrap) -> Self {
        Report {
            bootstrap,
            models: Vec::new(),
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
    /// `tuned.pubmedqa.items`, `tuned.pubmedqa.unextracted` (a share, where text was generated),
    /// `tuned.validation.perplexity`, and `change.` with the same names for the last model against
    /// the first.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        for model in &self.models {
            for (name, value) in model.numbers() {
                metrics.insert(format!("{}.{name}", model.label), value);
            }
        }
        if let [first, .., last] = self.models.as_slice() {
            let before = first.numbers();
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

    /// How a task's score changed from the first model to this one.
    fn change(&self, task: &TaskResult, score: &Score) -> Option<Change> {
        let (before_task, before) = self.models.first()?.score(&task.task, score.metric.name)?;
        let same_items = before_task
            .items
            .iter()
            .map(|item| (&item.id, &item.prompt_sha256));
        let same = same_items.eq(task
            .items
            .iter()
            .map(|item| (&item.id, &item.prompt_sha256)));
        let interval = match same {
            true => self.bootstrap.paired_interval(&before.marks, &score.marks),
            false => None,
        };
        Some(Change {
            value: score.value - before.value,
            interval,
        })
    }

    /// Everything as JSON. Texts of items (what the model wrote, what it was taken to say, the gold
    /// answer) whose source is not open are left out unless `reveal`; ids, prompt hashes, option
    /// numbers and scores always stand.
    pub fn json(&self, reveal: bool) -> Value {
        let models: Vec<Value> = self
            .models
            .iter()
            .enumerate()
            .map(|(index, model)| {
                let tasks: Vec<Value> = model
                    .tasks
                    .iter()
                    .map(|task| self.task_json(task, index > 0, reveal))
                    .collect();
                let perplexities: Vec<Value> =
                    model.perplexities.iter().map(perplexity_json).collect();
                json!({ "label": model.label, "tasks": tasks, "perplexity": perplexities })
            })
            .collect();
        json!({
            "models": models,
            "metrics": self.metrics(),
            "intervals": {
                "confidence": CONFIDENCE,
                "resamples": self.bootstrap.resamples,
                "seed": self.bootstrap.seed,
            },
        })
    }

    fn task_json(&self, task: &TaskResult, with_change: bool, reveal: bool) -> Value {
        let scores: Vec<Value> = task
            .scores
            .iter()
            .map(|score| {
                let mut written = json!({
                    "metric": score.metric.name,
                    "family": score.metric.family.name(),
                    "value": score.value,
                    "interval": interval_json(score.interval),
                });
                let published = task.published.as_ref();
                let published =
                    published.map(|set| set.scores(score.metric.name, task.items.len()));
                if let Some(theirs) = published.filter(|theirs| !theirs.is_empty()) {
                    // Others' numbers, each with whose it is.
                    written["published"] = json!(theirs);
                }
                if let Some(change) = self.change(task, score).filter(|_| with_change) {
                    written["change"] = json!({
                        "value": change.value,
                        "interval": interval_json(change.interval),
                    });
                }
                written
            })
            .collect();
        let items: Vec<Value> = task
            .items
            .iter()
            .map(|item| item_json(item, reveal))
            .collect();
        json!({
            "task": task.task,
            "version": task.version,
            "model": task.model,
            "answering": task.answering,
            "access": task.access,
            "unextracted": task.unextracted,
            "unanswered": task.unanswered,
            "scores": scores,
            "clean": task.clean.as_ref().map(crate::CleanScores::json),
            "items": items,
        })
    }
}

impl ModelResults {
    fn score(&self, task: &str, metric: &str) -> Option<(&TaskResult, &Score)> {
        let result = self.tasks.iter().find(|result| result.task == task)?;
        let score = result
            .scores
            .iter()
            .find(|score| score.metric.name == metric)?;
        Some((result, score))
    }

    fn perplexity(&self, name: &str) -> Option<&PerplexityResult> {
        self.perplexities.iter().find(|result| result.name == name)
    }

    fn numbers(&self) -> BTreeMap<String, f64> {
        let mut numbers = BTreeMap::new();
        for task in &self.tasks {
            let mut add =
                |name: &str, value| numbers.insert(format!("{}.{name}", task.task), value);
            for score in &task.scores {
                add(score.metric.name, score.value);
            }
            add("items", task.items.len() as f64);
            if let Some(share) = task.unextracted_share() {
                add("unextracted", share);
                add("unanswered", task.unanswered_share());
            }
        }
        for result in &self.perplexities {
            numbers.insert(format!("{}.perplexity", result.name), result.total.value());
        }
        numbers
    }
}

impl TaskResult {
    /// Share of the answers that the filter could not extract.
    fn unextracted_share(&self) -> Option<f64> {
        self.unextracted
            .map(|count| count as f64 / self.items.len() as f64)
    }

    /// Share of the items that the model or its server would not answer.
    fn unanswered_share(&self) -> f64 {
        self.unanswered as f64 / self.items.len() as f64
    }
}

fn interval_json(interval: Option<Interval>) -> Value {
    interval.map_or(Value::Null, |interval| json!([interval.low, interval.high]))
}

fn perplexity_json(result: &PerplexityResult) -> Value {
    json!({
        "name": result.name,
        "model": result.model,
        "samples": result.samples,
        "tokens": result.total.tokens,
        "loss_sum": result.total.loss_sum,
        "perplexity": result.total.value(),
    })
}

fn item_json(item: &ItemResult, reveal: bool) -> Value {
    let number = |text: &str| item.options.iter().position(|option| option == text);
    let mut written = json!({
        "id": item.id,
        "prompt_sha256": item.prompt_sha256,
        "score": item.score,
    });
    if !item.options.is_empty() {
        written["gold_option"] = json!(number(&item.gold));
        written["picked_option"] = json!(item.extracted.as_deref().and_then(number));
        written["correct"] = json!(item.extracted.as_deref() == Some(item.gold.as_str()));
    }
    if !item.option_scores.is_empty() {
        let log_probs: Vec<f64> = item
            .option_scores
            .iter()
            .map(|score| score.log_prob)
            .collect();
        let tokens: Vec<usize> = item
            .option_scores
            .iter()
            .map(|score| score.tokens)
            .collect();
        written["log_probs"] = json!(log_probs);
        written["tokens"] = json!(tokens);
    }
    if let Some(why) = item.unanswered {
        written["unanswered"] = json!(why);
    }
    if reveal || item.access == AccessClass::Open {
        written["gold"] = json!(item.gold);
        if item.option_scores.is_empty() {
            written["answer"] = json!(item.answer);
        }
        written["extracted"] = json!(item.extracted);
    }
    written
}
