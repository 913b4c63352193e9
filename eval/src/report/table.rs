//! The table for a terminal: plain text, aligned, readable without colour.

use std::fmt::Write;

use super::Report;
use crate::metrics::Family;
use crate::run::TaskResult;
use crate::statistics::Interval;

/// Spaces between columns.
const GAP: usize = 2;

impl Report {
    /// One line a metric, one column a model, and with several models the last one's change from
    /// the first. Intervals are 95 %, those of changes paired by item.
    pub fn table(&self) -> String {
        let mut rows = vec![self.header()];
        let first = self.models.first();
        let tasks = first
            .map(|model| model.tasks.as_slice())
            .unwrap_or_default();
        for task in tasks {
            rows.extend(self.task_rows(task));
        }
        let perplexities = first
            .map(|model| model.perplexities.as_slice())
            .unwrap_or_default();
        for result in perplexities {
            rows.push(self.perplexity_row(&result.name, result.samples));
        }
        let mut text = aligned(&rows);
        if tasks
            .iter()
            .flat_map(|task| &task.scores)
            .any(|score| score.metric.family == Family::PaperCompatible)
        {
            text.push_str(
                "paper_: as Me-LLaMA's released scorer marks the raw text, not true scores\n",
            );
        }
        text
    }

    fn header(&self) -> Vec<String> {
        let mut row: Vec<String> = ["task", "metric", "items"].map(String::from).into();
        row.extend(self.models.iter().map(|model| model.label.clone()));
        if self.models.len() > 1 {
            row.push("change".to_owned());
        }
        row
    }

    fn task_rows(&self, task: &TaskResult) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (index, score) in task.scores.iter().enumerate() {
            let metric = score.metric.name;
            let mut row = match index {
                0 => vec![
                    task.task.clone(),
                    metric.to_owned(),
                    task.items.len().to_string(),
                ],
                _ => vec![String::new(), metric.to_owned(), String::new()],
            };
            let mut change = None;
            for model in &self.models {
                match model.score(&task.task, metric) {
                    Some((task, score)) => {
                        row.push(number(score.value, score.interval, ""));
                        change = self.change(task, score);
                    }
                    None => {
                        row.push("-".to_owned());
                        change = None;
                    }
                }
            }
            if self.models.len() > 1 {
                row.push(change.map_or("-".to_owned(), |c| number(c.value, c.interval, "+")));
            }
            rows.push(row);
        }
        if task.unextracted.is_some() {
            rows.push(self.share_row(&task.task, "no answer", TaskResult::unextracted_share));
        }
        let unanswered = |model: &super::ModelResults| {
            let mut same = model.tasks.iter().filter(|other| other.task == task.task);
            same.any(|other| other.unanswered > 0)
        };
        if self.models.iter().any(unanswered) {
            let share = |task: &TaskResult| Some(task.unanswered_share());
            rows.push(self.share_row(&task.task, "unanswered", share));
        }
        rows
    }

    /// A share of each model's items.
    fn share_row(
        &self,
        task: &str,
        what: &str,
        share: impl Fn(&TaskResult) -> Option<f64>,
    ) -> Vec<String> {
        let share = |model: &super::ModelResults| {
            let result = model.tasks.iter().find(|result| result.task == task)?;
            share(result)
        };
        let shares: Vec<Option<f64>> = self.models.iter().map(share).collect();
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut row = vec![String::new(), what.to_owned(), String::new()];
        row.extend(
            shares
                .iter()
                .map(|share| share.map_or("-".to_owned(), percent)),
        );
        if let [first, .., last] = shares.as_slice() {
            let change = first.zip(*last).map(|(first, last)| 100.0 * (last - first));
            row.push(change.map_or("-".to_owned(), |change| format!("{change:+.1} %")));
        }
        row
    }

    fn perplexity_row(&self, name: &str, samples: usize) -> Vec<String> {
        let values: Vec<Option<f64>> = self
            .models
            .iter()
            .map(|model| model.perplexity(name).map(|result| result.total.value()))
            .collect();
        let mut row = vec![
            name.to_owned(),
            "perplexity".to_owned(),
            samples.to_string(),
        ];
        row.extend(
            values
                .iter()
                .map(|v| v.map_or("-".to_owned(), |v| format!("{v:.3}"))),
        );
        if let [first, .., last] = values.as_slice() {
            let change = first
                .zip(*last)
                .map(|(first, last)| format!("{:+.3}", last - first));
            row.push(change.unwrap_or("-".to_owned()));
        }
        row
    }
}

/// `0.540 [0.496, 0.584]`, with a sign before every number where `sign` is `+`.
fn number(value: f64, interval: Option<Interval>, sign: &str) -> String {
    let write = |value: f64| match sign {
        "+" => format!("{value:+.3}"),
        _ => format!("{value:.3}"),
    };
    match interval {
        Some(Interval { low, high }) => {
            format!("{} [{}, {}]", write(value), write(low), write(high))
        }
        None => write(value),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<0$}", width + GAP);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
