//! `medtune adapter inspect`: what an adapter is and does.

use std::collections::BTreeSet;

use adapters::{Inspection, ModuleUpdate, NoOp, PeftAdapter, TargetModules};
use anyhow::Result;
use ledger::Manifest;
use serde_json::json;

use super::LISTED;
use super::args::InspectArgs;
use crate::failure::Exit;
use crate::run::access_of;
use crate::terminal::{count, note, print, print_json, table};

pub fn inspect(args: &InspectArgs, json: bool) -> Result<Exit> {
    let adapter = PeftAdapter::load(&args.adapter)?;
    let found = adapters::inspect(&adapter)?;
    let access = access_of(&args.adapter);
    if json {
        let mut value = serde_json::to_value(&found)?;
        value["access"] = json!(access);
        print_json(&value)?;
        return Ok(Exit::Done);
    }
    let known = Manifest::read(&args.adapter)?.is_some();
    let access = match known {
        true => access.to_string(),
        false => format!("{access} (the folder has no manifest)"),
    };
    let mut text = facts(&found, &access);
    text.push_str(&layers(&found));
    text.push_str(&modules(&found, args.all));
    print(&text)?;
    for warning in &found.warnings {
        note(&format!("warning: {warning}"));
    }
    Ok(Exit::Done)
}

fn facts(found: &Inspection, access: &str) -> String {
    let targets = match &found.target_modules {
        TargetModules::AllLinear => "all-linear".to_owned(),
        TargetModules::Named(names) => names.join(", "),
    };
    let belongs = found.belonging.as_ref();
    let cut = |hash: &str| hash.chars().take(12).collect::<String>();
    let mut base = found.base_model.clone().unwrap_or("not named".into());
    base.push_str(&match belongs {
        Some(belonging) => format!(" (fingerprint {})", cut(&belonging.base_fingerprint)),
        None => " (no fingerprint)".into(),
    });
    let tokenizer = belongs.and_then(|belonging| belonging.tokenizer_fingerprint.as_deref());
    let mut lines = vec![
        ("method", found.method.to_owned()),
        ("rank, alpha", format!("{}, {}", found.rank, found.alpha)),
        ("scaling", format!("{}", found.scaling)),
        ("dropout", format!("{}", found.dropout)),
        ("targets", targets),
        ("modules", found.modules.len().to_string()),
        ("parameters", count(found.parameters as u64)),
        ("base", base),
        ("tokenizer", tokenizer.map_or("not known".into(), cut)),
        ("access", access.to_owned()),
        ("norm", format!("{:.4}", found.norm)),
    ];
    for saved in &found.saved {
        lines.push(("saved whole", format!("{} {:?}", saved.name, saved.shape)));
    }
    let lines = lines.into_iter();
    lines
        .map(|(name, value)| format!("  {name:<12} {value}\n"))
        .collect()
}

/// A table of norms: a row a layer, a column a target.
fn layers(found: &Inspection) -> String {
    let targets: BTreeSet<&String> = found
        .layers
        .iter()
        .flat_map(|l| l.by_target.keys())
        .collect();
    let mut head = vec!["layer".to_owned()];
    head.extend(targets.iter().map(|target| (*target).clone()));
    head.push("all".into());
    let mut rows = vec![head];
    for layer in &found.layers {
        let mut row = vec![layer.layer.map_or("other".into(), |n| n.to_string())];
        let norm = |target: &&String| layer.by_target.get(*target);
        row.extend(
            targets
                .iter()
                .map(|t| norm(t).map_or("-".into(), |n| format!("{n:.4}"))),
        );
        row.push(format!("{:.4}", layer.norm));
        rows.push(row);
    }
    let mut text = String::from("\nnorm of the update by layer and target\n");
    text.push_str(&table(&rows));
    text
}

fn modules(found: &Inspection, all: bool) -> String {
    let mut sorted: Vec<&ModuleUpdate> = found.modules.iter().collect();
    sorted.sort_by(|a, b| b.norm.total_cmp(&a.norm).then(a.module.cmp(&b.module)));
    if all || sorted.len() <= 2 * LISTED {
        return format!("\nmodules by norm\n{}", rows(&sorted));
    }
    let (largest, smallest) = (&sorted[..LISTED], &sorted[sorted.len() - LISTED..]);
    format!(
        "\nlargest modules\n{}\nsmallest modules\n{}",
        rows(largest),
        rows(smallest)
    )
}

fn rows(modules: &[&ModuleUpdate]) -> String {
    let head = [
        "module",
        "out × in",
        "norm",
        "largest σ",
        "stable rank",
        "effective rank",
        "",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for update in modules {
        let remark = match update.no_op {
            NoOp::No => "",
            NoOp::Faint => "next to nothing",
            NoOp::ZeroB => "B is zero",
            NoOp::ZeroA => "A is zero",
        };
        rows.push(vec![
            update.module.clone(),
            format!("{} × {}", update.out, update.inner),
            format!("{:.4}", update.norm),
            format!("{:.4}", update.spectral_norm),
            format!("{:.2}", update.stable_rank),
            format!("{:.2}", update.effective_rank),
            remark.to_owned(),
        ]);
    }
    table(&rows)
}
