//! What the run was trained on.

use std::fmt::Write;

use eval::report::html::chart::bars;
use eval::report::html::{Section, count, escape, facts, table};
use ledger::AccessClass;
use serde_json::Value;

use super::RunFiles;

/// More sources than this are shown as one bar.
const BARS: usize = 24;

/// Sources, samples, tokens, terms.
pub fn section(run: &RunFiles) -> Section {
    let (id, title) = ("data", "Data");
    let Some(stage) = run.stage("data") else {
        return Section::empty(id, title, "Not run.");
    };
    let total = |name: &str| stage.detail_count(&format!("/total/{name}"));
    let mut figures = Vec::new();
    for (name, key) in [
        ("samples to train on", "train"),
        ("held out", "validation"),
        ("tokens", "tokens"),
        ("of which teach", "target_tokens"),
    ] {
        figures.extend(total(key).map(|number| (name, count(number))));
    }
    figures.extend(
        stage
            .detail_count("/packs")
            .map(|packs| ("packs", count(packs))),
    );
    figures.push(("strictest terms", access_badge(stage.manifest.access)));
    let sources = stage.manifest.details["sources"].as_array();
    let sources = sources.map(Vec::as_slice).unwrap_or_default();
    let mut body = facts(figures);
    body.push_str("<h3>Samples by source</h3>");
    body.push_str(&source_bars(sources));
    body.push_str(&source_table(sources));
    body.push_str(&left_out(sources, &stage.manifest.details));
    Section { id, title, body }
}

/// An access class, marked where it is not open.
pub fn access_badge(access: AccessClass) -> String {
    let class = if access == AccessClass::Open {
        "badge"
    } else {
        "badge strict"
    };
    format!("<span class=\"{class}\">{}</span>", access.name())
}

fn number(source: &Value, key: &str) -> u64 {
    source[key].as_u64().unwrap_or(0)
}

fn word<'a>(source: &'a Value, key: &str) -> &'a str {
    source[key].as_str().unwrap_or_default()
}

fn samples(source: &Value) -> u64 {
    number(source, "train").saturating_add(number(source, "validation"))
}

fn source_bars(sources: &[Value]) -> String {
    let total: u64 = sources.iter().map(samples).fold(0, u64::saturating_add);
    let mut largest: Vec<&Value> = sources.iter().collect();
    largest.sort_by_key(|source| (u64::MAX - samples(source), word(source, "name").to_owned()));
    let rest = largest.split_off(largest.len().min(BARS));
    let widest = largest.first().map_or(0, |source| samples(source)).max(1) as f64;
    let bar = |name: String, samples: u64, other: bool| {
        let share = 100.0 * samples as f64 / total.max(1) as f64;
        let value = format!("{} ({share:.1} %)", count(samples));
        (name, samples as f64 / widest, value, other)
    };
    let mut rows: Vec<_> = largest
        .iter()
        .map(|source| bar(word(source, "name").to_owned(), samples(source), false))
        .collect();
    if !rest.is_empty() {
        let samples = rest
            .iter()
            .map(|source| samples(source))
            .fold(0, u64::saturating_add);
        rows.push(bar(
            format!("{} smaller sources", rest.len()),
            samples,
            true,
        ));
    }
    bars(&rows)
}

fn source_table(sources: &[Value]) -> String {
    let head = [
        "source",
        "kind",
        "#read",
        "#left out",
        "#to train on",
        "#held out",
        "#tokens",
        "#teach",
        "access",
        "licence",
    ];
    let rows: Vec<Vec<String>> = sources
        .iter()
        .map(|source| {
            let dropped = source["dropped"].as_object().into_iter().flatten();
            let dropped: u64 = dropped
                .filter_map(|(_, n)| n.as_u64())
                .fold(0, u64::saturating_add);
            let access: AccessClass =
                serde_json::from_value(source["access"].clone()).unwrap_or_default();
            let mut name = escape(word(source, "name"));
            if source["missing"] == true {
                name.push_str(" <span class=\"badge strict\">missing</span>");
            }
            vec![
                name,
                escape(word(source, "kind")),
                count(number(source, "read")),
                count(dropped),
                count(number(source, "train")),
                count(number(source, "validation")),
                count(number(source, "tokens")),
                count(number(source, "target_tokens")),
                access_badge(access),
                escape(word(source, "licence")),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// Why records were left out, over all sources, and what evaluation items they held.
fn left_out(sources: &[Value], details: &Value) -> String {
    let mut reasons = std::collections::BTreeMap::<&str, u64>::new();
    for source in sources {
        for (reason, number) in source["dropped"].as_object().into_iter().flatten() {
            let sum = reasons.entry(reason).or_default();
            *sum = sum.saturating_add(number.as_u64().unwrap_or(0));
        }
    }
    let mut html = String::new();
    if !reasons.is_empty() {
        let rows: Vec<Vec<String>> = reasons
            .iter()
            .map(|(reason, number)| vec![escape(reason), count(*number)])
            .collect();
        let _ = write!(
            html,
            "<h3>Left out</h3>{}",
            table(&["reason", "#records"], &rows)
        );
    }
    let compared = details["decontaminated"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = compared
        .map(|(task, number)| vec![escape(task), escape(&number.to_string())])
        .collect();
    if !rows.is_empty() {
        let _ = write!(
            html,
            "<h3>Compared with evaluation tasks</h3>{}",
            table(&["task", "#items"], &rows)
        );
    }
    html
}
