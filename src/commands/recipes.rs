//! `medtune recipes`: what comes with medtune.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::{RecipesCommand, SchemaKind};
use crate::failure::{Exit, Failure};
use crate::library::{self, Kind, RECIPES};
use crate::recipe::Recipe;
use crate::terminal::{note, print, print_json, table};

pub fn recipes(command: &RecipesCommand, json: bool) -> Result<Exit> {
    match command {
        RecipesCommand::List => list(json)?,
        RecipesCommand::Show { name } => print(library::embedded(name)?.1)?,
        RecipesCommand::Copy { name, folder } => copy(name, folder)?,
        RecipesCommand::Schema { kind } => print_json(&schema(*kind))?,
    }
    Ok(Exit::Done)
}

/// The JSON schema of a kind of file.
pub fn schema(kind: SchemaKind) -> serde_json::Value {
    match kind {
        SchemaKind::Recipe => ledger::recipe::schema::<Recipe>(),
        SchemaKind::Task => ledger::recipe::schema::<eval::TaskFile>(),
    }
}

fn list(json: bool) -> Result<()> {
    let plain = |name: &str| name.trim_end_matches(".toml").to_owned();
    if json {
        let kind = |name: &str| match library::kind_of(Path::new(name)) {
            Kind::Recipe => "recipe",
            Kind::Task => "task",
            Kind::Machine => "machine",
        };
        let all = RECIPES.iter().map(|(name, _)| {
            json!({"name": plain(name), "kind": kind(name), "about": library::about(name)})
        });
        return print_json(&all.collect());
    }
    for (title, kind) in [
        ("Recipes", Kind::Recipe),
        ("Evaluation tasks", Kind::Task),
        ("Machines, for medtune plan --machine", Kind::Machine),
    ] {
        let of_kind = RECIPES
            .iter()
            .filter(|(name, _)| library::kind_of(Path::new(name)) == kind);
        let rows: Vec<_> = of_kind
            .map(|(name, _)| vec![plain(name), library::about(name)])
            .collect();
        // The second column is prose: to the left.
        let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| vec![format!("{:<width$}  {}", row[0], row[1])])
            .collect();
        print(&format!("{title}:\n{}\n", table(&rows)))?;
    }
    Ok(())
}

fn copy(name: &str, folder: &Path) -> Result<()> {
    let mut files = library::with_tasks(name)?;
    let is_there = |(name, text): &(&str, &str)| {
        fs::read(folder.join(name)).is_ok_and(|bytes| bytes == text.as_bytes())
    };
    // What another recipe was copied with and nobody has changed can stay.
    let first = files.remove(0);
    files.retain(|file| !is_there(file));
    files.insert(0, first);
    for (name, _) in &files {
        let path = folder.join(name);
        if path.exists() {
            let failure = Failure::user(format!("`{}` is there already", path.display()));
            return Err(failure
                .hint("copy into another folder, or remove it first")
                .into());
        }
    }
    for (name, text) in &files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make `{}`", parent.display()))?;
        }
        ledger::files::write_atomic(&path, text.as_bytes())?;
        note(&format!("wrote {}", path.display()));
    }
    Ok(())
}
