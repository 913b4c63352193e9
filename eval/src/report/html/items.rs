//! Single items: which of them came out otherwise than with the first model.

use std::fmt::Write;

use super::super::file::{ItemReport, ReportFile, TaskReport};
use super::{Section, escape, table};

/// How many answers of a task are shown.
const ANSWERS: usize = 6;
/// How many ids are listed; all are in the JSON.
const IDS: usize = 60;
/// How much of an answer is shown.
const CHARS: usize = 400;

/// One entry for each task and model whose answers differ from the first model's.
pub(super) fn section(file: &ReportFile) -> Option<Section> {
    let (first, others) = file.models.split_first()?;
    let mut body = String::new();
    for model in others {
        for task in &model.tasks {
            let (Some(change), Some(before)) = (&task.change, first.task(&task.task)) else {
                continue;
            };
            if change.better.is_empty() && change.worse.is_empty() {
                continue;
            }
            let _ = write!(
                body,
                "<details><summary>{}<span class=\"note\">{}: {} better, {} worse, of {}</span></summary>",
                escape(&task.task),
                escape(&model.label),
                change.better.len(),
                change.worse.len(),
                task.items.len()
            );
            if change.prompts_differ {
                body.push_str("<p class=\"note\">The two were asked in other words (shots or chat template).</p>");
            }
            for (name, list) in [("Better", &change.better), ("Worse", &change.worse)] {
                body.push_str(&ids(name, list));
            }
            body.push_str(&answers(before, task, [&first.label, &model.label]));
            body.push_str("</details>");
        }
    }
    (!body.is_empty()).then_some(Section {
        id: "items",
        title: "Items that differ",
        body,
    })
}

fn ids(name: &str, list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = list.iter().take(IDS).map(|id| escape(id)).collect();
    let more = match list.len().saturating_sub(IDS) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(
        "<p class=\"ids\"><b>{name}:</b> {}{more}</p>",
        shown.join(", ")
    )
}

/// The first few answers that differ, where their texts may be shown.
fn answers(before: &TaskReport, after: &TaskReport, labels: [&str; 2]) -> String {
    let mut rows = Vec::new();
    for item in &after.items {
        let Some(earlier) = before.items.iter().find(|earlier| earlier.id == item.id) else {
            continue;
        };
        let (Some(gold), true) = (&item.gold, earlier.score != item.score) else {
            continue;
        };
        rows.push(vec![
            format!("<span class=\"ids\">{}</span>", escape(&item.id)),
            quote(Some(gold)),
            quote(said(earlier)),
            quote(said(item)),
        ]);
        if rows.len() == ANSWERS {
            break;
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    table(&["item", "right answer", labels[0], labels[1]], &rows)
}

fn said(item: &ItemReport) -> Option<&String> {
    item.answer.as_ref().or(item.extracted.as_ref())
}

fn quote(text: Option<&String>) -> String {
    let Some(text) = text else {
        return "–".to_owned();
    };
    let mut shown: String = text.chars().take(CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("<blockquote>{}</blockquote>", escape(&shown))
}
