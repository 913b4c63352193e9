//! From the results of models to the report that a file holds.

use std::collections::BTreeMap;

use ledger::AccessClass;

use super::file::{
    ItemReport, MarksReport, ModelReport, PerplexityReport, ReportFile, Resampling, ScoreReport,
    TaskReport, Unflagged,
};
use super::judged::JudgeReport;
use super::notes::{Published, TaskNotes};
use super::{ModelResults, Report};
use crate::judge::Judged;
use crate::metrics::{Marks, Tally, labels_of};
use crate::run::{ItemResult, PerplexityResult, Score, TaskResult};
use crate::statistics::{Bootstrap, CONFIDENCE};

impl ReportFile {
    pub(super) fn of(report: &Report, reveal: bool) -> ReportFile {
        let bootstrap = report.bootstrap;
        let models = report.models.iter();
        let models = models.map(|model| model.report(report, reveal)).collect();
        let mut file = ReportFile {
            models,
            metrics: BTreeMap::new(),
            intervals: Resampling {
                confidence: CONFIDENCE,
                resamples: bootstrap.resamples,
                seed: bootstrap.seed,
            },
        };
        file.complete();
        file
    }
}

impl MarksReport {
    fn of(marks: &Marks, may_name: impl Fn(&str) -> bool) -> MarksReport {
        let name = |class: &String| may_name(class).then(|| class.clone());
        let item = |item: &Vec<(usize, Tally)>| {
            item.iter()
                .map(|(class, [a, b, c])| (*class, *a, *b, *c))
                .collect()
        };
        MarksReport {
            classes: marks.classes.iter().map(name).collect(),
            items: marks.items.iter().map(item).collect(),
        }
    }
}

impl ModelResults {
    fn report(&self, report: &Report, reveal: bool) -> ModelReport {
        let notes = |task: &TaskResult| report.notes.get(&task.task).cloned().unwrap_or_default();
        let tasks = self.tasks.iter();
        let tasks = tasks.map(|task| task_report(task, notes(task), &report.bootstrap, reveal));
        ModelReport {
            label: self.label.clone(),
            tasks: tasks.collect(),
            perplexity: self.perplexities.iter().map(perplexity_report).collect(),
        }
    }
}

fn task_report(
    task: &TaskResult,
    notes: TaskNotes,
    bootstrap: &Bootstrap,
    reveal: bool,
) -> TaskReport {
    let readable = reveal || task.access == AccessClass::Open;
    let labels = match (notes.labels.is_empty(), task.items.first()) {
        // Options that are the same everywhere by chance, or because there is one item, are still
        // the record's.
        (true, Some(first))
            if task.access == AccessClass::Open
                && task.items.iter().all(|item| item.options == first.options) =>
        {
            first.options.clone()
        }
        _ => notes.labels,
    };
    let flagged = |item: &ItemResult| item.flagged || notes.flagged.contains(&item.id);
    let flagged: Vec<bool> = task.items.iter().map(flagged).collect();
    let mut published = notes.published;
    if let Some(set) = &task.published {
        for metric in task.scores.iter().map(|score| score.metric.name) {
            let theirs = set.scores(metric, task.items.len());
            published.extend(
                theirs
                    .iter()
                    .map(|theirs| Published::beside(metric, theirs)),
            );
        }
    }
    let may_name =
        |class: &str| readable || class.is_empty() || labels.iter().any(|label| label == class);
    let scores = task.scores.iter().map(|score| ScoreReport {
        metric: score.metric.name.to_owned(),
        family: score.metric.family,
        value: score.value,
        interval: score.interval,
        change: None,
        unflagged: unflagged(score, &flagged, bootstrap),
        marks: MarksReport::of(&score.marks, may_name),
    });
    let items = task.items.iter().zip(&flagged);
    TaskReport {
        task: task.task.clone(),
        version: task.version,
        model: task.model.clone(),
        answering: task.answering.to_owned(),
        shots: notes.shots,
        tags: notes.tags,
        chose_checkpoint: notes.chose_checkpoint,
        access: task.access,
        unextracted: task.unextracted,
        unanswered: task.unanswered,
        judge: JudgeReport::of(task),
        published,
        scores: scores.collect(),
        not_computed: task
            .not_computed
            .iter()
            .map(|metric| metric.name.to_owned())
            .collect(),
        bert_score: task.bert_score.clone(),
        change: None,
        items: items
            .map(|(item, flagged)| item_report(item, *flagged, reveal))
            .collect(),
        labels,
    }
}

fn unflagged(score: &Score, flagged: &[bool], bootstrap: &Bootstrap) -> Option<Unflagged> {
    if !flagged.contains(&true) {
        return None;
    }
    let kept: Vec<usize> = (0..flagged.len()).filter(|i| !flagged[*i]).collect();
    if kept.is_empty() {
        return None;
    }
    let of = |drawn: &[usize]| score.marks.score_of(drawn.iter().map(|i| kept[*i]));
    Some(Unflagged {
        items: kept.len(),
        value: score.marks.score_of(kept.iter().copied()),
        interval: bootstrap.interval_of(kept.len(), of),
    })
}

fn item_report(item: &ItemResult, flagged: bool, reveal: bool) -> ItemReport {
    let number = |text: &str| item.options.iter().position(|option| option == text);
    let picked = item.extracted.as_deref().and_then(number);
    let readable = reveal || item.access == AccessClass::Open;
    let generated = item.option_scores.is_empty();
    let judged = |judged: &Judged| Judged {
        said: judged.said.clone().filter(|_| readable),
        ..judged.clone()
    };
    let correct = match item.extracted.as_deref() {
        // Several options may be right, one of which was picked.
        Some(picked) if !generated && number(&item.gold).is_none() => {
            labels_of(&item.gold).any(|gold| gold == picked)
        }
        picked => picked == Some(item.gold.as_str()),
    };
    ItemReport {
        id: item.id.clone(),
        prompt_sha256: item.prompt_sha256.clone(),
        score: item.score,
        access: item.access,
        flagged,
        gold_option: number(&item.gold),
        picked_option: picked,
        unanswered: item.unanswered,
        correct: (!item.options.is_empty()).then_some(correct),
        log_probs: item.option_scores.iter().map(|s| s.log_prob).collect(),
        tokens: item.option_scores.iter().map(|s| s.tokens).collect(),
        gold: readable.then(|| item.gold.clone()),
        answer: (readable && generated).then(|| item.answer.clone()),
        extracted: item.extracted.clone().filter(|_| readable),
        judged: item.judged.iter().map(judged).collect(),
    }
}

fn perplexity_report(result: &PerplexityResult) -> PerplexityReport {
    PerplexityReport {
        name: result.name.clone(),
        model: result.model.clone(),
        samples: result.samples,
        tokens: result.total.tokens,
        loss_sum: result.total.loss_sum,
        perplexity: result.total.value(),
    }
}
