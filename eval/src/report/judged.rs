//! How a task's answers were judged, in a report.

use serde::{Deserialize, Serialize};

use super::file::TaskReport;
use super::rows::Row;
use crate::judge::{JudgedBy, Verdict};
use crate::metrics::MetricName;
use crate::run::TaskResult;

/// Why nobody judged.
const NO_JUDGE: &str = "no [eval.judge]";

/// How a task's answers were judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    /// SHA-256 of the question's templates.
    pub prompt_sha256: String,
    /// Who judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<JudgedBy>,
    /// Why nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
    /// How many candidates the judge was to say something of.
    #[serde(default)]
    pub verdicts: usize,
    /// Those of which it didn't. Items that hang on them are in no judged score.
    #[serde(default)]
    pub failures: Vec<JudgeFailure>,
}

/// A candidate without a verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeFailure {
    /// The item's id.
    pub item: String,
    /// The candidate's place in the answer, from 1.
    pub rank: usize,
    /// SHA-256 of what the judge was asked.
    pub prompt_sha256: String,
    /// What became of it.
    pub verdict: Verdict,
}

impl JudgeReport {
    pub(super) fn of(task: &TaskResult) -> Option<JudgeReport> {
        let judgement = task.judgement.as_ref()?;
        let (mut verdicts, mut failures) = (0, Vec::new());
        for item in &task.items {
            for (index, judged) in item.judged.iter().enumerate() {
                let Some(prompt_sha256) = judged.prompt_sha256.clone() else {
                    continue;
                };
                verdicts += 1;
                if judged.verdict.is_right().is_none() {
                    failures.push(JudgeFailure {
                        item: item.id.clone(),
                        rank: index + 1,
                        prompt_sha256,
                        verdict: judged.verdict,
                    });
                }
            }
        }
        Some(JudgeReport {
            prompt_sha256: judgement.prompt_sha256.clone(),
            not_judged: judgement.by.is_none().then(|| NO_JUDGE.to_owned()),
            by: judgement.by.clone(),
            verdicts,
            failures,
        })
    }

    /// Share of the candidates of which the judge said nothing that could be read; `None` where
    /// nobody judged.
    pub fn failed_share(&self) -> Option<f64> {
        self.by.as_ref()?;
        // Every candidate may have matched.
        Some(self.failures.len() as f64 / self.verdicts.max(1) as f64)
    }
}

impl TaskReport {
    /// Share of the candidates of which a judge gave no verdict.
    pub fn judge_failed_share(&self) -> Option<f64> {
        self.judge.as_ref()?.failed_share()
    }

    /// Whether the two have another score under this metric because another judge was asked, or
    /// another question.
    pub(super) fn is_judged_otherwise(&self, other: &TaskReport, metric: &str) -> bool {
        let asked = |task: &TaskReport| {
            let judge = task.judge.as_ref()?;
            let model = judge.by.as_ref().map(|by| by.model.clone());
            Some((judge.prompt_sha256.clone(), model))
        };
        let judged = MetricName::find(metric).is_some_and(|metric| metric.is_judged());
        judged && asked(self) != asked(other)
    }
}

impl Row<'_> {
    /// Whether any model's answers were judged.
    pub fn judged(self) -> bool {
        let mut tasks = self.by_model().flatten();
        tasks.any(|task| task.judge_failed_share().is_some())
    }

    /// Who judged the answers, or why nobody did; `None` for tasks without a judge.
    pub fn judging(self) -> Option<String> {
        let judges = || self.by_model().flatten().filter_map(|t| t.judge.as_ref());
        let mut names: Vec<String> = Vec::new();
        for JudgedBy { endpoint, model } in judges().filter_map(|judge| judge.by.as_ref()) {
            let name = format!("{model} ({endpoint})");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            return Some(format!("judged by {}", names.join(", ")));
        }
        let why = judges().find_map(|judge| judge.not_judged.as_ref())?;
        Some(format!("not judged: {why}"))
    }
}
