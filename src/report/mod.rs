//! What a run's folder says, as a page, as tables, and beside other runs.

mod compare;
mod data;
mod folder;
mod model;
mod provenance;
mod settings;
mod summary;
mod training;

use std::path::Path;

use anyhow::Result;
use eval::report::html::{Page, Section, evaluation_sections};

pub use compare::Comparison;
pub use folder::RunFiles;
pub(crate) use provenance::utc;
pub use summary::{run_json, run_markdown, run_text};

/// The page of a run, in the run's folder. It lies beside the stages and is none of their outputs: it holds what was
/// measured (times, memory), which differs from one run to the next of the same recipe.
pub const PAGE_FILE: &str = "report.html";

/// Writes the page of the run in `folder` as `report.html`, without texts that are not open.
pub fn write_page(folder: &Path) -> Result<()> {
    let html = page(&RunFiles::read(folder)?, false).html();
    Ok(ledger::files::write_atomic(
        &folder.join(PAGE_FILE),
        html.as_bytes(),
    )?)
}

/// The page of a run. A part whose stage was not run says so.
pub fn page(run: &RunFiles, reveal: bool) -> Page {
    let mut sections = match &run.report {
        Some(report) => evaluation_sections(report, reveal),
        None => vec![
            Section::empty("evaluation", "Evaluation", "Not run."),
            Section::empty("forgetting", "Forgetting", "Not run."),
        ],
    };
    sections.push(training::section(run));
    sections.push(data::section(run));
    sections.push(model::merge_section(run));
    sections.push(model::memory_section(run));
    sections.push(provenance::section(run));
    Page {
        title: run.name.clone(),
        lead: summary::lead(run),
        sections,
    }
}
