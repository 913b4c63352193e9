//! `medtune check`: every problem of recipes and tasks, before anything runs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::args::{CheckArgs, RecipeFlags};
use crate::failure::{Exit, Failure, describe};
use crate::library::{self, Kind};
use crate::plan::Plan;
use crate::terminal::{print, print_json};

pub fn check(args: &CheckArgs, json: bool) -> Result<Exit> {
    let mut files = Vec::new();
    for path in &args.paths {
        if path.is_dir() {
            files.extend(library::on_disk(path)?)
        } else {
            files.push(path.clone())
        }
    }
    if args.paths.is_empty() {
        let folder = Path::new("recipes");
        if !folder.is_dir() {
            let failure = Failure::user("there is no folder `recipes` here");
            return Err(failure
                .hint("name the recipes to check: medtune check my.toml")
                .into());
        }
        files = library::on_disk(folder)?;
    }
    let checked: Vec<_> = files
        .iter()
        .map(|path| (path, check_one(path, &args.flags)))
        .collect();
    let failed = checked.iter().filter(|(_, result)| result.is_err()).count();
    if json {
        let results: Vec<_> = checked
            .iter()
            .map(|(path, result)| result_json(path, result))
            .collect();
        print_json(&json!(results))?;
    } else {
        for (path, result) in &checked {
            match result {
                Ok(()) => print(&format!("ok     {}\n", path.display()))?,
                Err(error) => print(&format!(
                    "wrong  {}\n{}\n\n",
                    path.display(),
                    describe(error)
                ))?,
            }
        }
        print(&match failed {
            0 => format!("all {} are right\n", checked.len()),
            _ => format!("{failed} of {} are wrong\n", checked.len()),
        })?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::User })
}

/// Reads and resolves; opens no model and no data, which may be on another machine.
fn check_one(path: &Path, flags: &RecipeFlags) -> Result<()> {
    match library::kind_of(path) {
        Kind::Recipe => Plan::new(path, flags).map(drop),
        Kind::Task => Ok(eval::Task::load(path, &flags.sets).map(drop)?),
        Kind::Machine => Ok(finetune::DeviceSpec::read(path).map(drop)?),
    }
}

fn result_json(path: &PathBuf, result: &Result<()>) -> serde_json::Value {
    let Err(error) = result else {
        return json!({"path": path, "ok": true});
    };
    let recipe_error = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(ledger::Error::Recipe(problems)) => Some(problems),
        _ => None,
    });
    let problems: Vec<_> = recipe_error
        .into_iter()
        .flatten()
        .map(|problem| {
            json!({
                "path": problem.path, "line": problem.line, "column": problem.column,
                "key": problem.key, "message": problem.message, "hint": problem.hint,
            })
        })
        .collect();
    json!({"path": path, "ok": false, "error": describe(error), "problems": problems})
}
