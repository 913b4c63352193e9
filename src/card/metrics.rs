//! A report's numbers as a card's table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::text::{plain, score};

/// Values by metric and by label.
pub(super) type MetricRows<'a> = BTreeMap<&'a str, BTreeMap<&'a str, f64>>;

/// A report's metrics, `LABEL.TASK.METRIC`.
pub(super) fn metric_rows(metrics: Option<&serde_json::Map<String, Value>>) -> MetricRows<'_> {
    let mut rows = MetricRows::new();
    for (name, value) in metrics.into_iter().flatten() {
        let Some(((label, metric), value)) = name.split_once('.').zip(value.as_f64()) else {
            continue;
        };
        rows.entry(metric).or_default().insert(label, value);
    }
    rows
}

/// Metrics as a table: the columns that are known first, in their order.
pub(super) fn metric_table(text: &mut String, rows: &MetricRows<'_>, known: &[&str]) {
    let labels: BTreeSet<&str> = rows.values().flat_map(|row| row.keys().copied()).collect();
    let ordered = known.iter().copied().filter(|label| labels.contains(label));
    let others = labels
        .iter()
        .copied()
        .filter(|label| !known.contains(label));
    let columns: Vec<&str> = ordered.chain(others).collect();
    let _ = writeln!(text, "| metric | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(columns.len()));
    for (metric, row) in rows {
        let _ = write!(text, "| {} |", plain(metric));
        for column in &columns {
            match row.get(column) {
                Some(value) => {
                    let _ = write!(text, " {} |", score(*value));
                }
                None => text.push_str("  |"),
            }
        }
        text.push('\n');
    }
}
