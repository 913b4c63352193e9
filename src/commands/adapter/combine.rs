//! `medtune adapter combine`: several adapters as one.

use adapters::{CombineOptions, PeftAdapter};
use anyhow::Result;
use ledger::AccessClass;
use serde_json::json;

use super::args::CombineArgs;
use super::{hashes, least_kept, percent, refuse_existing, write};
use crate::failure::Exit;
use crate::run::{Clock, StageInput, access_of};
use crate::terminal::{note, print, print_json};

pub fn combine(args: &CombineArgs, json: bool) -> Result<Exit> {
    refuse_existing(&args.out)?;
    let clock = Clock::start();
    let options = CombineOptions {
        method: args.method.into(),
        weights: args.weights.clone(),
        density: args.density,
        rank: args.rank,
        seed: args.seed,
        force: args.force,
    };
    let (mut loaded, mut inputs) = (Vec::new(), Vec::new());
    for (i, folder) in args.adapters.iter().enumerate() {
        loaded.push((folder.display().to_string(), PeftAdapter::load(folder)?));
        inputs.extend(hashes(folder, &format!("adapter-{}", i + 1))?);
    }
    let named: Vec<(&str, &PeftAdapter)> = loaded.iter().map(|(n, a)| (n.as_str(), a)).collect();
    let combined = adapters::combine(&named, &options)?;
    for text in &combined.notes {
        note(&format!("warning: {text}"));
    }
    let input = StageInput {
        stage: "combine",
        inputs,
        settings: json!({
            "method": options.method,
            "weights": options.weights,
            "density": options.density,
            "rank": options.rank,
            "seed": options.seed,
            "force": options.force,
        }),
    };
    let access = AccessClass::strictest(args.adapters.iter().map(|folder| access_of(folder)));
    let (rank, modules) = (
        combined.adapter.config.lora.rank,
        combined.adapter.modules().count(),
    );
    let details = json!({
        "rank": rank,
        "adapted": modules,
        "saved": combined.adapter.saved().collect::<Vec<_>>(),
        "energy": combined.energy,
        "modules": combined.modules,
        "notes": forced(&combined.notes),
    });
    write(
        &args.out,
        &combined.adapter,
        input,
        access,
        details.clone(),
        &clock,
    )?;
    if json {
        print_json(&details)?;
        return Ok(Exit::Done);
    }
    let mut text = format!(
        "{} adapters as one of rank {rank}: {modules} modules",
        loaded.len()
    );
    if let Some(energy) = combined.energy {
        print(&least_kept(&combined.modules))?;
        text.push_str(&format!(
            ", {} of the combined update kept",
            percent(energy)
        ));
    }
    note(&format!("{text}, in {}", args.out.display()));
    Ok(Exit::Done)
}

/// What a manifest records: what was forced. Other notes name folders of this machine.
fn forced(notes: &[String]) -> Vec<&String> {
    let forced = notes.iter().filter(|note| note.starts_with("forced"));
    forced.collect()
}
