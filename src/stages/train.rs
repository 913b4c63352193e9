//! The training stage: samples and a base to an adapter, or to a whole model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adapters::recipe::{AdapterSection, ComputeDtype};
use adapters::{
    BaseIdentity, Belonging, ExportOptions, LoraConfig, Method, Parameters, PeftAdapter,
};
use anyhow::{Context, Result};
use datasets::BuiltSamples;
use finetune::recipe::TrainMethod;
use finetune::{BatchShape, Checkpoint, DeviceSpec, FitSamples, PlanInput, TrainJob, TrainOutcome};
use ledger::files::{StagedDir, create_dir_all, write_atomic};
use ledger::{FileHash, Manifest};
use serde_json::{Value, json};

use super::identity::{identity, what_trains};
use super::stop::{Stop, command_line};
use super::{Tokens, Work, done, template_of, tokens};
use crate::failure::Failure;
use crate::plan::Plan;
use crate::run::{Clock, StageInput, cpu_level};
use crate::terminal::{bar, bytes, count, note};

/// The folder of what training makes.
pub(super) fn product(plan: &Plan) -> &'static str {
    match plan.recipe().train.as_ref().map(|train| train.method) {
        Some(TrainMethod::Full) => "model",
        _ => "adapter",
    }
}

/// What goes into a training.
struct Prepared {
    checkpoint: Checkpoint,
    train: Tokens,
    validation: Tokens,
}

