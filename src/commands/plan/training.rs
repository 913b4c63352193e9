//! What the training of a recipe needs on a device: memory by part, steps, time and disk.

use std::path::{Path, PathBuf};

use adapters::LoraConfig;
use adapters::recipe::{AdapterSection, ComputeDtype};
use anyhow::{Context, Result};
use finetune::recipe::{Recompute, TrainMethod};
use finetune::{
    AnsweringShape, Base, BatchShape, Checkpoint, DecoderConfig, DeviceKind, DeviceSpec, DiskInput,
    PlanInput, StoredWeights, TrainPlan, WeightsRead,
};
use kernels::DType;
use ledger::Manifest;
use serde::Serialize;

use crate::device::{Chosen, Compute};
use crate::failure::{self, Failure};
use crate::library;
use crate::plan::{Plan, Stage};
use crate::stages;
use crate::terminal::{bytes, count, duration, table};

/// A training on one device.
#[derive(Debug, Serialize)]
pub struct Sizes {
    device: DeviceSpec,
    /// Measured here, or as the device's file says.
    calibrated: bool,
    fits: bool,
    usable_bytes: u64,
    #[serde(flatten)]
    plan: TrainPlan,
    /// Optimizer steps and tokens of the whole training, where they are known.
    steps: Option<u64>,
    tokens: Option<u64>,
    secs: Option<f64>,
    secs_a_step: f64,
    /// Checkpoints and the result.
    disk_bytes: u64,
    /// What `train.eval_tasks` asks.
    answering: Option<Answers>,
}

/// What a model in training is asked.
#[derive(Debug, Clone, Serialize)]
struct Answers {
    #[serde(flatten)]
    largest: AnsweringShape,
    /// Where this is not of the tasks' items.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated: Option<Estimate>,
}

/// In place of the items.
#[derive(Debug, Clone, Serialize)]
struct Estimate {
    /// What each prompt is taken to have.
    prompt_tokens: usize,
    /// Why the items were not read.
    because: String,
}

/// The model as far as a plan needs it.
struct Shape {
    config: DecoderConfig,
    weights: StoredWeights,
}

/// Plans the recipe's training for each device that is named, or for the one at hand that is chosen; nothing where it has
/// no training, or where neither the model nor its `model.config` is here.
pub fn sizes(plan: &Plan, machines: &[PathBuf], chosen: Chosen) -> Result<Vec<Sizes>> {
    // A GPU that cannot be used is said even where nothing can be planned for it.
    let here = machines
        .is_empty()
        .then(|| Compute::of(chosen))
        .transpose()?;
    let recipe = plan.recipe();
    if recipe.train.is_none() || !plan.stages.contains(&Stage::Train) {
        return Ok(Vec::new());
    }
    let answers = answers(plan);
    let mut sizes = Vec::new();
    if let Some(here) = &here {
        // Nothing is measured where nothing can be planned.
        if let Some(shape) = shape(plan, here.spec().kind)? {
            sizes.push(on(plan, &shape, answers, measured(here)?, true));
        }
        return Ok(sizes);
    }
    for name in machines {
        let device = machine(name)?;
        if let Some(shape) = shape(plan, device.kind)? {
            sizes.push(on(plan, &shape, answers.clone(), device, false));
        }
    }
    Ok(sizes)
}

/// What computes, with the rates of its matrix products measured now.
fn measured(here: &Compute) -> Result<DeviceSpec> {
    let tflops =
        |dtype| Ok::<_, finetune::Error>(finetune::measured_gflops(&here.device, dtype)? / 1e3);
    let f32_tflops = tflops(DType::F32)?;
    Ok(DeviceSpec {
        f32_tflops,
        bf16_tflops: match here.gpu {
            Some(_) => tflops(DType::BF16)?,
            None => f32_tflops,
        },
        ..here.spec()
    })
}

/// A device by its file, or by the name of one that comes with medtune.
fn machine(name: &Path) -> Result<DeviceSpec> {
    let in_recipes = Path::new("recipes/machines")
        .join(name)
        .with_extension("toml");
    for path in [name, in_recipes.as_path()] {
        if path.is_file() {
            return Ok(DeviceSpec::read(path)?);
        }
    }
    let embedded = library::RECIPES.iter().find(|(known, _)| {
        Path::new(known).parent() == Some(Path::new("machines"))
            && Path::new(known).file_stem() == name.file_stem()
    });
    if let Some((known, text)) = embedded {
        return toml::from_str(text)
            .with_context(|| format!("{known} of this build cannot be read"));
    }
    let known: Vec<&str> = library::RECIPES
        .iter()
        .filter_map(|(known, _)| known.strip_prefix("machines/")?.strip_suffix(".toml"))
        .collect();
    Err(
        Failure::user(format!("there is no machine `{}`", name.display()))
            .hint(format!(
                "machines are: {}, or the file of one",
                known.join(", ")
            ))
            .into(),
    )
}

