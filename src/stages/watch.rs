//! `train.eval_tasks`: what a model in training is asked, and what its scores decide.

use std::sync::Arc;

use anyhow::Result;
use datasets::{Template, Tokenizer};
use finetune::{
    AnsweringShape, Checkpoint, Decoder, Model, Scores, StepReport, TrainOutcome, ValidationTask,
    answering_shape,
};
use ledger::{AccessClass, FileHash, Manifest};
use serde_json::{Value, json};

use super::eval_input::what_is_asked;
use super::evaluate::{Asked, asked, items};
use super::train::product;
use super::{Work, asked_by, done, template_as};
use crate::plan::Plan;
use crate::validation::chosen_by;

/// What asks a model in training, before there is one.
pub(super) struct Watch {
    tokenizer: Tokenizer,
    template: Template,
    /// What it takes of memory.
    pub shape: AnsweringShape,
}

impl Watch {
    /// Opens the base's tokenizer; reads no weights.
    fn of(plan: &Plan, tasks: &[ValidationTask]) -> Result<Self> {
        let Checkpoint {
            tokenizer, config, ..
        } = Checkpoint::open(&plan.base)?;
        let chat = tasks.iter().any(|asked| asked.task.chat_template);
        let template = template_as(asked_by(plan.recipe()), &tokenizer, chat)?;
        let section = plan.recipe().eval.clone().unwrap_or_default();
        let (batch, context) = (section.batch_items, config.max_position_embeddings);
        let shape = answering_shape(tasks, batch, &tokenizer, &template, context)?;
        Ok(Self {
            tokenizer,
            template,
            shape,
        })
    }

    /// The decoder in training as something that answers, as an evaluation would load it.
    pub(super) fn model(self, decoder: Arc<Decoder>) -> Model {
        Model {
            decoder,
            tokenizer: self.tokenizer,
            template: self.template,
            name: "tuned".to_owned(),
        }
    }
}

/// What asking the tasks of `train.eval_tasks` takes of memory, from their items. Says nothing of few-shot.
///
/// # Errors
/// Items or a model that are not here; an item that the model cannot read.
pub fn answering(plan: &Plan) -> Result<AnsweringShape> {
    let tasks = limited(plan, items(plan, &plan.train_tasks)?);
    Ok(Watch::of(plan, &tasks)?.shape)
}

/// The items that an evaluation of so many asks.
fn limited(plan: &Plan, asked: Vec<Asked<'_>>) -> Vec<ValidationTask> {
    let seed = plan.recipe().eval.as_ref().map_or(0, |eval| eval.seed);
    let tasks = asked.into_iter().map(|asked| ValidationTask {
        task: asked.task.clone(),
        items: eval::asked_items(asked.items, asked.limit, seed),
    });
    tasks.collect()
}

impl Work<'_> {
    /// The tasks with the items that are asked.
    pub(super) fn watched_tasks(&self) -> Result<Vec<ValidationTask>> {
        let asked = asked(self.plan, &self.plan.train_tasks, "train")?;
        Ok(limited(self.plan, asked))
    }

    pub(super) fn watch(&self, tasks: &[ValidationTask]) -> Result<Option<Watch>> {
        if tasks.is_empty() {
            return Ok(None);
        }
        let watch = Watch::of(self.plan, tasks)?;
        if let Some((metric, _, task)) = self.choice()
            && task.split().is_none()
        {
            done(
                "train",
                &format!(
                    "warning: the checkpoint is chosen by {metric}, and the file of `{}` does not say which split its items are; scores on the same items will be too high",
                    task.name
                ),
            );
        }
        Ok(Some(watch))
    }

    fn choice(&self) -> Option<(&str, &crate::plan::PlannedTask, &eval::Task)> {
        chosen_by(self.plan.recipe().train.as_ref(), &self.plan.train_tasks)
    }

    /// The terms of the items that choose the weights.
    pub(super) fn access_of_choice(&self) -> AccessClass {
        self.choice()
            .map_or(AccessClass::Open, |(_, _, task)| task.source.access)
    }

    /// What the trained weights depend on where a task chooses them: its items, and how they are asked.
    pub(super) fn what_chooses(&self, settings: &mut Value) -> Result<Vec<FileHash>> {
        let Some((_, planned, _)) = self.choice() else {
            return Ok(Vec::new());
        };
        let (inputs, tasks) = what_is_asked(self.plan, std::slice::from_ref(planned))?;
        let section = self.plan.recipe().eval.clone().unwrap_or_default();
        settings["chosen_by"] =
            json!({"seed": section.seed, "shots": section.shots, "tasks": tasks});
        if let Some(template) = section.template {
            settings["chosen_by"]["template"] = json!(template);
        }
        Ok(inputs)
    }

    /// What the manifest says of the tasks.
    pub(super) fn watched_details(&self, outcome: &TrainOutcome, details: &mut Value) {
        if outcome.scores.is_empty() {
            return;
        }
        details["scores"] = json!(outcome.scores);
        if let Some((metric, planned, task)) = self.choice() {
            details["chosen_by"] = json!({
                "metric": metric,
                "task": task.name,
                "split": task.split(),
                "limit": planned.limit,
                "items": items_of(task),
            });
        }
    }
}

/// Where a task's items are, to tell whether another asks the same.
fn items_of(task: &eval::Task) -> Value {
    let source = &task.source;
    json!({"path": source.path, "split": source.split, "fold": source.fold})
}

/// The score that chose the checkpoint, and the tasks of `[eval]` that ask the items by which it did; `None` where there
/// is no such task.
pub(super) fn chose_checkpoint(plan: &Plan) -> Option<(String, Vec<&str>)> {
    plan.recipe().train.as_ref()?;
    let trained = Manifest::read(&plan.folder(product(plan))).ok()??;
    let chosen_by = trained.details.get("chosen_by")?;
    let (metric, items) = (chosen_by["metric"].as_str()?, chosen_by.get("items")?);
    let tasks = plan.tasks.iter().flat_map(|planned| &planned.tasks);
    let same = tasks.filter(|task| items_of(task) == *items);
    let names: Vec<&str> = same.map(|task| task.name.as_str()).collect();
    (!names.is_empty()).then(|| (metric.to_owned(), names))
}

/// The scores that a line has room for: each task's first by name, without what repeats the paper's own scorer.
pub(super) fn shown_scores(scores: &Scores) -> Vec<(&str, f64)> {
    let mut shown: Vec<(&str, f64)> = Vec::new();
    for (name, score) in scores {
        let (task, metric) = name.rsplit_once('.').unwrap_or((name, ""));
        let has = |(other, _): &(&str, f64)| other.rsplit_once('.').is_some_and(|(t, _)| t == task);
        if !metric.starts_with("paper_") && !shown.iter().any(has) {
            shown.push((name, *score));
        }
    }
    shown
}

/// A line about an evaluation with tasks.
pub(super) fn evaluated(step: &StepReport) -> Option<String> {
    if step.scores.is_empty() {
        return None;
    }
    let mut line = format!("step {}:", step.step);
    if let Some(loss) = step.eval_loss {
        line.push_str(&format!(" held-out loss {loss:.4},"));
    }
    for (name, score) in shown_scores(&step.scores) {
        line.push_str(&format!(" {name} {score:.4},"));
    }
    Some(line.trim_end_matches(',').to_owned())
}
