//! Reports of several runs as one.

use super::file::{ModelReport, ReportFile};
use crate::{Error, Result};

/// One run's report.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// What the run is called, unlike the others.
    pub name: String,
    /// Its report.
    pub file: ReportFile,
}

/// What the runs made, side by side: each run's last model under the run's name, with its changes
/// from the first run's.
///
/// # Errors
/// [`Error::NothingShared`] where no two of the runs have a score in common.
pub fn compare_runs(runs: &[RunReport]) -> Result<ReportFile> {
    let mut models: Vec<ModelReport> = Vec::new();
    for run in runs {
        let Some(last) = run.file.models.last() else {
            continue;
        };
        models.push(ModelReport {
            label: run.name.clone(),
            ..last.clone()
        });
    }
    let shared = models.iter().enumerate().any(|(index, model)| {
        models[index + 1..]
            .iter()
            .any(|other| share_a_score(model, other))
    });
    let Some(first) = runs.first().filter(|_| shared) else {
        return Err(Error::NothingShared {
            runs: runs.iter().map(|run| run.name.clone()).collect(),
        });
    };
    let mut file = ReportFile {
        models,
        metrics: Default::default(),
        intervals: first.file.intervals,
    };
    file.complete();
    Ok(file)
}

fn share_a_score(one: &ModelReport, other: &ModelReport) -> bool {
    let perplexity = |model: &ModelReport, name: &str| model.perplexity_of(name).is_some();
    one.perplexity
        .iter()
        .any(|result| perplexity(other, &result.name))
        || one.tasks.iter().any(|task| {
            let same = other.task(&task.task);
            let same = same.filter(|same| same.version == task.version);
            same.is_some_and(|same| {
                task.scores
                    .iter()
                    .any(|score| same.score(&score.metric).is_some())
            })
        })
}