impl Work<'_> {
    /// Trains, or goes on with a training; `None` where it was stopped before its end.
    pub(super) fn train(&mut self, data: &Manifest) -> Result<Option<Manifest>> {
        let input = self.train_input(data)?;
        let product = product(self.plan);
        if let Some(manifest) = self.run.kept(product, &input)? {
            return Ok(Some(manifest));
        }
        let clock = Clock::start();
        let prepared = self.prepare()?;
        let folder = self.run.folder("train");
        let method = self.method();
        create_dir_all(&folder)?;
        self.clear_finished(&folder, &input)?;
        write_too_long(&folder, &prepared)?;
        let outcome = self.steps(&prepared, &method, &input, &folder)?;
        let facts = json!({
            "tokens": outcome.tokens,
            "target_tokens": outcome.target_tokens,
            "step_secs": outcome.step_secs,
            "tokens_per_sec": outcome.tokens as f64 / outcome.step_secs,
            "resumed_from_step": outcome.resumed_from,
            "eval_loss_before": outcome.eval_loss_before,
            "memory": outcome.memory,
        });
        if outcome.stopped {
            let (steps, total) = (count(outcome.steps), count(outcome.total_steps));
            done(
                "train",
                &format!(
                    "stopped after step {steps} of {total}, with a checkpoint; to go on: {}",
                    command_line()
                ),
            );
            return Ok(None);
        }
        let access = data.access.max(self.base_access());
        let details = json!({
            "steps": outcome.total_steps,
            "loss": outcome.final_loss,
            "eval_loss": outcome.eval_loss,
            "best_step": outcome.best.map(|best| best.step),
            "trained_parameters": elements(&outcome.parameters),
            "cpu_level": cpu_level(),
        });
        let finished = serde_json::to_vec(&identity(&input))?;
        let target = self.run.folder(product);
        let write = |folder: &Path| -> Result<Manifest> {
            let mut manifest = input.manifest(folder, access, details)?;
            manifest.counts = counts(&prepared, &outcome);
            manifest.write(folder)?;
            clock.write(folder, facts)?;
            Ok(manifest)
        };
        let manifest = match &method {
            Method::Lora(config) => {
                let staged = StagedDir::create(&target)?;
                self.save_adapter(
                    &prepared.checkpoint,
                    &outcome.parameters,
                    config,
                    staged.path(),
                )?;
                let manifest = write(staged.path())?;
                staged.commit()?;
                manifest
            }
            _ => {
                // A model trained in bf16 is saved as it is; any other in the dtype that its base has.
                let bf16 = matches!(method, Method::FullBf16 { .. });
                let options = ExportOptions {
                    companions: companions(&prepared.checkpoint)?,
                    dtype: bf16.then(|| ComputeDtype::Bf16.into()),
                    ..Default::default()
                };
                adapters::save_full(
                    &prepared.checkpoint.weights,
                    &outcome.parameters,
                    &target,
                    &options,
                )?;
                write(&target)?
            }
        };
        write_atomic(&folder.join(FINISHED_FILE), &finished)?;
        summary(&outcome, &clock);
        Ok(Some(manifest))
    }

    /// Clears the logs and checkpoints of a finished training that had other settings, or that is to be done
    /// again. Those of an unfinished one stay: finetune goes on from them, or refuses if they are of another run.
    fn clear_finished(&self, folder: &Path, input: &StageInput) -> Result<()> {
        let Ok(finished) = fs::read(folder.join(FINISHED_FILE)) else {
            return Ok(());
        };
        if self.run.is_fresh() || finished != serde_json::to_vec(&identity(input))? {
            let failed = || format!("cannot clear `{}`", folder.display());
            fs::remove_dir_all(folder)
                .and_then(|()| fs::create_dir(folder))
                .with_context(failed)?;
        }
        Ok(())
    }

    fn train_input(&mut self, data: &Manifest) -> Result<StageInput> {
        let recipe = self.plan.recipe();
        let section = recipe.data.clone().unwrap_or_default();
        let mut inputs = vec![self.base_hash()?];
        inputs.extend(data.outputs.iter().map(|file| FileHash {
            path: format!("data/{}", file.path),
            ..file.clone()
        }));
        if let Some(adapter) = self.given_adapter() {
            let files = FileHash::tree(&adapter)?.into_iter();
            inputs.extend(files.map(|file| FileHash {
                path: format!("start/{}", file.path),
                ..file
            }));
        }
        let tokenizer = Checkpoint::open(&self.plan.base)?.tokenizer.fingerprint()?;
        inputs.push(FileHash {
            path: "tokenizer".into(),
            sha256: tokenizer,
            bytes: 0,
        });
        Ok(StageInput {
            stage: "train",
            inputs,
            settings: json!({
                "seed": recipe.seed,
                "dtype": recipe.model.dtype,
                "adapter": recipe.adapter,
                "train": what_trains(recipe.train.as_ref())?,
                "data": {
                    "template": section.template,
                    "max_seq_len": section.max_seq_len,
                    "on_too_long": section.on_too_long,
                    "packing": section.packing,
                },
            }),
        })
    }

    fn prepare(&self) -> Result<Prepared> {
        let section = self.plan.recipe().data.clone().unwrap_or_default();
        let BuiltSamples { train, validation } = datasets::load_built(&self.run.folder("data"))?;
        let checkpoint = Checkpoint::open(&self.plan.base)?;
        self.check_expected(&checkpoint)?;
        let chat = matches!(train, datasets::Samples::Conversations(_));
        let template = template_of(self.plan, &checkpoint.tokenizer, chat)?;
        let train = tokens(&train, &section, &checkpoint.tokenizer, &template)?;
        let validation = tokens(&validation, &section, &checkpoint.tokenizer, &template)?;
        for (what, set) in [("training", &train), ("validation", &validation)] {
            if set.dropped + set.truncated > 0 {
                note(&format!(
                    "train  {what} samples longer than {} tokens: {} left out, {} with a shortened prompt; all are in {}",
                    section.max_seq_len,
                    set.dropped,
                    set.truncated,
                    self.run.folder("train").join(TOO_LONG_FILE).display()
                ));
            }
        }
        Ok(Prepared {
            checkpoint,
            train,
            validation,
        })
    }

    /// Refuses a model that is not of the shape that the recipe was planned for.
    fn check_expected(&self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(path) = self.plan.expected_config() else {
            return Ok(());
        };
        if finetune::read_config(&path)?.0 == checkpoint.config {
            return Ok(());
        }
        let failure = Failure::user(format!(
            "the model is not of the shape that `{}` describes",
            path.display()
        ));
        Err(failure
            .hint("give the config.json of this model as model.config, or leave model.config out")
            .into())
    }

    fn method(&self) -> Method {
        let recipe = self.plan.recipe();
        match (
            &recipe.adapter,
            recipe.train.as_ref().map(|train| train.method),
        ) {
            (Some(AdapterSection::Lora(lora)), Some(TrainMethod::Adapter)) => {
                Method::Lora(LoraConfig::from(lora))
            }
            _ => recipe.train.clone().unwrap_or_default().weights.method(),
        }
    }

    fn steps(
        &mut self,
        prepared: &Prepared,
        method: &Method,
        input: &StageInput,
        folder: &Path,
    ) -> Result<TrainOutcome> {
        let recipe = self.plan.recipe();
        let section = recipe.data.clone().unwrap_or_default();
        let adapter = match method {
            Method::Lora(config) => Some(config),
            _ => None,
        };
        let compute = recipe.model.dtype.into();
        let fitted = finetune::fit(
            &PlanInput {
                config: &prepared.checkpoint.config,
                settings: &recipe.train.clone().unwrap_or_default(),
                adapter,
                compute,
                weights: prepared.checkpoint.stored_weights(compute)?,
                batch: BatchShape::default(),
            },
            FitSamples {
                samples: &prepared.train.samples,
                max_seq_len: section.max_seq_len,
                packing: section.packing,
                seed: recipe.seed,
            },
            DeviceSpec::this_machine().usable_bytes(),
            &folder.join(RESOLVED_FILE),
        )?;
        let settings = &fitted.settings;
        let start = self
            .given_adapter()
            .map(|path| PeftAdapter::load(&path))
            .transpose()?;
        let (mut decoder, parameters) =
            prepared
                .checkpoint
                .decoder(compute, method.clone(), start, recipe.seed)?;
        done(
            "train",
            &format!(
                "{} parameters, {} samples, {} of memory",
                count(elements(&parameters)),
                count(prepared.train.samples.len() as u64),
                bytes(fitted.plan.peak_bytes)
            ),
        );
        decoder.set_recompute(settings.recompute);
        let stop = Stop::listen()?;
        let job = TrainJob {
            decoder: &decoder,
            parameters,
            train: &prepared.train.samples,
            validation: &prepared.validation.samples,
            settings,
            max_seq_len: section.max_seq_len,
            packing: section.packing,
            seed: recipe.seed,
            folder,
            run: identity(input),
            stop: stop.flag(),
            plan: Some(&fitted.plan),
        };
        let bar = bar(0, "train");
        let outcome = finetune::train(job, &mut |step, total| {
            bar.set_length(total);
            bar.set_position(step.step);
            bar.set_message(format!(
                "loss {:.3}, {:.0} tokens/s",
                step.loss, step.tokens_per_sec
            ));
        });
        bar.finish_and_clear();
        self.stop_asked = stop.asked();
        Ok(outcome?)
    }

    fn save_adapter(
        &mut self,
        checkpoint: &Checkpoint,
        parameters: &Parameters,
        config: &LoraConfig,
        folder: &Path,
    ) -> Result<()> {
        // As the recipe writes it: an absolute path would be another one on every machine.
        let base = self.plan.recipe().model.path.as_deref();
        let fingerprint = self.base_fingerprint()?;
        let belonging = Belonging {
            base_fingerprint: fingerprint.whole,
            tokenizer_fingerprint: Some(checkpoint.tokenizer.fingerprint()?),
            base: Some(BaseIdentity {
                name: base.map(str::to_owned),
                weights_sha256: Some(fingerprint.weights),
                ..checkpoint.identity()
            }),
        };
        adapters::peft::save(folder, parameters, config, base, Some(&belonging))?;
        Ok(())
    }
}

