//! The stages of a run, in their order; each is kept where nothing it depends on has changed.

mod bert_score;
mod data;
pub mod endpoints;
mod eval_input;
mod evaluate;
mod expect;
mod identity;
pub mod judging;
mod merge;
mod room;
mod samples;
mod stop;
mod train;
mod trained;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adapters::{Fingerprint, PeftAdapter, Weights};
use anyhow::Result;
use datasets::recipe::TemplateKind;
use finetune::Base;
use ledger::{AccessClass, FileHash, Manifest};
use serde_json::Value;

pub use data::Materials;
pub use expect::{Verdict, known_metrics, verdicts};
pub use samples::{Tokens, asked_by, template_as, template_of, tokens};
pub use train::companions;
pub use watch::answering;

use crate::card;
use crate::failure::Failure;
use crate::plan::{Plan, Stage};
use crate::run::{RunFolder, access_of};
use crate::terminal::note;

/// What a run did.
#[derive(Default)]
pub struct Outcome {
    /// The stages' manifests.
    pub manifests: BTreeMap<&'static str, Manifest>,
    /// Everything that `[[expect]]` can name.
    pub metrics: BTreeMap<String, f64>,
    /// The table of an evaluation.
    pub table: Option<String>,
    /// Training or evaluation was stopped and can go on.
    pub stopped: bool,
}

/// A run in progress: what the stages share.
struct Work<'a> {
    plan: &'a Plan,
    run: &'a RunFolder,
    /// Stopping was asked for when a training was at its end: no later stage starts.
    stop_asked: bool,
    /// Hashes of the base, asked for once: it reads every weight.
    base: Option<Fingerprint>,
    /// What BERTScore is computed by, where the recipe names it.
    encoder: Option<bert_score::Encoder>,
}

/// Runs the stages that a recipe has, up to one of them.
pub fn run(plan: &Plan, until: Option<Stage>, fresh: bool) -> Result<Outcome> {
    let run = RunFolder::open(&plan.out, fresh)?;
    let evaluates =
        plan.stages.contains(&Stage::Eval) && until.is_none_or(|until| until >= Stage::Eval);
    let mut work = Work {
        plan,
        run: &run,
        stop_asked: false,
        base: None,
        // Before hours of training, which a mistake in it would make vain.
        encoder: match evaluates {
            true => bert_score::Encoder::open(plan)?,
            false => None,
        },
    };
    let mut outcome = Outcome::default();
    for stage in &plan.stages {
        if until.is_some_and(|until| *stage > until) {
            break;
        }
        if work.stop_asked {
            let command = stop::command_line();
            note(&format!("stopped before {stage}; to go on: {command}"));
            outcome.stopped = true;
            break;
        }
        let (name, manifest) = match stage {
            Stage::Data => ("data", work.data()?),
            Stage::Train => match work.train(&outcome.manifests["data"])? {
                Some(manifest) => ("train", manifest),
                None => {
                    outcome.stopped = true;
                    return Ok(outcome);
                }
            },
            Stage::Merge => ("merge", work.merge()?),
            Stage::Eval => {
                let Some((manifest, table)) = work.evaluate(&outcome.manifests)? else {
                    outcome.stopped = true;
                    return Ok(outcome);
                };
                outcome.table = Some(table);
                ("eval", manifest)
            }
        };
        // Beside the outputs that the manifest has, since an evaluation adds to it.
        let whole = *stage == Stage::Train && train::product(plan) == "model";
        if whole || matches!(stage, Stage::Merge | Stage::Eval) {
            card::write_of_run(plan)?;
        }
        outcome.metrics.extend(metrics_of(name, &manifest));
        outcome.manifests.insert(name, manifest);
    }
    Ok(outcome)
}

/// The numbers of a stage that `[[expect]]` can name.
fn metrics_of(stage: &str, manifest: &Manifest) -> BTreeMap<String, f64> {
    let numbers = |value: Option<&Value>, prefix: &str| {
        let entries = value.and_then(Value::as_object).into_iter().flatten();
        let numbers =
            entries.filter_map(|(name, value)| Some((format!("{prefix}{name}"), value.as_f64()?)));
        numbers.collect::<BTreeMap<String, f64>>()
    };
    match stage {
        "train" => {
            let mut all = numbers(Some(&manifest.details), "train.");
            all.extend(numbers(manifest.details.get("scores"), "train."));
            all
        }
        "eval" => numbers(manifest.details.get("metrics"), ""),
        _ => BTreeMap::new(),
    }
}

