//! Which class is taken for which.

use std::fmt::Write;

use super::super::file::{ReportFile, ScoreReport, TaskReport};
use super::{Section, escape, table};

/// A matrix with more classes than this is no longer readable.
const MATRIX: usize = 12;
/// How many of the most frequent mistakes are listed instead.
const MISTAKES: usize = 10;

/// One entry a task that has classes; nothing where none has.
pub(super) fn section(file: &ReportFile) -> Option<Section> {
    let mut body = String::new();
    for row in file.rows() {
        let mut parts = String::new();
        for (model, task) in file.models.iter().zip(row.by_model()) {
            if let Some(part) = task.and_then(|task| of_task(&model.label, task)) {
                let _ = write!(parts, "<div>{part}</div>");
            }
        }
        if !parts.is_empty() {
            let name = escape(&row.task.task);
            let _ = write!(
                body,
                "<details><summary>{name}</summary><div class=\"pair\">{parts}</div></details>"
            );
        }
    }
    (!body.is_empty()).then_some(Section {
        id: "classes",
        title: "By class",
        body,
    })
}

fn of_task(label: &str, task: &TaskReport) -> Option<String> {
    if let Some(counts) = Confusion::of(task) {
        return Some(match counts.labels.len() {
            0..=MATRIX => counts.matrix(label),
            _ => counts.mistakes(label),
        });
    }
    let by_class = |score: &&ScoreReport| {
        let classes = &score.marks.classes;
        score.metric.contains("f1") && classes.iter().any(|class| class.as_deref() != Some(""))
    };
    Some(class_table(label, task.scores.iter().find(by_class)?))
}

/// How often which option was picked where which was right.
struct Confusion<'a> {
    labels: &'a [String],
    /// By right option; the last column counts the answers that could not be extracted.
    counts: Vec<Vec<usize>>,
}

impl<'a> Confusion<'a> {
    /// `None` where the options are not the same everywhere, or an item has several right ones.
    fn of(task: &'a TaskReport) -> Option<Confusion<'a>> {
        let labels = &task.labels;
        if labels.len() < 2 {
            return None;
        }
        let mut counts = vec![vec![0; labels.len() + 1]; labels.len()];
        for item in &task.items {
            let picked = item.picked_option.unwrap_or(labels.len());
            *counts.get_mut(item.gold_option?)?.get_mut(picked)? += 1;
        }
        Some(Confusion { labels, counts })
    }

    fn matrix(&self, label: &str) -> String {
        let missing = self.counts.iter().any(|row| row[self.labels.len()] > 0);
        let mut html = format!(
            "<div class=\"wide\"><table class=\"matrix\"><caption>{}: right answer by row, given answer by column</caption><thead><tr><td class=\"none\"></td>",
            escape(label)
        );
        for name in self.labels {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(name));
        }
        if missing {
            html.push_str("<th scope=\"col\">no answer</th>");
        }
        html.push_str("</tr></thead><tbody>");
        for (name, row) in self.labels.iter().zip(&self.counts) {
            let total: usize = row.iter().sum();
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(name));
            for (column, number) in row.iter().enumerate() {
                let share = *number as f64 / total.max(1) as f64;
                let class = if share > 0.55 { " class=\"hi\"" } else { "" };
                if column < self.labels.len() {
                    let _ = write!(
                        html,
                        "<td{class} style=\"--v:{:.2}\">{number}</td>",
                        share * 0.92
                    );
                } else if missing {
                    let _ = write!(html, "<td class=\"none\">{number}</td>");
                }
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
        html
    }

    fn mistakes(&self, label: &str) -> String {
        let mut mistakes = Vec::new();
        for (gold, row) in self.counts.iter().enumerate() {
            for (picked, number) in row.iter().enumerate() {
                if picked != gold && *number > 0 {
                    mistakes.push((*number, gold, picked));
                }
            }
        }
        // The most frequent first; equals in the order of the options.
        mistakes.sort_by_key(|(number, gold, picked)| (usize::MAX - number, *gold, *picked));
        let name = |option: usize| {
            self.labels
                .get(option)
                .map_or("no answer".into(), |l| escape(l))
        };
        let rows: Vec<Vec<String>> = mistakes
            .iter()
            .take(MISTAKES)
            .map(|(number, gold, picked)| vec![name(*gold), name(*picked), number.to_string()])
            .collect();
        let (label, total) = (escape(label), mistakes.len());
        let title = format!(
            "<p class=\"note\">{label}: the most frequent of {total} kinds of mistakes</p>"
        );
        title + &table(&["right answer", "given answer", "#items"], &rows)
    }
}

/// Precision, recall and F1 of each class of a metric whose marks are true positives, false
/// positives and false negatives.
fn class_table(label: &str, score: &ScoreReport) -> String {
    let totals = score.marks.totals(0..score.marks.items.len());
    let ratio = |part: f64, whole: f64| match whole {
        0.0 => "–".to_owned(),
        _ => format!("{:.3}", part / whole),
    };
    let rows: Vec<Vec<String>> = score
        .marks
        .classes
        .iter()
        .zip(totals)
        .enumerate()
        .map(|(number, (name, [tp, fp, fn_]))| {
            let unnamed = || format!("class {}", number + 1);
            vec![
                name.as_deref().map_or_else(unnamed, escape),
                format!("{:.0}", tp + fn_),
                ratio(tp, tp + fp),
                ratio(tp, tp + fn_),
                ratio(2.0 * tp, 2.0 * tp + fp + fn_),
            ]
        })
        .collect();
    let title = format!("<p class=\"note\">{}</p>", escape(label));
    title
        + &table(
            &["class", "#right answers", "#precision", "#recall", "#F1"],
            &rows,
        )
}
