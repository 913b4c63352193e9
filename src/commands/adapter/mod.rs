//! `medtune adapter`: what is done with adapters outside of training.

pub mod args;
mod combine;
mod extract;
mod inspect;
mod resize;

use std::path::Path;

use adapters::{ModuleEnergy, PeftAdapter};
use anyhow::Result;
use args::AdapterCommand;
use ledger::files::StagedDir;
use ledger::{AccessClass, FileHash};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::run::{Clock, StageInput};
use crate::terminal::table;

pub fn adapter(command: &AdapterCommand, json: bool) -> Result<Exit> {
    match command {
        AdapterCommand::Inspect(args) => inspect::inspect(args, json),
        AdapterCommand::Combine(args) => combine::combine(args, json),
        AdapterCommand::Extract(args) => extract::extract(args, json),
        AdapterCommand::Resize(args) => resize::resize(args, json),
    }
}

/// Refuses to write over something: the folder may be one of the inputs, or somebody's training.
fn refuse_existing(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let failure = Failure::user(format!("`{}` is there already", out.display()));
    Err(failure
        .hint("give another folder, or remove it first")
        .into())
}

/// An adapter's files, by content, under a name of their own.
fn hashes(folder: &Path, name: &str) -> Result<Vec<FileHash>> {
    let named = |file: FileHash| FileHash {
        path: format!("{name}/{}", file.path),
        ..file
    };
    Ok(FileHash::tree(folder)?.into_iter().map(named).collect())
}

/// Writes the adapter, its manifest and what was measured; the folder has its name only when all of it is there.
fn write(
    out: &Path,
    adapter: &PeftAdapter,
    input: StageInput,
    access: AccessClass,
    details: Value,
    clock: &Clock,
) -> Result<()> {
    let staged = StagedDir::create(out)?;
    adapter.save(staged.path())?;
    let manifest = input.manifest(staged.path(), access, details)?;
    manifest.write(staged.path())?;
    clock.write(staged.path(), json!({}))?;
    Ok(staged.commit()?)
}

/// `98.31 %`, never rounded up to all.
fn percent(share: f64) -> String {
    let percent = (share * 10_000.0).floor() / 100.0;
    format!("{percent:.2} %")
}

/// How many modules to list at either end.
const LISTED: usize = 5;

/// The modules that lost most.
fn least_kept(modules: &[ModuleEnergy]) -> String {
    let mut least: Vec<&ModuleEnergy> = modules.iter().collect();
    least.sort_by(|a, b| a.energy.total_cmp(&b.energy).then(a.module.cmp(&b.module)));
    let head = ["module", "norm", "kept"].map(str::to_owned).to_vec();
    let rows = least.iter().take(LISTED).map(|m| {
        vec![
            m.module.clone(),
            format!("{:.4}", m.norm),
            percent(m.energy),
        ]
    });
    table(&[vec![head], rows.collect()].concat())
}