/// From the model, or, where its files are elsewhere, from the config.json that the recipe says it has.
fn shape(plan: &Plan, device: DeviceKind) -> Result<Option<Shape>> {
    let compute = plan.recipe().model.dtype.into();
    let is_here = match plan.base.stored() {
        Base::Path(path) => path.exists(),
        Base::Random { config, .. } => config.exists(),
        Base::Quantized { .. } | Base::Absent { .. } => false,
    };
    if is_here {
        let checkpoint = Checkpoint::open(&plan.base)?;
        return Ok(Some(Shape {
            weights: checkpoint.stored_weights(compute, device)?,
            config: checkpoint.config,
        }));
    }
    let Some(path) = plan.expected_config() else {
        return Ok(None);
    };
    let (config, stored) = finetune::read_config(&path)?;
    let quantization = plan.recipe().model.quantization;
    let held = match device {
        DeviceKind::Cpu => stored,
        DeviceKind::Cuda => compute,
    };
    Ok(Some(Shape {
        weights: StoredWeights {
            bytes: finetune::weight_bytes(&config, held, quantization),
            read: WeightsRead::of(held == compute && quantization.is_none(), device),
        },
        config,
    }))
}

fn on(
    plan: &Plan,
    shape: &Shape,
    answers: Option<Answers>,
    device: DeviceSpec,
    here: bool,
) -> Sizes {
    let recipe = plan.recipe();
    let settings = recipe.train.clone().unwrap_or_default();
    let data = recipe.data.clone().unwrap_or_default();
    let adapter = match (&recipe.adapter, settings.method) {
        (Some(AdapterSection::Lora(lora)), TrainMethod::Adapter) => Some(LoraConfig::from(lora)),
        _ => None,
    };
    let pack = BatchShape {
        tokens: data.max_seq_len,
        targets: data.max_seq_len,
        longest: data.max_seq_len,
    };
    let input = PlanInput {
        config: &shape.config,
        settings: &settings,
        adapter: adapter.as_ref(),
        compute: recipe.model.dtype.into(),
        weights: shape.weights,
        batch: pack,
        answering: answers
            .as_ref()
            .map_or_else(Default::default, |answers| answers.largest),
    };
    let usable_bytes = device.usable_bytes();
    let plan_of = finetune::fit_packs(&input, pack, usable_bytes);
    let (steps, tokens) = length(plan, settings.packs_a_step() as u64);
    let flops = match recipe.model.dtype {
        ComputeDtype::Bf16 => device.bf16_tflops,
        ComputeDtype::F32 => device.f32_tflops,
        ComputeDtype::F64 => device.f32_tflops / 2.0,
    } * 1e12
        * device.efficiency;
    // Computing the forward pass again costs half of what forward and backward cost, a quarter with trained weights.
    let again = match (plan_of.recompute, adapter.is_some()) {
        (Recompute::Full | Recompute::Offload, true) => 1.5,
        (Recompute::Full | Recompute::Offload, false) => 4.0 / 3.0,
        _ => 1.0,
    };
    let passes = plan_of.backward_passes as f64;
    let secs_a_token = plan_of.flops_per_token as f64 * again * passes / flops;
    let tokens_a_step = (data.max_seq_len * settings.packs_a_step()) as f64;
    Sizes {
        fits: plan_of.peak_bytes <= usable_bytes,
        calibrated: here,
        usable_bytes,
        steps,
        tokens,
        secs: tokens.map(|tokens| tokens as f64 * secs_a_token),
        secs_a_step: tokens_a_step * secs_a_token,
        disk_bytes: finetune::disk_need_bytes(&DiskInput {
            settings: &settings,
            total_steps: steps.unwrap_or(u64::MAX),
            state_bytes: plan_of.state_bytes,
            result_bytes: result_bytes(&plan_of, adapter.is_some(), shape),
        }),
        device,
        plan: plan_of,
        answering: answers,
    }
}

/// What `train.eval_tasks` asks, from its items; where they or the model's tokenizer are elsewhere, as if each prompt were
/// as long as a sample may be.
fn answers(plan: &Plan) -> Option<Answers> {
    if plan.train_tasks.is_empty() {
        return None;
    }
    let why = match stages::answering(plan) {
        Ok(largest) => {
            return Some(Answers {
                largest,
                estimated: None,
            });
        }
        Err(error) => error,
    };
    let tokens = plan.recipe().data.clone().unwrap_or_default().max_seq_len;
    let mut largest = AnsweringShape::default();
    for planned in &plan.train_tasks {
        for task in &planned.tasks {
            largest.estimate(task, planned.limit.unwrap_or(usize::MAX), tokens);
        }
    }
    Some(Answers {
        largest,
        estimated: Some(Estimate {
            prompt_tokens: tokens,
            because: failure::in_a_line(&why),
        }),
    })
}

