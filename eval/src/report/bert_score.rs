//! What a report says of a task's BERTScore beside its values: how it was computed, or why it was not.

use super::file::{ModelReport, TaskReport};
use super::rows::Row;
use crate::metrics::bert_score::BertScoreNote;
use crate::metrics::{MetricName, Needs};

/// Lines of plain text; none where the task has no such metric.
pub(super) fn lines(row: Row<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut missing: Vec<&str> = Vec::new();
    for name in row.by_model().flatten().flat_map(|task| &task.not_computed) {
        if !missing.contains(&name.as_str()) {
            missing.push(name);
        }
    }
    if let Some((first, others)) = missing.split_first() {
        let others: String = others.iter().map(|name| format!(", {name}")).collect();
        lines.push(format!("{first}{others}:"));
        lines.push("  not computed: no [eval.bert_score] model".to_owned());
    }
    let noted: Vec<(&ModelReport, &TaskReport, &BertScoreNote)> = row
        .results
        .iter()
        .filter_map(|model| {
            let task = model.task(&row.task.task)?;
            Some((model, task, task.bert_score.as_ref()?))
        })
        .collect();
    let Some((_, _, first)) = noted.first() else {
        return lines;
    };
    if noted.iter().all(|(_, _, note)| same_measure(note, first)) {
        lines.push(format!("BERTScore by {}", first.signature));
    } else {
        lines.push("BERTScore by different encoders or settings, not to be compared:".to_owned());
        for (model, _, note) in &noted {
            let sha256: String = note.encoder_sha256.chars().take(12).collect();
            let (label, signature) = (&model.label, &note.signature);
            let rescaled = note.baseline.map_or(String::new(), |by| {
                format!(", rescaled by {} {} {}", by.precision, by.recall, by.f1)
            });
            lines.push(format!(
                "  {label}: {signature}, encoder {sha256}{rescaled}"
            ));
        }
    }
    for (model, task, note) in &noted {
        if note.cut_gold + note.cut_answers > 0 {
            lines.push(format!(
                "  {}: {} answers and {} gold texts of {} cut to {} tokens",
                model.label,
                note.cut_answers,
                note.cut_gold,
                task.items.len(),
                note.max_tokens
            ));
        }
    }
    lines
}

impl TaskReport {
    /// Whether the two have a score of embeddings under this metric, and not of the same ones: another
    /// encoder, another layer, other frequencies or another baseline.
    pub(super) fn is_embedded_otherwise(&self, other: &TaskReport, metric: &str) -> bool {
        let embedded = MetricName::find(metric);
        if embedded.is_none_or(|metric| metric.needs != Needs::Embeddings) {
            return false;
        }
        match (&self.bert_score, &other.bert_score) {
            (Some(own), Some(other)) => !same_measure(own, other),
            _ => true,
        }
    }
}

fn same_measure(one: &BertScoreNote, other: &BertScoreNote) -> bool {
    one.signature == other.signature
        && one.encoder_sha256 == other.encoder_sha256
        && one.baseline == other.baseline
}
