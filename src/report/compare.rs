//! Runs beside one another.

use std::collections::BTreeMap;

use anyhow::Result;
use eval::ReportFile;
use eval::report::html::chart::LineChart;
use eval::report::html::{Page, Section, escape, evaluation_sections, table};
use eval::report::{RunReport, compare_runs, markdown_text};
use serde_json::{Value, json};

use super::settings::{self, Difference, shortened};
use super::{RunFiles, run_json, summary, training};

/// Several runs, and what can be said of them together.
pub struct Comparison {
    runs: Vec<RunFiles>,
    /// What each run's last model scored, with changes from the first run's; `None` where they share no score and can
    /// be compared by their training only.
    report: Option<ReportFile>,
    differences: Vec<Difference>,
}

impl Comparison {
    /// Compares runs. Fails where they share neither a score nor a training.
    pub fn new(mut runs: Vec<RunFiles>) -> Result<Self> {
        name_apart(&mut runs);
        let reports: Vec<RunReport> = runs
            .iter()
            .filter_map(|run| {
                let (name, file) = (run.name.clone(), run.report.clone()?);
                Some(RunReport { name, file })
            })
            .collect();
        let names = || runs.iter().map(|run| run.name.clone()).collect();
        let trained = runs.iter().filter(|run| !run.steps.is_empty()).count();
        let report = match compare_runs(&reports) {
            Ok(report) => Some(report),
            Err(_) if trained > 1 => None,
            Err(_) => return Err(eval::Error::NothingShared { runs: names() }.into()),
        };
        let differences = settings::differences(&runs);
        Ok(Self {
            runs,
            report,
            differences,
        })
    }

    /// The page.
    pub fn page(&self, reveal: bool) -> Page {
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        let mut sections = vec![self.figures_section()];
        match &self.report {
            Some(report) => sections.extend(evaluation_sections(report, reveal)),
            None => sections.push(Section::empty(
                "evaluation",
                "Evaluation",
                "These runs have no task and metric in common.",
            )),
        }
        sections.push(self.training_section());
        sections.push(self.settings_section());
        Page {
            title: names.join(" · "),
            lead: format!(
                "<p>{} runs; changes are from {}.</p>",
                names.len(),
                escape(names[0])
            ),
            sections,
        }
    }

    /// Rows of figures: what it is, and each run's value.
    fn figures(&self) -> Vec<(&'static str, Vec<String>)> {
        let own: Vec<Vec<(&str, String)>> = self.runs.iter().map(summary::figures).collect();
        let mut names: Vec<&'static str> = Vec::new();
        for (name, _) in own.iter().flatten() {
            if !names.contains(name) {
                names.push(name);
            }
        }
        let value = |figures: &Vec<(&str, String)>, name: &str| {
            let found = figures.iter().find(|figure| figure.0 == name);
            found.map_or("–".to_owned(), |figure| figure.1.clone())
        };
        names
            .into_iter()
            .map(|name| {
                (
                    name,
                    own.iter().map(|figures| value(figures, name)).collect(),
                )
            })
            .collect()
    }

    fn head(&self, first: &str, numbers: bool) -> Vec<String> {
        let sign = if numbers { "#" } else { "" };
        let runs = self.runs.iter().map(|run| format!("{sign}{}", run.name));
        std::iter::once(first.to_owned()).chain(runs).collect()
    }

    fn figures_section(&self) -> Section {
        let head = self.head("", true);
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> = self
            .figures()
            .into_iter()
            .map(|(name, values)| {
                let values = values.iter().map(|value| escape(value));
                std::iter::once(escape(name)).chain(values).collect()
            })
            .collect();
        Section {
            id: "runs",
            title: "Runs",
            body: table(&head, &rows),
        }
    }

    fn training_section(&self) -> Section {
        let (id, title) = ("training", "Training");
        let runs = self.runs.iter().enumerate();
        let series = runs.filter(|(_, run)| !run.steps.is_empty());
        let chart = LineChart {
            title: "Loss",
            unit: "nats a target token, mean of neighbouring steps",
            x: "optimizer step",
            series: series
                .flat_map(|(index, run)| training::overlay(run, index))
                .collect(),
            from_zero: false,
            full: true,
        };
        match chart.html() {
            Some(body) => Section {
                id,
                title,
                body: format!("<div class=\"charts\">{body}</div>"),
            },
            None => Section::empty(id, title, "Not run."),
        }
    }