/// The files that a model of a GGUF base, or of fresh weights, needs beside its weights.
pub fn companions(checkpoint: &Checkpoint) -> Result<Vec<(String, Value)>> {
    let in_folder = checkpoint
        .weights
        .folder()
        .is_some_and(|folder| folder.join("tokenizer.json").is_file());
    if in_folder {
        return Ok(Vec::new());
    }
    let (tokenizer, config) = checkpoint.tokenizer.files_json()?;
    Ok(vec![
        ("tokenizer.json".into(), tokenizer),
        ("tokenizer_config.json".into(), config),
    ])
}

/// Says in `train/` that the training is finished, and which it was.
const FINISHED_FILE: &str = "finished.json";
/// The file of samples that were too long, in `train/`.
const TOO_LONG_FILE: &str = "too_long.jsonl";
/// What was chosen for settings that say "auto", in `train/`.
const RESOLVED_FILE: &str = "resolved.json";

fn write_too_long(folder: &Path, prepared: &Prepared) -> Result<()> {
    let all = prepared
        .train
        .too_long
        .iter()
        .chain(&prepared.validation.too_long);
    let text: String = all.map(|sample| format!("{sample}\n")).collect();
    Ok(write_atomic(&folder.join(TOO_LONG_FILE), text.as_bytes())?)
}

fn counts(prepared: &Prepared, outcome: &TrainOutcome) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([("skipped_steps".to_owned(), outcome.skipped_steps)]);
    for (name, set) in [
        ("train", &prepared.train),
        ("validation", &prepared.validation),
    ] {
        let mut add = |what: &str, number| counts.insert(format!("{name}.{what}"), number);
        add("samples", set.samples.len() as u64);
        add("tokens", set.tokens());
        add("target_tokens", set.target_tokens());
        add("dropped_too_long", set.dropped as u64);
        add("truncated", set.truncated as u64);
    }
    counts
}

fn elements(parameters: &Parameters) -> u64 {
    parameters
        .0
        .iter()
        .map(|parameter| parameter.value.elem_count() as u64)
        .sum()
}

fn summary(outcome: &TrainOutcome, clock: &Clock) {
    let mut what = format!("{} steps", count(outcome.total_steps));
    if outcome.resumed_from > 0 {
        what.push_str(&format!(" (from step {} on)", count(outcome.resumed_from)));
    }
    if outcome.skipped_steps > 0 {
        let skipped = count(outcome.skipped_steps);
        what.push_str(&format!(", {skipped} of them left out as not finite"));
    }
    if let Some(best) = outcome.best {
        what.push_str(&format!(", the weights of step {}", count(best.step)));
    }
    if let Some(loss) = outcome.final_loss {
        what.push_str(&format!(", loss {loss:.3}"));
    }
    match (outcome.eval_loss_before, outcome.eval_loss) {
        (Some(before), Some(after)) => {
            what.push_str(&format!(", held-out loss {before:.3} to {after:.3}"))
        }
        (None, Some(after)) => what.push_str(&format!(", held-out loss {after:.3}")),
        _ => {}
    }
    let speed = outcome.tokens as f64 / outcome.step_secs;
    if speed.is_finite() {
        what.push_str(&format!(", {} tokens/s", count(speed as u64)));
    }
    done("train", &format!("{what}, in {}", clock.shown()));
}
