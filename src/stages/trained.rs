//! What a training says of itself: to the manifest, to its folder, and to people.

use std::collections::BTreeMap;
use std::path::Path;

use adapters::Parameters;
use anyhow::Result;
use finetune::TrainOutcome;
use ledger::files::write_atomic;

use super::done;
use super::train::{Prepared, TOO_LONG_FILE};
use crate::run::Clock;
use crate::terminal::count;

pub(super) fn write_too_long(folder: &Path, prepared: &Prepared) -> Result<()> {
    let all = prepared
        .train
        .too_long
        .iter()
        .chain(&prepared.validation.too_long);
    let text: String = all.map(|sample| format!("{sample}\n")).collect();
    Ok(write_atomic(&folder.join(TOO_LONG_FILE), text.as_bytes())?)
}

pub(super) fn counts(prepared: &Prepared, outcome: &TrainOutcome) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([("skipped_steps".to_owned(), outcome.skipped_steps)]);
    for (name, set) in [
        ("train", &prepared.train),
        ("validation", &prepared.validation),
    ] {
        let mut add = |what: &str, number| counts.insert(format!("{name}.{what}"), number);
        add("samples", set.samples.len() as u64);
        add("tokens", set.tokens());
        add("target_tokens", set.target_tokens());
        add("dropped_too_long", set.dropped as u64);
        add("truncated", set.truncated as u64);
    }
    counts
}

pub(super) fn elements(parameters: &Parameters) -> u64 {
    parameters
        .0
        .iter()
        .map(|parameter| parameter.value.elem_count() as u64)
        .sum()
}

pub(super) fn summary(outcome: &TrainOutcome, clock: &Clock) {
    let mut what = format!("{} steps", count(outcome.total_steps));
    if outcome.resumed_from > 0 {
        what.push_str(&format!(" (from step {} on)", count(outcome.resumed_from)));
    }
    if outcome.skipped_steps > 0 {
        let skipped = count(outcome.skipped_steps);
        what.push_str(&format!(", {skipped} of them left out as not finite"));
    }
    if let Some(best) = &outcome.best {
        what.push_str(&format!(", the weights of step {}", count(best.step)));
    }
    if let Some(loss) = outcome.final_loss {
        what.push_str(&format!(", loss {loss:.3}"));
    }
    match (outcome.eval_loss_before, outcome.eval_loss) {
        (Some(before), Some(after)) => {
            what.push_str(&format!(", held-out loss {before:.3} to {after:.3}"))
        }
        (None, Some(after)) => what.push_str(&format!(", held-out loss {after:.3}")),
        _ => {}
    }
    for (name, score) in super::watch::shown_scores(&outcome.scores) {
        what.push_str(&format!(", {name} {score:.3}"));
    }
    let speed = outcome.tokens as f64 / outcome.step_secs;
    if speed.is_finite() {
        what.push_str(&format!(", {} tokens/s", count(speed as u64)));
    }
    done("train", &format!("{what}, in {}", clock.shown()));
}