/// The adapter, or the model, as it is stored at the end.
fn result_bytes(plan: &TrainPlan, adapter: bool, shape: &Shape) -> u64 {
    if adapter {
        4 * plan.trained_parameters
    } else {
        shape.weights.bytes
    }
}

/// Steps and tokens of the whole training: from the data, where it is built and its tokens are counted.
fn length(plan: &Plan, packs_a_step: u64) -> (Option<u64>, Option<u64>) {
    let settings = plan.recipe().train.clone().unwrap_or_default();
    let counted = Manifest::read(&plan.folder("data")).ok().flatten();
    let packs = counted
        .as_ref()
        .and_then(|manifest| manifest.details.get("packs")?.as_u64());
    let tokens = counted.as_ref().and_then(|manifest| {
        let total = manifest.details.get("total")?;
        total.get("tokens")?.as_u64().filter(|tokens| *tokens > 0)
    });
    let epoch = packs
        .filter(|packs| *packs > 0)
        .map(|packs| packs.div_ceil(packs_a_step));
    let steps = settings
        .max_steps
        .or(epoch.map(|steps| (steps as f64 * settings.epochs).ceil() as u64));
    let tokens = match (steps, epoch, tokens) {
        (Some(steps), Some(epoch), Some(tokens)) => {
            Some((tokens as f64 * steps as f64 / epoch as f64) as u64)
        }
        _ => None,
    };
    (steps, tokens)
}

/// For people.
pub fn shown(sizes: &Sizes) -> String {
    let plan = &sizes.plan;
    let device = &sizes.device;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("parameters trained", count(plan.trained_parameters)),
        row("parameters frozen", count(plan.frozen_parameters)),
        row("tokens at once", count(plan.batch.tokens as u64)),
        row("recompute", format!("{:?}", plan.recompute).to_lowercase()),
    ];
    rows.extend(
        plan.memory
            .iter()
            .map(|part| row(part.part, bytes(part.bytes))),
    );
    rows.push(row("peak memory", bytes(plan.peak_bytes)));
    rows.push(row("  of", bytes(sizes.usable_bytes)));
    rows.push(row("disk", bytes(sizes.disk_bytes)));
    rows.push(row(
        "GFLOP a token",
        format!("{:.3}", plan.flops_per_token as f64 / 1e9),
    ));
    if plan.backward_passes > 1 {
        rows.push(row(
            "backward passes a step",
            plan.backward_passes.to_string(),
        ));
    }
    if let Some(steps) = sizes.steps {
        rows.push(row("steps", count(steps)));
    }
    if let Some(tokens) = sizes.tokens {
        rows.push(row("tokens", count(tokens)));
    }
    let time = |secs: f64| duration(std::time::Duration::from_secs_f64(secs));
    rows.push(match (sizes.secs, sizes.steps) {
        (Some(secs), _) => row("time", time(secs)),
        (None, Some(steps)) => row("time, at most", time(sizes.secs_a_step * steps as f64)),
        (None, None) => row("time a full step", time(sizes.secs_a_step)),
    });
    let how = if sizes.calibrated && device.kind == DeviceKind::Cuda {
        "memory is planned block by block; time is an estimate from the rate of matrix products just measured on it"
    } else if sizes.calibrated {
        "memory is planned block by block; time follows from a measurement just made"
    } else {
        "memory is planned block by block; time is an estimate from the device's file, nothing was measured on it"
    };
    let mut text = format!("\nTraining on {} ({how})\n{}", device.name, table(&rows));
    if sizes.calibrated && device.kind == DeviceKind::Cuda {
        text.push_str(&format!("  {}\n", device.about));
    }
    let answers = sizes.answering.as_ref();
    if let Some(estimated) = answers.and_then(|answers| answers.estimated.as_ref()) {
        let tokens = count(estimated.prompt_tokens as u64);
        text.push_str(&format!(
            "  asking train.eval_tasks is planned as if every prompt had {tokens} tokens, which is likely too much:\n    {}\n",
            estimated.because
        ));
    }
    if sizes.steps.is_none() {
        text.push_str("  steps and tokens are known once the data is built: medtune build\n");
    }
    if !sizes.fits {
        let largest = plan.memory.iter().max_by_key(|part| part.bytes);
        let largest = largest.map_or(String::new(), |part| {
            format!("; {} alone are {}", part.part, bytes(part.bytes))
        });
        let devices = plan.peak_bytes.div_ceil(sizes.usable_bytes.max(1));
        text.push_str(&format!(
            "  DOES NOT FIT one {}: it needs {} and there are {}{largest}.\n  {devices} such devices would hold it, and medtune trains on one.\n",
            device.name,
            bytes(plan.peak_bytes),
            bytes(sizes.usable_bytes),
        ));
    }
    text
}
