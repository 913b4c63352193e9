//! The table for a terminal: plain text, aligned, readable without colour at 80 columns.

use super::bert_score;
use super::file::{PerplexityReport, ReportFile, ScoreReport, TaskReport};
use super::notes::FORGETTING;
use super::rows::Row;
use crate::statistics::Interval;

/// Spaces between columns.
const GAP: usize = 2;

/// Of more published scores, the table says how many there are.
const MOST_PUBLISHED: usize = 3;

/// A line of the table.
pub(super) enum Line {
    /// Words across all columns.
    Words(String),
    /// A name and its cells.
    Cells(Vec<String>),
}

impl ReportFile {
    /// Each task with a line a metric and a column a model; beside every model but the first, its
    /// change from the first. Intervals are 95 %, those of changes paired by item; `*` marks the
    /// tasks whose change is more than chance (McNemar's test or the paired bootstrap on the first
    /// metric, Holm's adjustment over the tasks).
    pub fn table(&self) -> String {
        let mut lines = vec![Line::Cells(self.header())];
        let mut forgetting = false;
        for row in self.rows() {
            if row.task.has_tag(FORGETTING) && !forgetting {
                forgetting = true;
                lines.push(Line::Words("forgetting".to_owned()));
            }
            self.add_task(row, &mut lines);
        }
        for name in self.perplexity_names() {
            self.add_perplexity(name, &mut lines);
        }
        let mut text = aligned(&lines);
        let settings = self.settings();
        if let Some(settings) = &settings {
            text.push_str(&format!("\n{}", settings.settings_table()));
        }
        let reports = [Some(self), settings.as_ref()].into_iter().flatten();
        let later = reports.flat_map(|report| report.models.iter().skip(1));
        if later
            .flat_map(|model| &model.tasks)
            .filter_map(|task| task.change.as_ref())
            .any(|change| change.is_significant())
        {
            text.push_str("* more than chance at 5 %, over all tasks (Holm)\n");
        }
        text
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec![String::new()];
        for (index, model) in self.models.iter().enumerate() {
            header.push(model.label.clone());
            if index > 0 {
                header.push("change".to_owned());
            }
        }
        header
    }

    fn add_task(&self, row: Row<'_>, lines: &mut Vec<Line>) {
        lines.push(Line::Words(about(row.task)));
        for line in row.chose_checkpoint() {
            lines.push(Line::Words(format!("  {line}")));
        }
        let metrics = row.metrics();
        let paper = metrics.iter().position(|score| score.is_paper_compatible());
        for (index, score) in metrics.iter().enumerate() {
            if paper == Some(index) {
                let words = "  as the paper's scorer marks, to check published numbers:";
                lines.push(Line::Words(words.to_owned()));
            }
            lines.push(Line::Cells(self.score_cells(row, score, index == 0)));
            if row
                .by_model()
                .flatten()
                .any(|task| unflagged(task, score).is_some())
            {
                lines.push(Line::Cells(self.unflagged_cells(row, score)));
            }
        }
        for line in bert_score::lines(row) {
            lines.push(Line::Words(format!("  {line}")));
        }
        if row.generated() {
            let share = |task: &TaskReport| task.unextracted_share().map(percent);
            lines.push(Line::Cells(self.plain_cells("no answer", row, share)));
        }
        if row.refused() {
            let share = |task: &TaskReport| Some(percent(task.unanswered_share()));
            lines.push(Line::Cells(self.plain_cells("unanswered", row, share)));
        }
        if row.judged() {
            let share = |task: &TaskReport| task.judge_failed_share().map(percent);
            lines.push(Line::Cells(self.plain_cells("judge failed", row, share)));
        }
        lines.extend(row.judging().map(|words| Line::Words(format!("  {words}"))));
        let published = &row.task.published;
        if published.len() > MOST_PUBLISHED {
            lines.push(Line::Words(format!(
                "  published by others: {} scores, in report.html",
                published.len()
            )));
            return;
        }
        for published in published {
            lines.push(Line::Words(format!(
                "  published, not measured here: {} {:.3}\n    {}, {}",
                published.metric, published.value, published.model, published.source
            )));
        }
    }

