//! `medtune merge`: a recipe's adapter into its base, or any adapter into any base.

use std::path::Path;

use adapters::Belonging;
use adapters::hub::locate;
use adapters::recipe::{ComputeDtype, MergeSection};
use anyhow::Result;
use eval::metrics::Needs;
use eval::recipe::EvalSection;
use finetune::{Base, ValidationTask};
use ledger::files::StagedDir;
use ledger::{AccessClass, FileHash};
use serde_json::{Value, json};

use super::run::run_plan;
use crate::args::{MergeArgs, MergeFlags, RecipeFlags};
use crate::card::{CardBase, ModelCard};
use crate::failure::{Exit, Failure};
use crate::merging::Merging;
use crate::plan::{Plan, Stage, add_tasks, task_folders};
use crate::quick::QuickValidation;
use crate::run::{Clock, StageInput, access_of};
use crate::stages::Tuned;
use crate::terminal::{note, print_json};

pub fn merge(args: MergeArgs, json: bool) -> Result<Exit> {
    if let Some(recipe) = &args.recipe {
        let mut flags = args.flags.clone();
        if !args.validate.is_empty() {
            let tasks = json!(args.validate);
            flags.sets.push(format!("merge.validate={tasks}"));
        }
        let plan = Plan::new(recipe, &flags)?;
        plan.require(Stage::Merge)?;
        return run_plan(&plan, Some(Stage::Merge), args.fresh, json);
    }
    // clap has seen to it that the three are there.
    let (base, adapter, into) = (
        args.base.unwrap_or_default(),
        args.adapter.unwrap_or_default(),
        args.into.unwrap_or_default(),
    );
    let given = (base.display().to_string(), into.clone());
    let base = Base::find(&base, Path::new(""));
    let adapter = locate(&adapter, Path::new(""))?;
    if let Base::Path(base) = &base {
        refuse_input_as_output(base, &adapter, &into)?;
    }
    let clock = Clock::start();
    let section = section(&args.how);
    let trained_on = Belonging::read(&adapter)?.and_then(|belonging| belonging.quantization());
    let quantization = args.how.quantization.map(Into::into).or(trained_on);
    let folder = match &base {
        Base::Path(path) => Some(path.clone()),
        _ => None,
    };
    let model = match quantization.filter(|_| !args.how.subtract) {
        Some(quantization) => Base::Quantized {
            base: Box::new(base),
            quantization,
        },
        None => base,
    };
    let merging = Merging {
        base: &model,
        adapter: &adapter,
        section: &section,
        subtract: args.how.subtract,
        force: args.how.force,
    };
    let staged = StagedDir::create(&into)?;
    let merged = merging.write(staged.path())?;
    let mut inputs = vec![FileHash {
        path: "base".into(),
        sha256: merged.report.base_fingerprint.clone(),
        bytes: 0,
    }];
    inputs.extend(FileHash::tree_as(&adapter, "adapter/")?);
    let input = StageInput {
        stage: "merge",
        inputs,
        settings: json!({"merge": section, "subtract": args.how.subtract, "quantization": quantization}),
    };
    let of_base = folder.as_deref().map_or(AccessClass::Open, access_of);
    let access = access_of(&adapter).max(of_base);
    let mut details = merged.details()?;
    if let Some(validation) = look_over(&args.validate, &args.flags, &model, staged.path())? {
        details["validation"] = validation;
    }
    if !args.how.subtract {
        let (name, into) = given;
        let fingerprint = Some(merged.report.base_fingerprint.clone());
        let base = CardBase::of(Some(&name), folder.as_deref(), fingerprint);
        let name = into.file_name().unwrap_or_default().to_string_lossy();
        let card = ModelCard::of_merge(&name, base, &adapter, &merged.adapter, details.clone())?;
        card.write(staged.path())?;
    }
    let manifest = input.manifest_with(staged.path(), merged.files(), access, details.clone())?;
    manifest.write(staged.path())?;
    clock.write(staged.path(), merged.facts())?;
    staged.commit()?;
    if json {
        print_json(&json!({"folder": into, "access": access, "merge": details}))?;
    } else {
        let (summary, folder, time) = (merged.summary(), into.display(), clock.shown());
        note(&format!("{summary}, in {folder}, {time}"));
    }
    Ok(Exit::Done)
}

/// Asks the base and what was merged the tasks of `--validate`.
fn look_over(
    entries: &[String],
    flags: &RecipeFlags,
    base: &Base,
    merged: &Path,
) -> Result<Option<Value>> {
    if entries.is_empty() {
        return Ok(None);
    }
    let folders = task_folders(Path::new("recipes"));
    let root = flags.data_root.clone().unwrap_or_default();
    let settings = EvalSection::default();
    let mut planned = Vec::new();
    for entry in entries {
        add_tasks(&mut planned, entry, None, Path::new(""), &folders)?;
    }
    let mut tasks = Vec::new();
    for planned in planned {
        for mut task in planned.tasks {
            task.metrics
                .retain(|metric| metric.needs != Needs::Embeddings);
            let asked = task.asked(&root, settings.seed, &mut |_| true)?;
            let items = eval::asked_items(asked.items, planned.limit, settings.seed);
            tasks.push(ValidationTask { task, items });
        }
    }
    let look = QuickValidation {
        tasks,
        held_out: None,
        compute: ComputeDtype::default(),
        template: Default::default(),
        bootstrap: settings.bootstrap(),
        batch_items: settings.batch_items,
    };
    let model = |base: Base| Tuned {
        base,
        adapter: None,
    };
    let look = look.run(&model(base.clone()), &model(Base::Path(merged.to_owned())))?;
    look.show();
    Ok(Some(look.details))
}

fn section(flags: &MergeFlags) -> MergeSection {
    MergeSection {
        dtype: flags.dtype.map(Into::into),
        verify: flags.verify.into(),
        onto: flags.onto.into(),
        max_shard_bytes: flags.shard_size,
        validate: Vec::new(),
    }
}

/// Refuses to write over what is being read.
fn refuse_input_as_output(base: &Path, adapter: &Path, into: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    for (what, input) in [("base", base), ("adapter", adapter)] {
        if real(input).is_some() && real(input) == real(into) {
            let message = format!("`{}` is the {what} that is being read", into.display());
            return Err(Failure::user(message)
                .hint("choose another folder for the result")
                .into());
        }
    }
    Ok(())
}
