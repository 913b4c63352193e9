//! What came out: is the merged model its base plus its adapter, and what did it take?

use std::collections::BTreeMap;

use eval::report::html::chart::bars;
use eval::report::html::{Section, count, escape, facts, table};
use serde_json::Value;

use super::RunFiles;
use crate::terminal::bytes;

/// Proof of the merge: tensors, rounding, logits.
pub fn merge_section(run: &RunFiles) -> Section {
    let (id, title) = ("merge", "Proof of merge");
    let Some(stage) = run.stage("merged") else {
        return Section::empty(id, title, "Not run.");
    };
    let details = &stage.manifest.details;
    let Some(proof) = details.get("proof").filter(|proof| proof.is_object()) else {
        return Section::empty(id, title, "Merged, without a proof: merge.verify is off.");
    };
    let problems: Vec<&str> = proof["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem.as_str())
        .collect();
    let mut body = match problems.is_empty() {
        true => "<p><b class=\"good\">Proven:</b> the merged weights are the base plus the adapter, tensor by tensor.</p>".to_owned(),
        false => {
            let items: String = problems.iter().map(|p| format!("<li>{}</li>", escape(p))).collect();
            format!("<p><b class=\"bad\">Not proven:</b></p><ul>{items}</ul>")
        }
    };
    let mut rows = Vec::new();
    let mut number = |name, pointer: &str, shown: fn(f64) -> String| {
        rows.extend(stage.detail(pointer).map(|value| (name, shown(value))));
    };
    let whole = |value: f64| count(value as u64);
    number("tensors that the adapter changes", "/proof/targeted", whole);
    number(
        "tensors that are the base’s, bit by bit",
        "/proof/untouched",
        whole,
    );
    number("size", "/bytes", |value| bytes(value as u64));
    number("largest deviation", "/proof/max_steps", |v| {
        format!("{v:.3} rounding steps")
    });
    number(
        "change relative to the weights",
        "/proof/relative_change",
        |v| format!("{v:.2e}"),
    );
    number(
        "share of the change that survives rounding",
        "/proof/surviving",
        |v| format!("{v:.4}"),
    );
    number(
        "largest difference of a logit",
        "/logits/max_difference",
        |v| format!("{v:.1e}"),
    );
    number("allowed", "/logits/tolerance", |v| format!("{v:.1e}"));
    number("largest logit", "/logits/largest_logit", |v| {
        format!("{v:.1}")
    });
    number("same first choice", "/logits/top1_agreement", |v| {
        format!("{:.1} %", 100.0 * v)
    });
    number("positions compared", "/logits/positions", whole);
    body.push_str(&facts(rows));
    body.push_str(&validation(details));
    Section { id, title, body }
}

/// The look at a few items after the merge: base against merged.
fn validation(details: &Value) -> String {
    let Some(look) = details.get("validation") else {
        return String::new();
    };
    let metrics = look["metrics"].as_object().into_iter().flatten();
    let mut values = BTreeMap::<&str, [Option<f64>; 2]>::new();
    for (name, value) in metrics {
        let Some((label, metric)) = name.split_once('.') else {
            continue;
        };
        match label {
            _ if metric.ends_with(".items") => {}
            "base" => values.entry(metric).or_default()[0] = value.as_f64(),
            "merged" => values.entry(metric).or_default()[1] = value.as_f64(),
            _ => {}
        }
    }
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    let rows: Vec<Vec<String>> = values
        .iter()
        .map(|(metric, [base, merged])| vec![escape(metric), shown(*base), shown(*merged)])
        .collect();
    let mut html = format!(
        "<h3>Quick validation</h3><p class=\"note\">A look after the merge, at few items.</p>{}",
        table(&["metric", "#base", "#merged"], &rows)
    );
    let samples = look["samples"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = samples
        .map(|sample| {
            let text = |key: &str| escape(sample[key].as_str().unwrap_or_default());
            vec![text("id"), text("base"), text("merged")]
        })
        .collect();
    if !rows.is_empty() {
        html.push_str(&table(&["sample answer", "base", "merged"], &rows));
    }
    html
}

/// The row of what the system gave, answers included.
const GROWTH: &str = "growth of the process";

/// What training was planned to take, and what it took.
pub fn memory_section(run: &RunFiles) -> Section {
    let (id, title) = ("memory", "Memory of training");
    let measured = |name: &str| run.trained()?.measured(&format!("/facts/memory/{name}"));
    let peak = run
        .trained()
        .and_then(|stage| stage.measured("/peak_memory_bytes"));
    let Some(planned) = measured("planned") else {
        return Section::empty(id, title, "Not run, or not measured.");
    };
    let answers = measured("answers").filter(|bytes| *bytes > 0.0);
    let found: Vec<(&str, f64, bool)> = [
        ("predicted", Some(planned), true),
        ("predicted for answers, beside it", answers, true),
        ("in use at once", measured("in_use"), false),
        ("touched", measured("touched"), false),
        (GROWTH, measured("resident_growth"), false),
        ("whole process, with weights and data", peak, false),
    ]
    .into_iter()
    .filter_map(|(name, value, other)| Some((name, value?, other)))
    .collect();
    let largest = found.iter().map(|row| row.1).fold(1.0, f64::max);
    let rows: Vec<_> = found
        .iter()
        .map(|(name, value, other)| {
            // Answers lie outside of what the arena holds.
            let planned = match *name == GROWTH {
                true => planned + answers.unwrap_or(0.0),
                false => planned,
            };
            let ratio = match *other || planned == 0.0 || *name == found[found.len() - 1].0 {
                true => String::new(),
                false => format!(" ({:.0} %)", 100.0 * value / planned),
            };
            let shown = format!("{}{ratio}", bytes(*value as u64));
            ((*name).to_owned(), value / largest, shown, *other)
        })
        .collect();
    let note = "<p class=\"note\">Predicted is what a step takes and the optimizer keeps; percentages are of it.</p>";
    Section {
        id,
        title,
        body: format!("{}{note}", bars(&rows)),
    }
}
