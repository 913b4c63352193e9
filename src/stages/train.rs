//! The training stage: samples and a base to an adapter, or to a whole model.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use adapters::recipe::{AdapterSection, ComputeDtype};
use adapters::{
    BaseIdentity, Belonging, ExportOptions, LoraConfig, Method, Parameters, PeftAdapter,
};
use anyhow::{Context, Result};
use datasets::BuiltSamples;
use finetune::recipe::TrainMethod;
use finetune::{
    BatchShape, Checkpoint, DeviceSpec, FitSamples, PlanInput, TaskScorer, TrainJob, TrainOutcome,
    ValidationTask,
};
use ledger::files::{StagedDir, create_dir_all, write_atomic};
use ledger::{FileHash, Manifest};
use serde_json::{Value, json};

use super::identity::{identity, what_trains};
use super::stop::{Stop, command_line};
use super::trained::{counts, elements, summary, write_too_long};
use super::watch::evaluated;
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
pub(super) struct Prepared {
    checkpoint: Checkpoint,
    pub(super) train: Tokens,
    pub(super) validation: Tokens,
    /// What is asked during training.
    watched: Vec<ValidationTask>,
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
        // What chooses the weights is in them.
        let access = access.max(self.access_of_choice());
        let mut details = json!({
            "steps": outcome.total_steps,
            "loss": outcome.final_loss,
            "eval_loss": outcome.eval_loss,
            "best_step": outcome.best.as_ref().map(|best| best.step),
            "trained_parameters": elements(&outcome.parameters),
            "cpu_level": cpu_level(),
        });
        self.watched_details(&outcome, &mut details);
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
        let mut train = what_trains(recipe.train.as_ref())?;
        inputs.extend(self.what_chooses(&mut train)?);
        Ok(StageInput {
            stage: "train",
            inputs,
            settings: json!({
                "seed": recipe.seed,
                "dtype": recipe.model.dtype,
                "adapter": recipe.adapter,
                "train": train,
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
            watched: self.watched_tasks()?,
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
        let watch = self.watch(&prepared.watched)?;
        let fitted = finetune::fit(
            &PlanInput {
                config: &prepared.checkpoint.config,
                settings: &recipe.train.clone().unwrap_or_default(),
                adapter,
                compute,
                weights: prepared.checkpoint.stored_weights(compute)?,
                batch: BatchShape::default(),
                answering: watch
                    .as_ref()
                    .map_or_else(Default::default, |watch| watch.shape),
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
        let decoder = Arc::new(decoder);
        let bar = bar(0, "train");
        let mut progress = |asked: eval::Progress<'_>| {
            bar.set_message(format!("{} {}/{}", asked.task, asked.done, asked.total));
        };
        let tasks = watch.map(|watch| TaskScorer {
            model: watch.model(Arc::clone(&decoder)),
            tasks: &prepared.watched,
            batch_items: recipe.eval.clone().unwrap_or_default().batch_items,
            progress: &mut progress,
        });
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
            tasks,
        };
        let outcome = finetune::train(job, &mut |step, total| {
            bar.set_length(total);
            bar.set_position(step.step);
            bar.set_message(format!(
                "loss {:.3}, {:.0} tokens/s",
                step.loss, step.tokens_per_sec
            ));
            if let Some(line) = evaluated(step) {
                bar.suspend(|| done("train", &line));
            }
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
pub(super) const TOO_LONG_FILE: &str = "too_long.jsonl";
/// What was chosen for settings that say "auto", in `train/`.
const RESOLVED_FILE: &str = "resolved.json";