    fn score_cells(&self, row: Row<'_>, score: &ScoreReport, first: bool) -> Vec<String> {
        // With one or two models there is room for the last one's interval.
        let wide = self.models.len() <= 2;
        let mut cells = vec![format!("  {}", score.metric)];
        for (index, task) in row.by_model().enumerate() {
            let own = task.and_then(|task| task.score(&score.metric));
            let shown = wide && index + 1 == self.models.len();
            cells.push(own.map_or("-".to_owned(), |own| {
                value(own.value, own.interval.filter(|_| shown))
            }));
            if index > 0 {
                let change = own.and_then(|own| own.change);
                let mut cell = change.map_or("-".to_owned(), |change| {
                    signed(change.value, change.interval.filter(|_| wide))
                });
                let significant = task.and_then(|task| task.change.as_ref());
                if first && significant.is_some_and(|change| change.is_significant()) {
                    cell.push('*');
                }
                cells.push(cell);
            }
        }
        cells
    }

    fn unflagged_cells(&self, row: Row<'_>, score: &ScoreReport) -> Vec<String> {
        self.plain_cells("  not in training data", row, |task| {
            unflagged(task, score).map(|value| format!("{value:.3}"))
        })
    }

    /// A line without changes.
    fn plain_cells(
        &self,
        name: &str,
        row: Row<'_>,
        cell: impl Fn(&TaskReport) -> Option<String>,
    ) -> Vec<String> {
        let mut cells = vec![format!("  {name}")];
        for (index, task) in row.by_model().enumerate() {
            cells.push(task.and_then(&cell).unwrap_or("-".to_owned()));
            if index > 0 {
                cells.push(String::new());
            }
        }
        cells
    }

    fn add_perplexity(&self, name: &str, lines: &mut Vec<Line>) {
        let results: Vec<Option<&PerplexityReport>> = self
            .models
            .iter()
            .map(|model| model.perplexity_of(name))
            .collect();
        let samples = results.iter().flatten().map(|result| result.samples).max();
        lines.push(Line::Words(format!(
            "{name} ({} held out)",
            samples.unwrap_or(0)
        )));
        let mut cells = vec!["  perplexity".to_owned()];
        for (index, result) in results.iter().enumerate() {
            let own = result.map(|result| result.perplexity);
            cells.push(own.map_or("-".to_owned(), |own| format!("{own:.3}")));
            if index > 0 {
                let before = results[0].map(|result| result.perplexity);
                let change = own.zip(before).map(|(own, before)| own - before);
                let change = change.filter(|change| !change.is_nan());
                cells.push(change.map_or("-".to_owned(), |change| signed(change, None)));
            }
        }
        lines.push(Line::Cells(cells));
    }
}

/// `pubmedqa (500 items, log-likelihood, 3 shots)`
fn about(task: &TaskReport) -> String {
    let shots = match task.shots {
        0 => "zero-shot".to_owned(),
        1 => "1 shot".to_owned(),
        n => format!("{n} shots"),
    };
    let (name, items) = (&task.task, task.items.len());
    format!("{name} ({items} items, {}, {shots})", task.answering)
}

fn unflagged(task: &TaskReport, score: &ScoreReport) -> Option<f64> {
    Some(task.score(&score.metric)?.unflagged?.value)
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `0.540 [0.496, 0.584]`
pub(super) fn value(value: f64, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high }) => format!("{value:.3} [{low:.3}, {high:.3}]"),
        None => format!("{value:.3}"),
    }
}

/// `+0.104 [-0.001, +0.229]`
pub(super) fn signed(value: f64, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high }) => format!("{value:+.3} [{low:+.3}, {high:+.3}]"),
        None => format!("{value:+.3}"),
    }
}

/// Names to the left; numbers under one another, since every number of a column starts alike.
pub(super) fn aligned(lines: &[Line]) -> String {
    let rows: Vec<&Vec<String>> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Cells(cells) => Some(cells),
            Line::Words(_) => None,
        })
        .collect();
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        match line {
            Line::Words(words) => shown.push_str(words),
            Line::Cells(cells) => {
                for (cell, width) in cells.iter().zip(&widths) {
                    shown.push_str(&format!("{cell:<0$}", width + GAP));
                }
            }
        }
        // A name may hold what a terminal would obey.
        text.extend(
            shown
                .trim_end()
                .chars()
                .map(|c| if c.is_control() && c != '\n' { '?' } else { c }),
        );
        text.push('\n');
    }
    text
}
