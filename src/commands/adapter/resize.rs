//! `medtune adapter resize`: another rank.

use adapters::PeftAdapter;
use anyhow::Result;
use serde_json::json;

use super::args::ResizeArgs;
use super::{hashes, least_kept, percent, refuse_existing, write};
use crate::failure::Exit;
use crate::run::{Clock, StageInput, access_of};
use crate::terminal::{note, print, print_json};

pub fn resize(args: &ResizeArgs, json: bool) -> Result<Exit> {
    refuse_existing(&args.out)?;
    let clock = Clock::start();
    let adapter = PeftAdapter::load(&args.adapter)?;
    let found = adapters::resize(&adapter, args.rank)?;
    let input = StageInput {
        stage: "resize",
        inputs: hashes(&args.adapter, "adapter")?,
        settings: json!({"rank": args.rank}),
    };
    let lora = &found.adapter.config.lora;
    let details = json!({
        "rank": lora.rank,
        "alpha": lora.alpha,
        "scaling": lora.scaling(),
        "energy": found.energy,
        "modules": found.modules,
    });
    let access = access_of(&args.adapter);
    write(
        &args.out,
        &found.adapter,
        input,
        access,
        details.clone(),
        &clock,
    )?;
    if json {
        print_json(&details)?;
        return Ok(Exit::Done);
    }
    let (from, out) = (adapter.config.lora.rank, args.out.display());
    if lora.rank < from {
        print(&least_kept(&found.modules))?;
    }
    note(&format!(
        "rank {from} to {} (alpha {}), {} of the update kept, in {out}",
        lora.rank,
        lora.alpha,
        percent(found.energy)
    ));
    Ok(Exit::Done)
}
