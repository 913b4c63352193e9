//! One task's settings side by side: without shots, with them, and after tuning.

use std::fmt::Write;

use super::file::{ModelReport, ReportFile, TaskReport};
use super::markdown::{add_model_cells, add_model_columns, markdown_text};
use super::rows::Row;
use super::table::{Line, aligned, value};

impl ReportFile {
    /// The report of the tasks that a model was asked both without shots and with them, with a
    /// column for each model and number of shots in place of one for each model; changes and their
    /// tests are from the first model without shots. `None` where there is no such task.
    pub(super) fn settings(&self) -> Option<ReportFile> {
        let mut settings: Vec<(usize, usize)> = Vec::new();
        for (number, model) in self.models.iter().enumerate() {
            let asked = model.tasks.iter().filter(|task| self.is_compared(task));
            settings.extend(asked.map(|task| (number, task.shots)));
        }
        settings.sort_unstable();
        settings.dedup();
        if settings.is_empty() {
            return None;
        }
        let models = settings.into_iter().map(|(number, shots)| {
            let model = &self.models[number];
            let of_setting = |task: &&TaskReport| task.shots == shots && self.is_compared(task);
            let tasks = model
                .tasks
                .iter()
                .filter(of_setting)
                .map(|task| TaskReport {
                    task: family(task).to_owned(),
                    ..task.clone()
                });
            ModelReport {
                label: label(&model.label, number, shots),
                tasks: tasks.collect(),
                perplexity: Vec::new(),
            }
        });
        let mut file = ReportFile {
            models: models.collect(),
            metrics: Default::default(),
            intervals: self.intervals,
        };
        file.complete();
        Some(file)
    }

    /// Whether the first model that was asked the task was asked it with shots and without.
    fn is_compared(&self, task: &TaskReport) -> bool {
        let asked = |with_shots: bool| {
            let tasks = self
                .models
                .first()
                .into_iter()
                .flat_map(|model| &model.tasks);
            tasks
                .filter(|other| family(other) == family(task))
                .any(|other| (other.shots > 0) == with_shots)
        };
        asked(true) && asked(false)
    }

    /// What [`Self::settings`] gave, for a terminal: scores with their intervals, those of the
    /// paper's scorer left to the other renderings.
    pub(super) fn settings_table(&self) -> String {
        let mut header = vec!["settings".to_owned()];
        header.extend(self.models.iter().map(|model| model.label.clone()));
        let mut lines = vec![Line::Cells(header)];
        for row in self.rows() {
            lines.push(Line::Words(format!("{} ({})", row.task.task, asked(row))));
            let corrected = |score: &&_| !super::ScoreReport::is_paper_compatible(score);
            for (index, score) in row.metrics().into_iter().filter(corrected).enumerate() {
                let mut cells = vec![format!("  {}", score.metric)];
                for task in row.by_model() {
                    let own = task.and_then(|task| task.score(&score.metric));
                    let mut cell = own.map_or("-".to_owned(), |own| value(own.value, own.interval));
                    let change = task.and_then(|task| task.change.as_ref());
                    if index == 0 && change.is_some_and(|change| change.is_significant()) {
                        cell.push('*');
                    }
                    cells.push(cell);
                }
                lines.push(Line::Cells(cells));
            }
        }
        aligned(&lines)
    }

    /// The settings as Markdown, where there are some: with the changes and their tests.
    pub(super) fn add_settings(&self, text: &mut String) {
        let Some(file) = self.settings() else {
            return;
        };
        text.push_str("## Settings\n\n| task | metric |");
        add_model_columns("|---|---|", &file.models, text);
        for row in file.rows() {
            add_rows(row, text);
        }
        text.push('\n');
    }
}

fn add_rows(row: Row<'_>, text: &mut String) {
    for (index, score) in row.metrics().into_iter().enumerate() {
        let task = match index {
            0 => markdown_text(&format!("{} ({})", row.task.task, asked(row))),
            _ => String::new(),
        };
        let paper = match score.is_paper_compatible() {
            true => " (paper-compatible)",
            false => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "| {task} | {}{paper} |", markdown_text(&score.metric));
        add_model_cells(row, index, &score.metric, text);
    }
}

/// `75 items, generate`
fn asked(row: Row<'_>) -> String {
    let mut items: Vec<usize> = row
        .by_model()
        .flatten()
        .map(|task| task.items.len())
        .collect();
    items.sort_unstable();
    items.dedup();
    let items: Vec<String> = items.iter().map(usize::to_string).collect();
    format!("{} items, {}", items.join(" or "), row.task.answering)
}

/// The task's name without the number of shots.
fn family(task: &TaskReport) -> &str {
    let shots = format!("@{}", task.shots);
    let name = &task.task;
    name.strip_suffix(&shots)
        .filter(|_| task.shots > 0)
        .unwrap_or(name)
}

/// The first model is what the others are tuned from or compared with: its settings go without its name.
fn label(model: &str, number: usize, shots: usize) -> String {
    let shots = match shots {
        0 => "zero-shot".to_owned(),
        n => format!("{n}-shot"),
    };
    match (number, shots.as_str()) {
        (0, _) => shots,
        (_, "zero-shot") => model.to_owned(),
        _ => format!("{model} {shots}"),
    }
}
