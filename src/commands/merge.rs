//! `medtune merge`: a recipe's adapter into its base, or any adapter into any base.

use adapters::{ExportOptions, MergeOptions, PeftAdapter};
use anyhow::Result;
use finetune::{Base, Checkpoint};
use ledger::files::StagedDir;
use serde_json::json;

use super::run::run_plan;
use crate::args::MergeArgs;
use crate::failure::Exit;
use crate::plan::{Plan, Stage};
use crate::proof::require_logits;
use crate::stages::companions;
use crate::terminal::{bytes, note, print_json};

pub fn merge(args: MergeArgs, json: bool) -> Result<Exit> {
    if let Some(recipe) = &args.recipe {
        let plan = Plan::new(recipe, &args.flags)?;
        plan.require(Stage::Merge)?;
        return run_plan(&plan, Some(Stage::Merge), args.fresh, json);
    }
    // clap has seen to it that the three are there.
    let (base, adapter, into) = (
        args.base.unwrap_or_default(),
        args.adapter.unwrap_or_default(),
        args.into.unwrap_or_default(),
    );
    let checkpoint = Checkpoint::open(&Base::Path(base))?;
    let adapter = PeftAdapter::load(&adapter)?;
    let export = ExportOptions {
        companions: companions(&checkpoint)?,
        ..Default::default()
    };
    let options = MergeOptions {
        export,
        verify: true,
    };
    adapters::refuse_base_as_output(&checkpoint.weights, &into)?;
    let staged = StagedDir::create(&into)?;
    let report = adapters::merge_into(&checkpoint.weights, &adapter, staged.path(), &options)?;
    let logits = require_logits(&checkpoint, &adapter, staged.path())?;
    staged.commit()?;
    for warning in report.proof.iter().flat_map(|proof| proof.warnings()) {
        note(&format!("warning: {warning}"));
    }
    if json {
        print_json(&json!({"merge": report, "logits": logits}))?;
    } else {
        note(&format!(
            "{} of {} tensors changed, proven, {} in {}",
            report.targeted,
            report.tensors,
            bytes(report.bytes),
            into.display()
        ));
    }
    Ok(Exit::Done)
}
