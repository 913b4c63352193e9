//! `medtune plan`: what a recipe would do, before anything runs.

pub mod endpoints;
mod training;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use datasets::recipe::SourceSection;
use finetune::Base;
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::device::Chosen;
use crate::failure::Exit;
use crate::plan::{Plan, PlannedTask};
use crate::terminal::{print, print_json};
use endpoints::Sent;
use training::Sizes;

/// Something a run needs, and whether it is here.
struct Needed {
    what: String,
    here: bool,
}

pub fn plan(args: &PlanArgs, json: bool) -> Result<Exit> {
    let chosen = Chosen::parse(&args.stage.flags.device)?;
    let plan = Plan::to_look_at(&args.stage)?;
    let needed = needed(&plan);
    let sizes = training::sizes(&plan, &args.machine, chosen)?;
    let endpoints = endpoints::of(&plan);
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
            "stages": stages, "needs": needs, "tasks": tasks,
            "endpoints": endpoints.iter().map(Sent::json).collect::<Vec<_>>(), "train": sizes,
        }))?;
        return Ok(Exit::Done);
    }
    print(&shown(&plan, &needed, &endpoints, &sizes))?;
    Ok(Exit::Done)
}

fn shown(plan: &Plan, needed: &[Needed], endpoints: &[Sent<'_>], sizes: &[Sizes]) -> String {
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
    for (heading, tasks) in [
        ("Asks during training", &plan.train_tasks),
        ("Asks after the merge", &plan.merge_tasks),
        ("Asks", &plan.tasks),
    ] {
        text.push_str(&asks(heading, tasks));
    }
    if !endpoints.is_empty() {
        text.push_str("\nEndpoints\n");
    }
    text.extend(endpoints.iter().map(|sent| sent.shown("  ")));
    for sizes in sizes {
        text.push_str(&training::shown(sizes));
    }
    text
}

fn asks(heading: &str, tasks: &[PlannedTask]) -> String {
    if tasks.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{heading}\n");
    for planned in tasks {
        let items = endpoints::items(planned.limit);
        for task in &planned.tasks {
            text.push_str(&format!(
                "  {} ({}), {items}\n",
                task.name,
                task.answering.name()
            ));
        }
    }
    text
}

/// What the stages read from outside the run.
fn needed(plan: &Plan) -> Vec<Needed> {
    let mut paths = Vec::new();
    match plan.base.stored() {
        Base::Random { config, .. } => paths.push(config.clone()),
        Base::Path(path) if plan.has_model() => paths.push(path.clone()),
        Base::Absent { name, .. } => paths.push(name.to_string().into()),
        _ => {}
    }
    let section = plan.recipe().data.as_ref();
    let sources = section.into_iter().flat_map(|data| data.sources());
    let tasks = [&plan.train_tasks, &plan.merge_tasks, &plan.tasks];
    let tasks = tasks.into_iter().flatten();
    let tasks = tasks.map(|planned| &planned.tasks[0].source);
    let in_root = |source: &SourceSection| plan.data_root.join(&source.path);
    paths.extend(sources.chain(tasks).map(in_root));
    let mut seen = BTreeSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    paths
        .into_iter()
        .map(|path| Needed {
            here: path.exists(),
            what: path.display().to_string(),
        })
        .collect()
}
