//! A run in a few figures.

use std::time::Duration;

use eval::report::html::{count, escape, headline, tiles};
use serde_json::{Value, json};

use super::RunFiles;
use super::data::access_badge;
use super::training;
use crate::terminal::{bytes, duration};

/// What a run came to: (what it is, value).
pub fn figures(run: &RunFiles) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(data) = run.stage("data") {
        let total = |name: &str| data.detail_count(&format!("/total/{name}")).map(count);
        rows.extend(total("train").map(|value| ("training samples", value)));
        rows.extend(total("tokens").map(|value| ("tokens", value)));
    }
    if let Some(last) = run.steps.last() {
        rows.push(("steps", count(last.step)));
    }
    if let Some(trained) = run.trained() {
        let parameters = trained.detail_count("/trained_parameters");
        rows.extend(parameters.map(|value| ("trained parameters", count(value))));
        rows.extend(
            trained
                .detail("/loss")
                .map(|value| ("last loss", format!("{value:.4}"))),
        );
        rows.extend(
            trained
                .detail("/eval_loss")
                .map(|value| ("held-out loss", format!("{value:.4}"))),
        );
        rows.extend(training::best_step(trained).map(|value| ("best step", value)));
        let speed = trained.measured("/facts/tokens_per_sec");
        rows.extend(speed.map(|value| ("tokens/s", count(value as u64))));
        let peak = trained.measured("/peak_memory_bytes");
        rows.extend(peak.map(|value| ("peak memory", bytes(value as u64))));
    }
    let secs: f64 = run
        .stages
        .iter()
        .filter_map(|stage| stage.measured("/secs"))
        .sum();
    if (0.001..1e12).contains(&secs) {
        rows.push((
            "time of all stages",
            duration(Duration::from_secs_f64(secs)),
        ));
    }
    rows
}

/// What stands under the title of a run's page.
pub fn lead(run: &RunFiles) -> String {
    let mut words = String::new();
    if let Some(recipe) = run.recipe() {
        words.push_str(&format!("Recipe {}. ", escape(&recipe)));
    }
    let access = run.stages.iter().map(|stage| stage.manifest.access);
    let access = access_badge(ledger::AccessClass::strictest(access));
    let stages: Vec<&str> = run.stages.iter().map(|stage| stage.folder).collect();
    let stages = match stages.is_empty() {
        true => "none yet".to_owned(),
        false => stages.join(", "),
    };
    let evaluated = run.report.as_ref().map(headline).unwrap_or_default();
    let mut shown: Vec<(String, &str)> = evaluated;
    // Times and memory are told in the parts that they belong to.
    let kept = [
        "training samples",
        "tokens",
        "steps",
        "trained parameters",
        "held-out loss",
        "last loss",
    ];
    let found = figures(run)
        .into_iter()
        .filter(|(name, _)| kept.contains(name));
    shown.extend(found.map(|(name, value)| (escape(&value), name)));
    format!(
        "<p>{words}Stages: {stages}. Terms: {access}</p>{}",
        tiles(shown)
    )
}

/// For a terminal: the figures and the evaluation.
pub fn run_text(run: &RunFiles) -> String {
    let mut text = format!("{}\n", run.name);
    for (name, value) in figures(run) {
        text.push_str(&format!("  {name:<20}{value}\n"));
    }
    text.push('\n');
    match &run.report {
        Some(report) => text.push_str(&report.table()),
        None => text.push_str("not evaluated\n"),
    }
    // A name may hold what a terminal would obey.
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect()
}

/// The same as Markdown.
pub fn run_markdown(run: &RunFiles) -> String {
    let mut text = format!("# {}\n\n", eval::report::markdown_text(&run.name));
    for (name, value) in figures(run) {
        text.push_str(&format!("- {name}: {value}\n"));
    }
    text.push('\n');
    match &run.report {
        Some(report) => text.push_str(&report.markdown()),
        None => text.push_str("Not evaluated.\n"),
    }
    text
}

/// The same for programs: every stage's details, and the report with every item.
pub fn run_json(run: &RunFiles, reveal: bool) -> Value {
    let stages = run.stages.iter().map(|stage| {
        let manifest = &stage.manifest;
        let facts = json!({
            "access": manifest.access, "program_version": manifest.program_version,
            "counts": manifest.counts, "details": manifest.details, "measured": stage.measured,
        });
        (stage.folder.to_owned(), facts)
    });
    let report = run.report.clone();
    let report = report.map(|report| {
        if reveal {
            report
        } else {
            report.without_texts()
        }
    });
    json!({
        "run": run.name,
        "stages": stages.collect::<serde_json::Map<_, _>>(),
        "steps": run.steps,
        "report": report.map(|report| report.value()),
    })
}
