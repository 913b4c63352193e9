//! `medtune report`: what runs came to, as tables or as a page.

use anyhow::Result;
use ledger::AccessClass;
use ledger::files::write_atomic;

use crate::args::ReportArgs;
use crate::credentials;
use crate::failure::Exit;
use crate::report::{Comparison, RunFiles, page, run_json, run_markdown, run_text};
use crate::terminal::{note, print, print_json};

pub fn report(args: &ReportArgs, json: bool) -> Result<Exit> {
    let mut runs = Vec::new();
    for folder in &args.runs {
        let run = RunFiles::read(folder)?;
        if args.reveal {
            may_be_revealed(&run, args.i_have_credentials)?;
        }
        runs.push(run);
    }
    let several = runs.len() > 1;
    let comparison;
    // One run is shown whole; several are compared.
    let (page, text, markdown, value) = if several {
        comparison = Comparison::new(runs)?;
        let reveal = args.reveal;
        (
            comparison.page(reveal),
            comparison.text(),
            comparison.markdown(),
            comparison.json(reveal),
        )
    } else {
        let run = &runs[0];
        (
            page(run, args.reveal),
            run_text(run),
            run_markdown(run),
            run_json(run, args.reveal),
        )
    };
    if let Some(path) = &args.html {
        write_atomic(path, page.html().as_bytes())?;
        note(&format!("wrote {}", path.display()));
    }
    match (json, args.markdown) {
        (true, _) => print_json(&value)?,
        (false, true) => print(&markdown)?,
        (false, false) if args.html.is_none() => print(&text)?,
        _ => {}
    }
    Ok(Exit::Done)
}

/// Texts of credentialed material are shown only to who says that they may see them, which the run records.
fn may_be_revealed(run: &RunFiles, given: bool) -> Result<()> {
    let tasks = run
        .report
        .iter()
        .flat_map(|report| &report.models)
        .flat_map(|model| &model.tasks);
    let mut terms: Vec<(AccessClass, &str, &str)> = tasks
        .map(|task| (task.access, task.task.as_str(), "an evaluation task"))
        .collect();
    terms.sort();
    terms.dedup();
    credentials::require_terms(&run.path, given, "report --reveal", terms)
}
