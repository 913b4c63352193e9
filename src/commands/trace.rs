//! `medtune trace`: where a sample came from.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use datasets::{DROPPED_FILE, Provenance, TRAIN_FILE, VALIDATION_FILE};
use finetune::{Checkpoint, Steps};
use ledger::{MEASURED_FILE, Manifest};
use serde_json::{Value, json};

use crate::args::TraceArgs;
use crate::credentials;
use crate::failure::{Exit, Failure};
use crate::plan::{Plan, Stage};
use crate::stages::{template_of, tokens};
use crate::terminal::{print, print_json};

/// A sample's line, and where it stands.
struct Found {
    file: &'static str,
    /// Its line there, 1-based.
    line: usize,
    sample: Value,
}

pub fn trace(args: &TraceArgs, json: bool) -> Result<Exit> {
    let (run, plan) = open(args)?;
    let folder = run.join("data");
    let Some(manifest) = Manifest::read(&folder)? else {
        let failure = Failure::user(format!("there is no built data in `{}`", run.display()));
        return Err(failure
            .hint("build it first with `medtune build RECIPE`, or name its folder")
            .into());
    };
    let Some(found) = find(&folder, &args.id)? else {
        let failure = Failure::user(format!(
            "no sample or record `{}` in `{}`",
            args.id,
            folder.display()
        ));
        return Err(failure.hint("ids are SOURCE/RECORD, as in train.jsonl and dropped.jsonl; records beyond a quota are not listed").into());
    };
    if found.file == DROPPED_FILE {
        return left_out(&found, json);
    }
    let provenance: Provenance = serde_json::from_value(found.sample["provenance"].clone())
        .context("the built data is not as it was written")?;
    if args.reveal {
        let terms = (
            provenance.access,
            provenance.source.as_str(),
            provenance.licence.as_str(),
        );
        credentials::require_terms(&run, args.i_have_credentials, "trace --reveal", [terms])?;
    }
    let input = manifest.inputs.iter().find(|input| {
        provenance.file == input.path || provenance.file.starts_with(&format!("{}/", input.path))
    });
    let packs = match (&plan, found.file) {
        (Some(plan), TRAIN_FILE) => packs(plan, found.line)?,
        _ => Vec::new(),
    };
    let mut facts = json!({
        "id": args.id, "in": found.file, "line": found.line, "source": provenance.source,
        "file": provenance.file, "record": provenance.record, "licence": provenance.licence,
        "access": provenance.access, "transforms": provenance.transforms,
        "file_sha256": input.map(|input| &input.sha256),
        "packs": packs.iter().map(|pack| json!({"step": pack.step, "tokens": pack.tokens, "with": pack.with})).collect::<Vec<_>>(),
    });
    if args.reveal {
        let text = ["messages", "text"]
            .into_iter()
            .find_map(|key| found.sample.get(key));
        facts["sample"] = text.cloned().unwrap_or_default();
    }
    if json {
        print_json(&facts)?;
        return Ok(Exit::Done);
    }
    let mut text = format!(
        "{}: line {} of {}\n  source      {}\n  file        {}, record {}\n",
        args.id, found.line, found.file, provenance.source, provenance.file, provenance.record
    );
    if let Some(input) = input {
        text.push_str(&format!("  SHA-256     {}  {}\n", input.sha256, input.path));
    }
    text.push_str(&format!(
        "  terms       {} ({})\n",
        provenance.licence, provenance.access
    ));
    let transforms = match provenance.transforms.is_empty() {
        true => "none".to_owned(),
        false => provenance.transforms.join(", "),
    };
    text.push_str(&format!("  cleaning    {transforms}\n"));
    for pack in &packs {
        let with = match pack.with.len() {
            0 => "alone".to_owned(),
            1..=6 => format!("with {}", pack.with.join(", ")),
            n => format!("with {} and {} more", pack.with[..5].join(", "), n - 5),
        };
        text.push_str(&format!(
            "  step {:<6} in a pack of {} tokens, {with}\n",
            pack.step, pack.tokens
        ));
    }
    if args.reveal {
        text.push_str(&format!("\n{:#}\n", facts["sample"]));
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn left_out(found: &Found, json: bool) -> Result<Exit> {
    if json {
        print_json(&found.sample)?;
        return Ok(Exit::Done);
    }
    let word = |key: &str| found.sample[key].as_str().unwrap_or_default().to_owned();
    let mut text = format!("{}: left out, {}\n", word("id"), word("reason"));
    if !word("of").is_empty() {
        text.push_str(&format!("  kept is     {}\n", word("of")));
    }
    for item in found.sample["items"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "  it holds    {}, {} words\n",
            item[0].as_str().unwrap_or_default(),
            item[1]
        ));
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// The run's folder, and the plan of its recipe where that can still be read.
fn open(args: &TraceArgs) -> Result<(PathBuf, Option<Plan>)> {
    if !args.run.join("data").is_dir() {
        let plan = Plan::new(&args.run, &args.flags)?;
        return Ok((plan.out.clone(), Some(plan)));
    }
    // A run that was built elsewhere still says where its samples came from.
    let measured = std::fs::read(args.run.join("data").join(MEASURED_FILE)).ok();
    let measured = measured.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let recipe = measured.and_then(|facts| Some(PathBuf::from(facts["facts"]["recipe"].as_str()?)));
    let plan = recipe.and_then(|recipe| Plan::new(&recipe, &args.flags).ok());
    let plan = plan.map(|mut plan| {
        plan.out.clone_from(&args.run);
        plan
    });
    Ok((args.run.clone(), plan))
}

fn find(folder: &Path, id: &str) -> Result<Option<Found>> {
    let written = serde_json::to_string(id)?;
    let start = format!("{{\"id\":{written},");
    for file in [TRAIN_FILE, VALIDATION_FILE, DROPPED_FILE] {
        let path = folder.join(file);
        let failed = || format!("cannot read `{}`", path.display());
        let lines = BufReader::new(File::open(&path).with_context(failed)?).lines();
        for (number, line) in lines.enumerate() {
            let line = line.with_context(failed)?;
            if line.starts_with(&start) {
                let sample = serde_json::from_str(&line).with_context(failed)?;
                return Ok(Some(Found {
                    file,
                    line: number + 1,
                    sample,
                }));
            }
        }
    }
    Ok(None)
}

/// A pack that a sample is trained in.
struct Packed {
    step: usize,
    tokens: usize,
    with: Vec<String>,
}

/// The packs of the training sample on a line of `train.jsonl`, one an epoch: worked out anew, since which samples
/// share a pack is a function of the data, the settings and the seed.
fn packs(plan: &Plan, line: usize) -> Result<Vec<Packed>> {
    let recipe = plan.recipe();
    let (true, Some(settings)) = (plan.stages.contains(&Stage::Train), &recipe.train) else {
        return Ok(Vec::new());
    };
    let section = recipe.data.clone().unwrap_or_default();
    let built = datasets::load_built(&plan.folder("data"))?;
    let datasets::Samples::Conversations(_) = &built.train else {
        // A block of documents is no sample's own.
        return Ok(Vec::new());
    };
    let tokenizer = Checkpoint::open(&plan.base)?.tokenizer;
    let template = template_of(plan, &tokenizer, true)?;
    let tokens = tokens(&built.train, &section, &tokenizer, &template)?;
    let steps = Steps::new(
        &tokens.samples,
        settings,
        section.max_seq_len,
        section.packing,
        recipe.seed,
    )?;
    let number = (line - 1) as u64;
    let name = |sample: u64| {
        let sample = tokens.samples.iter().find(|s| s.sample == sample);
        sample.map(|sample| sample.id.clone())
    };
    let mut found = Vec::new();
    for (i, step) in steps.after(0).enumerate() {
        for pack in step.micro_batches.iter().flatten() {
            if pack.segments.iter().any(|segment| segment.sample == number) {
                let others = pack
                    .segments
                    .iter()
                    .filter(|segment| segment.sample != number);
                found.push(Packed {
                    step: i + 1,
                    tokens: pack.len(),
                    with: others.filter_map(|segment| name(segment.sample)).collect(),
                });
            }
        }
    }
    Ok(found)
}
