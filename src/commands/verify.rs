//! `medtune verify`: is this merged model its base plus its adapter?

use std::path::{Path, PathBuf};

use adapters::hub::locate;
use adapters::{PeftAdapter, TensorProof, Weights, verify_tensors};
use anyhow::Result;
use finetune::{Base, Checkpoint, LogitProof};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::failure::Exit;
use crate::merging::prove;
use crate::plan::{Plan, Stage};
use crate::stages::given_adapter;
use crate::terminal::{note, print, print_json, table};

pub fn verify(args: &VerifyArgs, json: bool) -> Result<Exit> {
    let (base, adapter, merged) = match &args.recipe {
        Some(recipe) => {
            let plan = Plan::new(recipe, &args.flags)?;
            plan.require(Stage::Merge)?;
            let trained = plan
                .recipe()
                .train
                .is_some()
                .then(|| plan.folder("adapter"));
            let adapter = trained.or_else(|| given_adapter(&plan)).unwrap_or_default();
            let merged = plan.folder("merged");
            (plan.base, adapter, merged)
        }
        // clap has seen to it that the three are there.
        None => {
            let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
            (
                Base::find(&path(&args.base), Path::new("")),
                locate(&path(&args.adapter), Path::new(""))?,
                path(&args.merged),
            )
        }
    };
    let base = Checkpoint::open(&base)?;
    let adapter = PeftAdapter::load(&adapter)?;
    let mut proof = verify_tensors(&base.weights, &adapter, &Weights::open(&merged)?)?;
    let logits = prove(&base, &adapter, &merged)?;
    proof.problems.extend(logits.problem());
    for warning in proof.warnings() {
        note(&format!("warning: {warning}"));
    }
    if json {
        print_json(&json!({"holds": proof.holds(), "proof": proof, "logits": logits}))?;
    } else {
        print(&shown(&proof, &logits))?;
    }
    Ok(if proof.holds() {
        Exit::Done
    } else {
        Exit::Unmet
    })
}

fn shown(proof: &TensorProof, logits: &LogitProof) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut text = table(&[
        row(
            "tensors that the adapter changes",
            proof.targeted.to_string(),
        ),
        row("tensors that are the base's", proof.untouched.to_string()),
        row(
            "largest deviation, in rounding steps",
            format!("{:.3}", proof.max_steps),
        ),
        row(
            "change relative to the weights",
            format!("{:.2e}", proof.relative_change),
        ),
        row(
            "share of the change that survives rounding",
            format!("{:.4}", proof.surviving),
        ),
        row(
            "largest difference of a logit",
            format!(
                "{:.1e} of {:.1}",
                logits.max_difference, logits.largest_logit
            ),
        ),
        row(
            "same first choice",
            format!(
                "{:.1} % of {} positions",
                100.0 * logits.top1_agreement,
                logits.positions
            ),
        ),
    ]);
    for problem in &proof.problems {
        text.push_str(&format!("  wrong: {problem}\n"));
    }
    text.push_str(match proof.holds() {
        true => "merged = base + adapter\n",
        false => "merged is not base + adapter\n",
    });
    text
}
