//! `medtune adapter extract`: a LoRA of the difference between two models.

use std::path::Path;

use adapters::{BaseIdentity, Belonging, ExtractOptions, Rest, TargetModules, Weights};
use anyhow::Result;
use finetune::{Base, Checkpoint};
use ledger::FileHash;
use serde_json::json;

use super::args::ExtractArgs;
use super::{least_kept, percent, refuse_existing, write};
use crate::failure::Exit;
use crate::run::{Clock, StageInput, access_of};
use crate::terminal::{bar, note, print, print_json, table};

pub fn extract(args: &ExtractArgs, json: bool) -> Result<Exit> {
    refuse_existing(&args.out)?;
    let clock = Clock::start();
    let (base, tokenizer_fingerprint) = open(&args.base)?;
    let tuned = Weights::open(&args.tuned)?;
    let targets = match args.target_modules.as_slice() {
        [] => TargetModules::AllLinear,
        names => TargetModules::Named(names.to_vec()),
    };
    let mut options = ExtractOptions {
        rank: args.rank,
        target_modules: targets,
        save_rest: args.save_rest,
        base_model: Some(args.base.display().to_string()),
        belonging: None,
    };
    let shown = bar(0, "extract");
    let mut found = adapters::extract(&base, &tuned, &options, &mut |done, total| {
        shown.set_length(total as u64);
        shown.set_position(done as u64);
    })?;
    shown.finish_and_clear();
    // Reads every weight once more, so only now that there is a result.
    let fingerprint = base.fingerprints()?;
    let inputs = vec![
        model("base", fingerprint.whole.clone()),
        model("tuned", tuned.fingerprint()?),
    ];
    options.belonging = Some(Belonging {
        base_fingerprint: fingerprint.whole,
        tokenizer_fingerprint,
        base: Some(BaseIdentity {
            name: options.base_model.clone(),
            weights_sha256: Some(fingerprint.weights),
            ..BaseIdentity::of(&base)
        }),
    });
    found.adapter.belonging = options.belonging;
    let input = StageInput {
        stage: "extract",
        inputs,
        settings: json!({
            "rank": options.rank,
            "target_modules": options.target_modules,
            "save_rest": options.save_rest,
        }),
    };
    let details = json!({
        "energy": found.energy,
        "energy_of_all": found.energy_of_all,
        "modules": found.modules,
        "unchanged": found.unchanged,
        "rest": found.rest,
    });
    let access = access_of(&args.base).max(access_of(&args.tuned));
    write(
        &args.out,
        &found.adapter,
        input,
        access,
        details.clone(),
        &clock,
    )?;
    warn_of(&found.rest);
    if json {
        print_json(&details)?;
        return Ok(Exit::Done);
    }
    print(&least_kept(&found.modules))?;
    note(&format!(
        "{} modules at rank {}, {} of their change kept, {} of the whole change, in {}",
        found.modules.len(),
        options.rank,
        percent(found.energy),
        percent(found.energy_of_all),
        args.out.display()
    ));
    Ok(Exit::Done)
}

/// A model, with the fingerprint of its tokenizer if it comes with one that is read.
fn open(path: &Path) -> Result<(Weights, Option<String>)> {
    match Checkpoint::open(&Base::Path(path.to_owned())) {
        Ok(checkpoint) => {
            let fingerprint = checkpoint.tokenizer.fingerprint()?;
            Ok((checkpoint.weights, Some(fingerprint)))
        }
        Err(_) => Ok((Weights::open(path)?, None)),
    }
}

/// A model as an input: its weights may lie in many files.
fn model(name: &str, sha256: String) -> FileHash {
    FileHash {
        path: name.into(),
        sha256,
        bytes: 0,
    }
}

/// Says what the adapter does not carry, or carries whole.
fn warn_of(rest: &[Rest]) {
    let row = |rest: &&Rest| {
        vec![
            rest.name.clone(),
            rest.why.to_owned(),
            format!("{:.1e}", rest.relative_change),
        ]
    };
    for (saved, text) in [
        (
            false,
            "warning: these differ, have no low-rank update, and are NOT in the adapter; --save-rest saves them whole:",
        ),
        (true, "saved whole:"),
    ] {
        let rows: Vec<Vec<String>> = rest
            .iter()
            .filter(|r| r.saved == saved)
            .map(|r| row(&r))
            .collect();
        if !rows.is_empty() {
            note(text);
            note(table(&rows).trim_end());
        }
    }
}
