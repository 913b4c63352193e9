//! A judge: a model that says whether candidates of ranked answers are right.
//!
//! The task's `[judge]` says what it is asked and how its verdict is read; the recipe's
//! `[eval.judge]` says which endpoint it is. It sees the record's fields that the template names,
//! the right answer and one candidate: not which model wrote it, nor at which rank. All models'
//! answers are judged together, item by item and in the order of the candidates' texts, so that the
//! order of asking tells nothing either, and what several wrote alike is asked once.
//!
//! A candidate that is one of the right answer's names is right without asking (unless `matches`),
//! and what stands behind a right candidate is not asked, since no score could change. Where the
//! judge refuses, or its verdict cannot be read, the candidate is neither right nor wrong: an item
//! that hangs on it is left out of the score, counted and listed.

mod question;
mod replies;
mod section;

use std::collections::BTreeMap;

use datasets::Record;
use serde::{Deserialize, Serialize};

pub(crate) use question::Question;
pub(crate) use section::judged_metrics;
pub use section::{JudgeChoice, JudgeSection};

use crate::ask::Session;
use crate::error::ItemProblem;
use crate::metrics::{Answered, Marks, candidates};
use crate::run::{ItemResult, Progress, Score, TaskResult};
use crate::statistics::Bootstrap;
use crate::task::Task;
use crate::{Error, LanguageModel, Prompt, Result, Unanswered};
use replies::Replies;

/// Whoever judges.
pub struct Judge<'a> {
    /// What is asked.
    pub model: &'a mut dyn LanguageModel,
    /// Who that is, for the report.
    pub by: JudgedBy,
}

/// Who judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedBy {
    /// The endpoint's name in the recipe.
    pub endpoint: String,
    /// The model's name there.
    pub model: String,
}

/// How a task's answers were judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// SHA-256 of the question's templates.
    pub prompt_sha256: String,
    /// Who judged; `None` where nobody did.
    pub by: Option<JudgedBy>,
}

/// What was found of one candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Whether it is right.
    pub verdict: Verdict,
    /// SHA-256 of what the judge was asked; `None` where it wasn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_sha256: Option<String>,
    /// What the judge wrote, which may repeat the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// Whether a candidate is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is one of the right answer's names; the judge was not asked.
    Match,
    /// The judge says so.
    Right,
    /// The judge says that it isn't.
    Wrong,
    /// No verdict was found in what the judge wrote.
    Unreadable,
    /// The judge, or its server, would not answer.
    Unanswered(Unanswered),
}

impl Verdict {
    /// `None` where the judge failed.
    pub fn is_right(self) -> Option<bool> {
        match self {
            Verdict::Match | Verdict::Right => Some(true),
            Verdict::Wrong => Some(false),
            Verdict::Unreadable | Verdict::Unanswered(_) => None,
        }
    }
}