    fn settings_section(&self) -> Section {
        let (id, title) = ("settings", "Settings that differ");
        if self.differences.is_empty() {
            return Section::empty(id, title, "None.");
        }
        let head = self.head("setting", false);
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let cell = |value: &Option<String>| match value {
            Some(value) => format!("<code>{}</code>", escape(&shortened(value, 200))),
            None => "–".to_owned(),
        };
        let rows: Vec<Vec<String>> = self
            .differences
            .iter()
            .map(|(key, values)| {
                let key = format!("<code>{}</code>", escape(key));
                std::iter::once(key)
                    .chain(values.iter().map(cell))
                    .collect()
            })
            .collect();
        Section {
            id,
            title,
            body: table(&head, &rows),
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut rows = vec![self.head("", false)];
        let figures = self.figures().into_iter();
        rows.extend(
            figures.map(|(name, values)| std::iter::once(name.to_owned()).chain(values).collect()),
        );
        let mut text = crate::terminal::table(&rows);
        if let Some(report) = &self.report {
            text.push('\n');
            text.push_str(&report.table());
        }
        if !self.differences.is_empty() {
            text.push_str("\nsettings that differ\n");
            let rows: Vec<Vec<String>> = self
                .differences
                .iter()
                .map(|(key, values)| {
                    let value = |value: &Option<String>| {
                        value.as_deref().map_or("-".into(), |v| shortened(v, 24))
                    };
                    std::iter::once(shortened(key, 40))
                        .chain(values.iter().map(value))
                        .collect()
                })
                .collect();
            text.push_str(&crate::terminal::table(&rows));
        }
        // A name may hold what a terminal would obey.
        text.chars()
            .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
            .collect()
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let names: Vec<String> = self
            .runs
            .iter()
            .map(|run| markdown_text(&run.name))
            .collect();
        let row =
            |first: &str, values: Vec<String>| format!("| {first} | {} |\n", values.join(" | "));
        let rule = format!("|---|{}\n", "---:|".repeat(names.len()));
        let mut text = format!("# {}\n\n{}{rule}", names.join(", "), row("", names.clone()));
        for (name, values) in self.figures() {
            text.push_str(&row(name, values));
        }
        text.push('\n');
        if let Some(report) = &self.report {
            text.push_str(&report.markdown());
        }
        if !self.differences.is_empty() {
            text.push_str(&format!(
                "\n## Settings that differ\n\n{}{rule}",
                row("setting", names)
            ));
            for (key, values) in &self.differences {
                let values = values.iter().map(|value| {
                    value
                        .as_deref()
                        .map_or("–".into(), |v| markdown_text(&shortened(v, 80)))
                });
                text.push_str(&row(&markdown_text(key), values.collect()));
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self, reveal: bool) -> Value {
        let report = self.report.clone();
        let report = report.map(|report| {
            if reveal {
                report
            } else {
                report.without_texts()
            }
        });
        let differences: BTreeMap<&str, &Vec<Option<String>>> = self
            .differences
            .iter()
            .map(|(key, values)| (key.as_str(), values))
            .collect();
        json!({
            "runs": self.runs.iter().map(|run| run_json(run, reveal)).collect::<Vec<_>>(),
            "comparison": report.map(|report| report.value()),
            "settings_that_differ": differences,
        })
    }
}

/// Gives runs of one name their folders' paths as names, and numbers those that are still one.
fn name_apart(runs: &mut [RunFiles]) {
    let twice = |runs: &[RunFiles], at: usize| {
        runs.iter().filter(|run| run.name == runs[at].name).count() > 1
    };
    let same: Vec<bool> = (0..runs.len()).map(|at| twice(runs, at)).collect();
    for (run, same) in runs.iter_mut().zip(same) {
        if same {
            run.name = run.path.display().to_string();
        }
    }
    for at in 0..runs.len() {
        let earlier = runs[..at]
            .iter()
            .filter(|run| run.path == runs[at].path)
            .count();
        if earlier > 0 {
            runs[at].name = format!("{} ({})", runs[at].path.display(), earlier + 1);
        }
    }
}
