//! `medtune build`: a recipe's data, or the plan of it.

use std::path::Path;

use anyhow::Result;
use datasets::PlannedSource;
use ledger::Manifest;
use serde_json::{Value, json};

use super::run::run_plan;
use crate::args::BuildArgs;
use crate::failure::Exit;
use crate::plan::{Plan, Stage};
use crate::terminal::{bytes, count, print, print_json, table};

pub fn build(args: &BuildArgs, json: bool) -> Result<Exit> {
    let mut plan = Plan::of(&args.stage)?;
    plan.require(Stage::Data)?;
    plan.build.parquet = args.parquet;
    if args.plan {
        return show_plan(&plan, json);
    }
    let exit = run_plan(&plan, Some(Stage::Data), args.stage.fresh, json)?;
    if !json && let Some(manifest) = Manifest::read(&plan.folder("data"))? {
        print(&format!("\n{}", composition(&manifest.details)))?;
    }
    Ok(exit)
}

fn show_plan(plan: &Plan, json: bool) -> Result<Exit> {
    let mut section = plan.recipe().data.clone().unwrap_or_default();
    let sources = datasets::planned_sources(&section, &plan.data_root)?;
    let sampled = section.clone();
    for group in &mut section.group {
        group.quota = group.quota.map(|quota| sampled.sampled(quota));
    }
    let quota: usize = section
        .group
        .iter()
        .filter_map(|group| group.quota)
        .sum::<usize>()
        + sources
            .iter()
            .filter(|s| s.group.is_none())
            .filter_map(|s| s.quota)
            .sum::<usize>();
    if json {
        print_json(
            &json!({"name": plan.recipe().name, "sources": sources, "groups": section.group, "quota": quota}),
        )?;
        return Ok(Exit::Done);
    }
    let head = [
        "source", "kind", "quota", "group", "records", "access", "files",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(sources.iter().map(row));
    let mut text = format!("{}\n\n{}", plan.recipe().name, table(&rows));
    for group in &section.group {
        if let Some(quota) = group.quota {
            text.push_str(&format!(
                "group {}: {} samples\n",
                group.name,
                count(quota as u64)
            ));
        }
        if let Some(share) = group.token_share {
            text.push_str(&format!(
                "group {}: {share} parts of the tokens\n",
                group.name
            ));
        }
    }
    if quota > 0 {
        text.push_str(&format!(
            "quotas together: {} samples\n",
            count(quota as u64)
        ));
    }
    let missing: Vec<&PlannedSource> = sources.iter().filter(|s| !s.missing.is_empty()).collect();
    let tasks = plan
        .decontaminate
        .iter()
        .filter_map(|planned| planned.tasks.first());
    let compared: Vec<_> = tasks
        .filter(|task| !plan.data_root.join(&task.source.path).exists())
        .collect();
    if !missing.is_empty() || !compared.is_empty() {
        let root = match plan.data_root.as_os_str().is_empty() {
            true => Path::new("."),
            false => &plan.data_root,
        };
        text.push_str(&format!("\nMissing, below {}\n", root.display()));
    }
    for source in missing {
        text.push_str(&format!(
            "  {}: {}\n",
            source.name,
            source.missing.join(", ")
        ));
        if let Some(obtain) = &source.obtain {
            text.push_str(&format!("    {obtain}\n"));
        }
    }
    for task in compared {
        text.push_str(&format!(
            "  compared with {}: {}\n",
            task.name, task.source.path
        ));
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn row(source: &PlannedSource) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or("-".to_owned(), count);
    vec![
        source.name.clone(),
        source.kind.clone().unwrap_or_else(|| "-".into()),
        number(source.quota.map(|quota| quota as u64)),
        source.group.clone().unwrap_or_else(|| "-".into()),
        number(source.expected_records),
        source.access.to_string(),
        match source.missing.is_empty() {
            true => format!("{} ({})", source.files, bytes(source.bytes)),
            false => "MISSING".into(),
        },
    ]
}

/// What came of each source, from a manifest's details.
fn composition(details: &Value) -> String {
    let number = |source: &Value, key: &str| source[key].as_u64().unwrap_or(0);
    let head = [
        "source",
        "read",
        "left out",
        "over quota",
        "train",
        "validation",
        "tokens",
        "short of",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for source in details["sources"].as_array().into_iter().flatten() {
        let dropped = source["dropped"].as_object().into_iter().flatten();
        let dropped: u64 = dropped.filter_map(|(_, n)| n.as_u64()).sum();
        let name = source["name"].as_str().unwrap_or_default().to_owned();
        let mut row = vec![name, count(number(source, "read")), count(dropped)];
        for key in ["over_quota", "train", "validation", "tokens", "short_of"] {
            row.push(count(number(source, key)));
        }
        rows.push(row);
    }
    let mut text = table(&rows);
    if let Some(packs) = details["packs"].as_u64() {
        text.push_str(&format!(
            "the training samples fill {} packs\n",
            count(packs)
        ));
    }
    text
}
