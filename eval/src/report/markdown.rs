//! The report as Markdown: tables that GitHub and pandoc read.

use std::fmt::Write;

use super::bert_score;
use super::file::{ModelReport, ReportFile, TaskReport};
use super::notes::FORGETTING;
use super::rows::Row;
use super::table::{percent, signed, value};

impl ReportFile {
    /// One table of all tasks but those that measure forgetting, one of those, one of perplexity,
    /// and one of what others have published.
    pub fn markdown(&self) -> String {
        let (forgetting, others): (Vec<_>, Vec<_>) = self
            .rows()
            .into_iter()
            .partition(|row| row.task.has_tag(FORGETTING));
        let mut text = String::new();
        for (title, rows) in [("Evaluation", others), ("Forgetting", forgetting)] {
            if !rows.is_empty() {
                self.add_section(title, &rows, &mut text);
            }
        }
        self.add_settings(&mut text);
        self.add_perplexity_table(&mut text);
        add_published(&self.rows(), &mut text);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Intervals: {:.0} %, {} bootstrap resamples, seed {}; those of changes are paired by item. p: McNemar's test where \
             the first metric is right or wrong, else the paired bootstrap; Holm's adjustment over the tasks.",
            100.0 * self.intervals.confidence,
            self.intervals.resamples,
            self.intervals.seed
        );
        text
    }

    fn add_section(&self, title: &str, rows: &[Row<'_>], text: &mut String) {
        let _ = write!(text, "## {title}\n\n| task | metric | items | shots |");
        add_model_columns("|---|---|---:|---:|", &self.models, text);
        for row in rows {
            self.add_rows(*row, text);
        }
        text.push('\n');
        for row in rows {
            for line in row.chose_checkpoint() {
                let (task, line) = (markdown_text(&row.task.task), markdown_text(&line));
                let _ = writeln!(text, "{task}: {line}\n");
            }
            if let Some(judging) = row.judging() {
                let (task, judging) = (markdown_text(&row.task.task), markdown_text(&judging));
                let _ = writeln!(text, "{task}: {judging}\n");
            }
            let lines = bert_score::lines(*row);
            if !lines.is_empty() {
                let task = markdown_text(&row.task.task);
                let lines = markdown_text(&lines.join(" ")).replace("  ", " ");
                let _ = writeln!(text, "{task}: {lines}\n");
            }
        }
    }

    fn add_rows(&self, row: Row<'_>, text: &mut String) {
        for (index, score) in row.metrics().into_iter().enumerate() {
            let task = row.task;
            let name = match score.is_paper_compatible() {
                true => format!("{} (paper-compatible)", score.metric),
                false => score.metric.clone(),
            };
            let (task, items, shots) = match index {
                0 => (
                    markdown_text(&task.task),
                    task.items.len().to_string(),
                    task.shots.to_string(),
                ),
                _ => Default::default(),
            };
            let _ = write!(
                text,
                "| {task} | {} | {items} | {shots} |",
                markdown_text(&name)
            );
            add_model_cells(row, index, &score.metric, text);
        }
        if row.generated() {
            add_share(row, "no answer", TaskReport::unextracted_share, text);
        }
        if row.refused() {
            let share = |task: &TaskReport| Some(task.unanswered_share());
            add_share(row, "unanswered", share, text);
        }
        if row.judged() {
            add_share(row, "judge failed", TaskReport::judge_failed_share, text);
        }
    }

    fn add_perplexity_table(&self, text: &mut String) {
        let names = self.perplexity_names();
        if names.is_empty() {
            return;
        }
        text.push_str("## Perplexity\n\n| set |");
        let mut rule = "\n|---|".to_owned();
        for model in &self.models {
            let _ = write!(text, " {} |", markdown_text(&model.label));
            rule.push_str("---:|");
        }
        text.push_str(&rule);
        text.push('\n');
        for name in names {
            let _ = write!(text, "| {} |", markdown_text(name));
            for model in &self.models {
                let own = model.perplexity_of(name);
                let shown = own.map_or("-".to_owned(), |own| format!("{:.3}", own.perplexity));
                let _ = write!(text, " {shown} |");
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

/// Ends a table's head: a column a model, and for all but the first its change and the p of that. `rule` is what has been
/// written of the line below the head.
pub(super) fn add_model_columns(rule: &str, models: &[ModelReport], text: &mut String) {
    let mut rule = rule.to_owned();
    for (index, model) in models.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, " {} |", markdown_text(&model.label));
        rule.push_str("---|");
        if index > 0 {
            text.push_str(" change | p |");
            rule.push_str("---|---:|");
        }
    }
    let _ = writeln!(text, "\n{rule}");
}

/// Ends a row under those columns: a metric's scores. p, of the task, stands in the row of its first metric (`index` 0).
pub(super) fn add_model_cells(row: Row<'_>, index: usize, metric: &str, text: &mut String) {
    for (column, result) in row.by_model().enumerate() {
        let own = result.and_then(|task| task.score(metric));
        let shown = own.map_or("-".to_owned(), |own| value(own.value, own.interval));
        let _ = write!(text, " {shown} |");
        if column > 0 {
            let change = own.and_then(|own| own.change);
            let shown = change.map_or("-".into(), |c| signed(c.value, c.interval));
            let p = result.filter(|_| index == 0).and_then(p_value);
            let _ = write!(text, " {shown} | {} |", p.unwrap_or_default());
        }
    }
    text.push('\n');
}

/// A share of each model's items.
fn add_share(
    row: Row<'_>,
    name: &str,
    share: impl Fn(&TaskReport) -> Option<f64>,
    text: &mut String,
) {
    let _ = write!(text, "|  | {name} |  |  |");
    for (column, result) in row.by_model().enumerate() {
        let share = result.and_then(&share);
        let _ = write!(text, " {} |", share.map_or("-".to_owned(), percent));
        if column > 0 {
            text.push_str("  |  |");
        }
    }
    text.push('\n');
}

fn add_published(rows: &[Row<'_>], text: &mut String) {
    let published = || {
        rows.iter()
            .flat_map(|row| row.task.published.iter().map(|score| (row.task, score)))
    };
    if published().next().is_none() {
        return;
    }
    text.push_str("## Published by others, not measured here\n\n| task | metric | model | score | source |\n|---|---|---|---:|---|\n");
    for (task, score) in published() {
        let (task, metric) = (markdown_text(&task.task), markdown_text(&score.metric));
        let (model, source) = (markdown_text(&score.model), markdown_text(&score.source));
        let _ = writeln!(
            text,
            "| {task} | {metric} | {model} | {:.3} | {source} |",
            score.value
        );
    }
    text.push('\n');
}

/// `0.003 *`, the star where it is below 5 %.
fn p_value(task: &TaskReport) -> Option<String> {
    let change = task.change.as_ref()?;
    let star = if change.is_significant() { " *" } else { "" };
    Some(format!("{}{star}", small(change.p_holm?)))
}

/// A p-value with three digits.
pub(super) fn small(p: f64) -> String {
    match p {
        p if p < 0.001 => "< 0.001".to_owned(),
        p => format!("{p:.3}"),
    }
}

/// A text that can't break out of its cell, nor begin markup of its own.
pub fn markdown_text(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '[' | ']' => {
                safe.push('\\');
                safe.push(c);
            }
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