impl Work<'_> {
    /// The base model by its content.
    fn base_hash(&mut self) -> Result<FileHash> {
        // The weights may lie in many files; their length says nothing more.
        Ok(FileHash {
            path: "base".into(),
            sha256: self.base_fingerprint()?.whole,
            bytes: 0,
        })
    }

    fn base_fingerprint(&mut self) -> Result<Fingerprint> {
        if let Some(fingerprint) = &self.base {
            return Ok(fingerprint.clone());
        }
        let fingerprint = match &self.plan.base {
            Base::Path(path) => Weights::open(path)?.fingerprints()?,
            base => finetune::Checkpoint::open(base)?.weights.fingerprints()?,
        };
        Ok(self.base.insert(fingerprint).clone())
    }

    /// The terms that the base comes under.
    fn base_access(&self) -> AccessClass {
        match self.plan.base.stored() {
            Base::Path(path) if self.plan.has_model() => access_of(path),
            _ => AccessClass::Open,
        }
    }

    /// The adapter that tuning starts from, or that is evaluated.
    fn given_adapter(&self) -> Option<PathBuf> {
        given_adapter(self.plan)
    }
}

/// `model.adapter`, with its path resolved.
pub fn given_adapter(plan: &Plan) -> Option<PathBuf> {
    let path = plan.recipe().model.adapter.as_deref()?;
    let folder = plan.document.folder_of("model.adapter");
    let found = adapters::hub::locate(Path::new(path), &folder);
    Some(found.unwrap_or_else(|_| folder.join(path)))
}

/// The model that a recipe makes: where its weights are, and the adapter to put on them.
pub struct Tuned {
    /// The weights.
    pub base: Base,
    /// The adapter, where it is not merged into them.
    pub adapter: Option<PathBuf>,
}

/// What the recipe's stages have made so far: merged weights, or fully trained ones, or an adapter on the base.
pub fn tuned(plan: &Plan) -> Result<Tuned> {
    let on_base = |adapter| Tuned {
        base: plan.base.clone(),
        adapter,
    };
    let made = |name: &str| {
        let folder = plan.folder(name);
        Manifest::read(&folder).map(|manifest| manifest.map(|_| folder))
    };
    if plan.recipe().merge.is_some()
        && let Some(folder) = made("merged")?
    {
        return Ok(Tuned {
            base: Base::Path(folder),
            adapter: None,
        });
    }
    if plan.recipe().train.is_none() {
        return Ok(on_base(given_adapter(plan)));
    }
    if let Some(folder) = made(train::product(plan))? {
        return Ok(match train::product(plan) {
            "adapter" => on_base(Some(folder)),
            _ => Tuned {
                base: Base::Path(folder),
                adapter: None,
            },
        });
    }
    let failure = Failure::user(format!(
        "the recipe `{}` has not been trained yet",
        plan.recipe().name
    ));
    Err(failure
        .hint("train it first with `medtune train RECIPE`, or name its folder with --out")
        .into())
}

/// Loads a model that answers, for chats as the recipe's data has them.
pub fn load(plan: &Plan, model: &Tuned, name: &str, chat: bool) -> Result<finetune::Model> {
    let data = plan.recipe().data.as_ref();
    let template = data.map(|data| data.template).unwrap_or_default();
    load_as(plan, model, name, template, chat)
}

/// As [`load`], for chats written by this template; `chat` says whether there will be any.
pub fn load_as(
    plan: &Plan,
    model: &Tuned,
    name: &str,
    template: TemplateKind,
    chat: bool,
) -> Result<finetune::Model> {
    let checkpoint = finetune::Checkpoint::open(&model.base)?.on(&plan.device.device);
    let adapter = model
        .adapter
        .as_deref()
        .map(PeftAdapter::load)
        .transpose()?;
    let template = template_as(template, &checkpoint.tokenizer, chat)?;
    Ok(checkpoint.into_model(
        plan.recipe().model.dtype.into(),
        adapter,
        template,
        name.to_owned(),
    )?)
}

/// A line about a stage that is done.
fn done(stage: &str, what: &str) {
    note(&format!("{stage:<6} {what}"));
}
