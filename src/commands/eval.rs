//! `medtune eval`: a recipe's model, or any models and endpoints, for which the flags make a recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::run::run_plan;
use crate::args::{EvalArgs, ModelFlags, RecipeFlags};
use crate::failure::Exit;
use crate::plan::{BuildFlags, Plan, Stage};

/// The recipe that the flags stand for, in the run's folder.
const RECIPE_FILE: &str = "recipe.toml";

pub fn eval(args: &EvalArgs, json: bool) -> Result<Exit> {
    let mut plan = match &args.recipe {
        Some(recipe) => Plan::new(recipe, &args.flags)?,
        None => {
            let (recipe, flags) = write_recipe(&args.models, &args.flags)?;
            Plan::new(&recipe, &flags)?
        }
    };
    plan.build = BuildFlags::from(&args.data);
    plan.reveal = args.reveal;
    plan.require(Stage::Eval)?;
    run_plan(&plan, Some(Stage::Eval), args.fresh, json)
}

/// Writes the recipe into the run's folder, so that it can be looked at, changed and run again; and the flags with
/// which it is run.
fn write_recipe(models: &ModelFlags, flags: &RecipeFlags) -> Result<(PathBuf, RecipeFlags)> {
    let name = name_of(models);
    let mut flags = flags.clone();
    let out = flags
        .out
        .get_or_insert_with(|| Path::new("runs").join(&name));
    let path = out.join(RECIPE_FILE);
    let recipe = recipe(&name, models)?;
    ledger::files::create_dir_all(out)?;
    ledger::files::write_atomic(&path, toml::to_string(&recipe)?.as_bytes())?;
    // As every path on a command line, not from the folder of a recipe that nobody wrote.
    flags.data_root.get_or_insert_with(PathBuf::new);
    Ok((path, flags))
}

fn recipe(name: &str, models: &ModelFlags) -> Result<Table> {
    let mut recipe = Table::new();
    recipe.insert("name".into(), name.into());
    if let Some(model) = &models.model {
        let mut table = Table::new();
        table.insert("path".into(), absolute(model)?);
        if let Some(adapter) = &models.adapter {
            table.insert("adapter".into(), absolute(adapter)?);
        }
        recipe.insert("model".into(), table.into());
    }
    let mut eval = Table::new();
    let tasks: Result<Vec<Value>> = models.task.iter().map(|task| task_of(task)).collect();
    eval.insert("tasks".into(), tasks?.into());
    let mut names = vec!["base".to_owned(), "tuned".to_owned(), "change".to_owned()];
    let others = models.against.iter().map(|path| -> Result<Value> {
        let mut table = Table::new();
        table.insert("name".into(), unused(&mut names, &stem(path)).into());
        table.insert("path".into(), absolute(path)?);
        Ok(table.into())
    });
    let others = others.collect::<Result<Vec<Value>>>()?;
    let endpoints = models.endpoint_model.iter().map(|model| {
        let mut table = Table::new();
        table.insert("name".into(), unused(&mut names, model).into());
        let url = models.endpoint.clone().unwrap_or_default();
        table.insert("url".into(), url.into());
        table.insert("model".into(), model.as_str().into());
        if let Some(variable) = &models.api_key_env {
            table.insert("api_key_env".into(), variable.as_str().into());
        }
        Value::from(table)
    });
    let endpoints: Vec<Value> = endpoints.collect();
    for (key, list) in [("model", others), ("endpoint", endpoints)] {
        if !list.is_empty() {
            eval.insert(key.into(), list.into());
        }
    }
    recipe.insert("eval".into(), eval.into());
    Ok(recipe)
}

/// What the run is called: as the first model is.
fn name_of(models: &ModelFlags) -> String {
    let model = models.adapter.as_ref().or(models.model.as_ref());
    let name = model
        .map(|path| stem(path))
        .or_else(|| models.endpoint_model.first().cloned());
    format!("eval-{}", plain(&name.unwrap_or_default()))
}

fn stem(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = absolute.file_name().unwrap_or_default();
    name.to_string_lossy().trim_end_matches(".gguf").to_owned()
}

/// What a run's folder or a column of the report can be called.
fn plain(name: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let plain: String = name
        .chars()
        .map(|c| if kept(c) { c } else { '-' })
        .collect();
    plain.trim_start_matches('.').to_owned()
}

/// A name that no other column has.
fn unused(names: &mut Vec<String>, name: &str) -> String {
    let name = plain(name);
    let mut free = name.clone();
    let mut number = 2;
    while free.is_empty() || names.contains(&free) {
        free = format!("{name}-{number}");
        number += 1;
    }
    names.push(free.clone());
    free
}

/// A task by its name, or by the path of its file from here.
fn task_of(task: &str) -> Result<Value> {
    let (file, limit) = match task.rsplit_once(".toml") {
        Some((stem, limit)) => (format!("{stem}.toml"), limit),
        None => return Ok(task.into()),
    };
    let file = absolute(Path::new(&file))?;
    Ok(format!("{}{limit}", file.as_str().unwrap_or_default()).into())
}

fn absolute(path: &Path) -> Result<Value> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot find `{}`", path.display()))?;
    Ok(path.to_string_lossy().into_owned().into())
}