/// Judges what models have answered to a task, and adds the judged scores to their results.
pub(crate) fn judge(
    task: &Task,
    results: &mut [&mut TaskResult],
    judge: &mut Judge<'_>,
    bootstrap: &Bootstrap,
    session: &mut Session<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let Some(section) = &task.judge else {
        return Ok(());
    };
    let question = Question::new(&task.name, section)?;
    let mut replies = Replies::open(task, section, judge.model.name(), session)?;
    let depth = task.metrics.iter().filter_map(|m| m.judged_candidates());
    let depth = depth.max().unwrap_or(0);
    let mut sheets: Vec<Vec<Sheet>> = Vec::new();
    for result in results.iter() {
        let sheet = |item| Sheet::new(task, item, section.matches, depth);
        sheets.push(result.items.iter().map(sheet).collect::<Result<_>>()?);
    }
    // One rank after the other, since what follows a right candidate is not asked.
    for _ in 0..depth {
        let mut round: BTreeMap<(usize, String), (String, Prompt)> = BTreeMap::new();
        for (place, sheet) in sheets.iter().flat_map(|sheets| sheets.iter().enumerate()) {
            if let Some(candidate) = sheet.pending() {
                let prompt = question.about(&sheet.case, candidate)?;
                let asked = (sheet.case.id.clone(), prompt);
                round.insert((place, candidate.to_owned()), asked);
            }
        }
        let prompts = round.values().map(|(id, prompt)| (id.as_str(), prompt));
        replies.ask(prompts, judge.model, session, progress)?;
        for sheet in sheets.iter_mut().flatten() {
            let Some(candidate) = sheet.pending() else {
                continue;
            };
            let prompt_sha256 = question.about(&sheet.case, candidate)?.sha256();
            let reply = replies.to(&prompt_sha256);
            sheet.judged.extend(reply.map(|reply| Judged {
                verdict: question.verdict(reply),
                prompt_sha256: Some(prompt_sha256),
                said: match reply {
                    crate::Reply::Text(text) => Some(text.clone()),
                    crate::Reply::Unanswered(_) => None,
                },
            }));
        }
    }
    for (result, sheets) in results.iter_mut().zip(sheets) {
        for (item, sheet) in result.items.iter_mut().zip(sheets) {
            item.judged = sheet.done();
        }
        score(task, result, bootstrap);
        result.judgement = Some(Judgement {
            prompt_sha256: section.prompt_sha256(),
            by: Some(judge.by.clone()),
        });
    }
    Ok(())
}

/// One item's candidates and what was found of them.
struct Sheet {
    case: Record,
    /// Those that the judge is asked about, best first.
    open: Vec<String>,
    /// Whether the one behind them is one of the right answer's names.
    matched: bool,
    judged: Vec<Judged>,
}

impl Sheet {
    fn new(task: &Task, item: &ItemResult, ask_of_matches: bool, depth: usize) -> Result<Self> {
        let case = item.case.as_deref().ok_or_else(|| Error::InvalidItem {
            task: task.name.clone(),
            item: item.id.clone(),
            problem: ItemProblem::NoCase,
        })?;
        let mut sheet = Sheet {
            case: case.clone(),
            open: Vec::new(),
            matched: false,
            judged: Vec::new(),
        };
        let answer = item.extracted.as_deref().unwrap_or_default();
        for candidate in candidates(answer).take(depth) {
            if !ask_of_matches && candidate.is_one_of(&item.gold) {
                sheet.matched = true;
                break;
            }
            sheet.open.push(candidate.text.to_owned());
        }
        Ok(sheet)
    }

    /// The best candidate of which nothing is known; `None` once one is right.
    fn pending(&self) -> Option<&str> {
        let known = self.judged.last();
        let right = known.is_some_and(|judged| judged.verdict.is_right() == Some(true));
        let next = self.open.get(self.judged.len());
        next.filter(|_| !right).map(String::as_str)
    }

    fn done(mut self) -> Vec<Judged> {
        let right = |judged: &Judged| judged.verdict.is_right() == Some(true);
        if self.matched && !self.judged.iter().any(right) {
            self.judged.push(Judged {
                verdict: Verdict::Match,
                prompt_sha256: None,
                said: None,
            });
        }
        self.judged
    }
}

/// Adds the scores of the judged metrics, those that any item decides.
fn score(task: &Task, result: &mut TaskResult, bootstrap: &Bootstrap) {
    let verdicts = |item: &ItemResult| -> Vec<Option<bool>> {
        let judged = item.judged.iter();
        judged.map(|judged| judged.verdict.is_right()).collect()
    };
    let judged: Vec<Vec<Option<bool>>> = result.items.iter().map(verdicts).collect();
    for metric in task.metrics.iter().filter(|m| m.is_judged()) {
        let answered = judged.iter().map(|judged| Answered {
            judged,
            ..Answered::default()
        });
        let marks = Marks::new(metric, answered);
        if marks.items.iter().all(Vec::is_empty) {
            // Nothing was decided, which is no zero.
            continue;
        }
        result.scores.push(Score::new(*metric, marks, bootstrap));
    }
    let place = |score: &Score| task.metrics.iter().position(|own| *own == score.metric);
    result.scores.sort_by_key(place);
}
