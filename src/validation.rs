//! Tasks that watch a training or a merge: which they are, and what they may decide.

use std::path::Path;

use anyhow::Result;
use eval::Task;
use eval::metrics::Needs;
use finetune::recipe::{EVAL_LOSS, TrainSection};
use finetune::score_names;
use ledger::recipe::{Document, Problem, nearest};

use crate::plan::{PlannedTask, add_tasks, how_to_get, task_folders};
use crate::recipe::{Recipe, problem};

/// The split on which results are reported, and by which nothing may be chosen.
const TEST: &str = "test";

/// Finds the tasks of `train.eval_tasks` or `merge.validate`; what is wrong with one is named with its line. The shots
/// of an entry that does not say are those of `[eval]`, so that its scores are too. BERTScore is left out: it needs a
/// model of its own.
pub fn watching(
    document: &Document<Recipe>,
    folder: &Path,
    key: &str,
    entries: &[String],
) -> Result<Vec<PlannedTask>> {
    let shots = document.value.eval.as_ref().and_then(|eval| eval.shots);
    let (base, folders) = (document.folder_of(key), task_folders(folder));
    let (mut planned, mut problems) = (Vec::new(), Vec::new());
    for (i, entry) in entries.iter().enumerate() {
        let place = format!("{key}[{i}]");
        let wrong = |message: String, hint: Option<&str>| problem(document, &place, message, hint);
        if let Err(error) = add_tasks(&mut planned, entry, shots, &base, &folders) {
            let hint = how_to_get(&error).or_else(|| error.hint());
            problems.push(wrong(format!("`{key}`: {error}"), hint.as_deref()));
        }
    }
    for task in planned.iter_mut().flat_map(|planned| &mut planned.tasks) {
        task.metrics
            .retain(|metric| metric.needs != Needs::Embeddings);
        if task.metrics.is_empty() {
            let name = &task.name;
            let message = format!(
                "`{key}`: `{name}` is marked by its BERTScore alone, which only [eval] computes"
            );
            let hint = "name a task with another metric";
            problems.push(problem(document, key, message, Some(hint)));
        }
    }
    refuse(problems)?;
    Ok(planned)
}

/// The score that chooses the checkpoint, where it is a task's: its name, and the task.
pub fn chosen_by<'p>(
    train: Option<&'p TrainSection>,
    tasks: &'p [PlannedTask],
) -> Option<(&'p str, &'p PlannedTask, &'p Task)> {
    let train = train.filter(|train| train.load_best_model_at_end)?;
    let metric = &train.metric_for_best_model;
    let all = tasks
        .iter()
        .flat_map(|planned| planned.tasks.iter().map(move |task| (planned, task)));
    let mut all = all.filter(|(_, task)| score_names(task).contains(metric));
    let (planned, task) = all.next()?;
    Some((metric, planned, task))
}

/// Refuses a metric that nothing measures, and one that is measured on a test: the score that a checkpoint was chosen
/// for is too high, and a test is there to report what is not.
pub fn check_best_metric(document: &Document<Recipe>, tasks: &[PlannedTask]) -> Result<()> {
    let Some(train) = &document.value.train else {
        return Ok(());
    };
    let (key, metric) = ("train.metric_for_best_model", &train.metric_for_best_model);
    if metric == EVAL_LOSS {
        return Ok(());
    }
    let Some((_, _, task)) = chosen_by(Some(train), tasks) else {
        let known: Vec<String> = tasks
            .iter()
            .flat_map(|planned| planned.tasks.iter().flat_map(score_names))
            .collect();
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        known.insert(0, EVAL_LOSS);
        let hint = match nearest(metric, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it is one of: {}", known.join(", ")),
        };
        let message = format!("`{key}` is {metric:?}, which train.eval_tasks does not measure");
        return refuse(vec![problem(document, key, message, Some(&hint))]);
    };
    if task.split() != Some(TEST) {
        return Ok(());
    }
    let message = format!(
        "`{key}` is {metric:?}, and `{}` asks test items: a checkpoint that they choose has seen the test",
        task.name
    );
    let hint = match &task.source.split {
        Some(_) => format!(
            "ask another split: train.eval_tasks = [\"{}[dev]\"]",
            task.family
        ),
        None => "choose by \"eval_loss\", or by a task over development items".to_owned(),
    };
    refuse(vec![problem(document, key, message, Some(&hint))])
}

fn refuse(problems: Vec<Problem>) -> Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ledger::Error::Recipe(problems).into()),
    }
}
