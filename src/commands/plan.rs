//! `medtune plan`: what a recipe would do, before anything runs.

use std::path::Path;

use adapters::recipe::{AdapterSection, ComputeDtype};
use adapters::{LoraConfig, Method};
use anyhow::Result;
use datasets::recipe::SourceSection;
use finetune::recipe::TrainMethod;
use finetune::{Base, Checkpoint, PlanInput, TrainPlan};
use serde_json::{Value, json};

use crate::args::StageArgs;
use crate::failure::Exit;
use crate::plan::{Plan, Stage};
use crate::terminal::{bytes, count, print, print_json, table};

/// Something a run needs, and whether it is here.
struct Needed {
    what: String,
    here: bool,
}

pub fn plan(args: &StageArgs, json: bool) -> Result<Exit> {
    let plan = Plan::of(args)?;
    let needed = needed(&plan);
    let sizes = match needed.iter().all(|needed| needed.here) {
        true => sizes(&plan)?,
        // What is not here cannot be measured, and the rest of the plan is still worth having.
        false => None,
    };
    if json {
        let needs: Vec<Value> = needed
            .iter()
            .map(|needed| json!({"path": needed.what, "here": needed.here}))
            .collect();
        let stages: Vec<String> = plan.stages.iter().map(ToString::to_string).collect();
        let tasks: Vec<&str> = plan
            .tasks
            .iter()
            .flat_map(|planned| &planned.tasks)
            .map(|task| task.name.as_str())
            .collect();
        print_json(&json!({
            "name": plan.recipe().name, "out": plan.out, "data_root": plan.data_root,
            "stages": stages, "needs": needs, "tasks": tasks, "train": sizes,
        }))?;
        return Ok(Exit::Done);
    }
    print(&shown(&plan, &needed, sizes.as_ref()))?;
    Ok(Exit::Done)
}

fn shown(plan: &Plan, needed: &[Needed], sizes: Option<&TrainPlan>) -> String {
    let recipe = plan.recipe();
    let about = if recipe.about.is_empty() {
        String::new()
    } else {
        format!(": {}", recipe.about)
    };
    let mut text = format!(
        "{}{about}\n\nStages, into {}\n",
        recipe.name,
        plan.out.display()
    );
    for stage in &plan.stages {
        text.push_str(&format!("  {stage}\n"));
    }
    let here = plan.data_root.as_os_str().is_empty();
    let root = if here {
        Path::new(".")
    } else {
        &plan.data_root
    };
    text.push_str(&format!("\nNeeds, with the data root {}\n", root.display()));
    for needed in needed {
        text.push_str(&format!(
            "  {}  {}\n",
            if needed.here { "here   " } else { "MISSING" },
            needed.what
        ));
    }
    if !plan.tasks.is_empty() {
        text.push_str("\nAsks\n");
        for planned in &plan.tasks {
            let items = planned
                .limit
                .map_or("all items".to_owned(), |limit| format!("{limit} items"));
            for task in &planned.tasks {
                text.push_str(&format!(
                    "  {} ({}), {items}\n",
                    task.name,
                    task.answering.name()
                ));
            }
        }
    }
    if let Some(sizes) = sizes {
        text.push_str("\nTraining (memory is an estimate)\n");
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows = vec![
            row("parameters trained", count(sizes.trained_parameters)),
            row("parameters frozen", count(sizes.frozen_parameters)),
            row(
                "GFLOP a token",
                format!("{:.3}", sizes.flops_per_token as f64 / 1e9),
            ),
        ];
        rows.extend(
            sizes
                .memory
                .iter()
                .map(|part| row(part.part, bytes(part.bytes))),
        );
        rows.push(row("peak memory", bytes(sizes.peak_bytes)));
        text.push_str(&table(&rows));
    }
    text
}

/// What the stages read from outside the run.
fn needed(plan: &Plan) -> Vec<Needed> {
    let mut paths = Vec::new();
    match plan.base.stored() {
        Base::Path(path) if plan.has_model() => paths.push(path.clone()),
        Base::Random { config, .. } => paths.push(config.clone()),
        _ => {}
    }
    let section = plan.recipe().data.as_ref();
    let sources = section.into_iter().flat_map(|data| data.sources());
    let tasks = plan.tasks.iter().map(|planned| &planned.tasks[0].source);
    let in_root = |source: &SourceSection| plan.data_root.join(&source.path);
    paths.extend(sources.chain(tasks).map(in_root));
    paths.dedup();
    paths
        .into_iter()
        .map(|path| Needed {
            here: path.exists(),
            what: path.display().to_string(),
        })
        .collect()
}

/// Opens the model's headers, builds the layers over the mapped weights, and counts.
fn sizes(plan: &Plan) -> Result<Option<TrainPlan>> {
    let recipe = plan.recipe();
    let (Some(settings), Some(data)) = (&recipe.train, &recipe.data) else {
        return Ok(None);
    };
    if !plan.stages.contains(&Stage::Train) {
        return Ok(None);
    }
    // Layers are counted before anything is quantized, which takes time.
    let mut checkpoint = Checkpoint::open(plan.base.stored())?;
    let method = match (&recipe.adapter, settings.method) {
        (Some(AdapterSection::Lora(lora)), TrainMethod::Adapter) => {
            Method::Lora(LoraConfig::from(lora))
        }
        _ => Method::Full,
    };
    let trained = match method {
        Method::Full => checkpoint.config.parameter_count(),
        method => {
            let (_, parameters) =
                checkpoint.decoder(recipe.model.dtype.into(), method, None, recipe.seed)?;
            parameters
                .0
                .iter()
                .map(|parameter| parameter.value.elem_count() as u64)
                .sum()
        }
    };
    if let Base::Quantized { quantization, .. } = plan.base {
        checkpoint.weights = checkpoint.weights.quantized(quantization)?;
    }
    Ok(Some(finetune::plan(&PlanInput {
        config: &checkpoint.config,
        settings,
        weight_bytes: weight_bytes(&checkpoint),
        trained,
        max_seq_len: data.max_seq_len,
        activation_bytes: match recipe.model.dtype {
            ComputeDtype::F32 => 4,
            ComputeDtype::Bf16 => 2,
            ComputeDtype::F64 => 8,
        },
    })))
}

/// The size of the base weights as they are kept. Vectors (norms, biases) are counted as f32.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    let sizes = checkpoint
        .weights
        .views()
        .map(|view| match view.shape.len() {
            2 => view.size_bytes(),
            _ => 4 * view.elements() as u64,
        });
    sizes.sum()
}
