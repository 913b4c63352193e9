//! `medtune run`, and `build`, `train` and `eval`, which are `run` up to a stage.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::StageArgs;
use crate::failure::Exit;
use crate::plan::{Plan, Stage};
use crate::report::{PAGE_FILE, write_page};
use crate::stages::{self, Outcome, Verdict, verdicts};
use crate::terminal::{note, print, print_json};

pub fn run(args: &StageArgs, until: Option<Stage>, json: bool) -> Result<Exit> {
    let plan = Plan::of(args)?;
    if let Some(until) = until {
        plan.require(until)?;
    }
    run_plan(&plan, until, args.fresh, json)
}

/// Runs the stages, prints what was measured, and holds it against what was expected.
pub fn run_plan(plan: &Plan, until: Option<Stage>, fresh: bool, json: bool) -> Result<Exit> {
    let outcome = stages::run(plan, until, fresh)?;
    // What was run stands without its page.
    if let Err(error) = write_page(&plan.out) {
        note(&format!("warning: no {PAGE_FILE}: {error:#}"));
    }
    let exit = |verdicts: &[Verdict]| match verdicts.iter().all(|verdict| verdict.met) {
        _ if outcome.stopped => Exit::Stopped,
        true => Exit::Done,
        false => Exit::Unmet,
    };
    let verdicts = match outcome.stopped {
        true => Vec::new(),
        false => verdicts(&plan.recipe().expect, &outcome.metrics, until),
    };
    if json {
        print_json(&report(plan, &outcome, &verdicts))?;
        return Ok(exit(&verdicts));
    }
    if let Some(table) = &outcome.table {
        print(&format!("\n{}\n", table.trim_end()))?;
    }
    if !verdicts.is_empty() {
        let lines: String = verdicts
            .iter()
            .map(|verdict| verdict.line() + "\n")
            .collect();
        print(&format!("\n{lines}"))?;
    }
    note(&format!("everything is in {}", plan.out.display()));
    Ok(exit(&verdicts))
}

fn report(plan: &Plan, outcome: &Outcome, verdicts: &[Verdict]) -> Value {
    let stages = outcome.manifests.iter().map(|(stage, manifest)| {
        let facts = json!({"access": manifest.access, "counts": manifest.counts, "details": manifest.details});
        ((*stage).to_owned(), facts)
    });
    json!({
        "run": plan.out,
        "stopped": outcome.stopped,
        "stages": stages.collect::<serde_json::Map<_, _>>(),
        "metrics": outcome.metrics,
        "expect": verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
    })
}
