//! `medtune fetch`: a model of the Hugging Face Hub, into the cache that its tools share.

use adapters::hub::{HubCache, HubName};
use anyhow::Result;
use serde_json::json;

use crate::args::FetchArgs;
use crate::failure::{Exit, Failure};
use crate::hub::{Choice, Client, fetch as download, is_offline};
use crate::run::Clock;
use crate::terminal::{bytes, note, print, print_json};

/// Prints the folder of the model's files.
pub fn fetch(args: &FetchArgs, json: bool) -> Result<Exit> {
    let name = name(args)?;
    let cache = HubCache::from_env();
    if is_offline() {
        return offline(&cache, &name, json);
    }
    let clock = Clock::start();
    let choice = match (&args.include[..], args.all) {
        ([], false) => Choice::Model,
        ([], true) => Choice::All,
        (patterns, _) => Choice::Matching(patterns.to_vec()),
    };
    let fetched = download(&Client::from_env()?, &cache, &name, &choice)?;
    if json {
        print_json(&serde_json::to_value(&fetched)?)?;
        return Ok(Exit::Done);
    }
    let (files, size) = (fetched.files.len(), bytes(fetched.bytes));
    note(&match fetched.downloaded_bytes {
        0 => format!("fetch  {files} files, {size}: all were there"),
        came => format!(
            "fetch  {files} files, {size}, of which {} came now, in {}",
            bytes(came),
            clock.shown()
        ),
    });
    print(&format!("{}\n", fetched.folder.display()))?;
    Ok(Exit::Done)
}

fn name(args: &FetchArgs) -> Result<HubName> {
    let wrong = |message: String| {
        Failure::user(message)
            .hint("a model is ORG/NAME as on the hub's page, such as HuggingFaceTB/SmolLM2-135M")
    };
    let parsed = HubName::parse(&args.model);
    let name = parsed.ok_or_else(|| wrong(format!("`{}` is not a model's name", args.model)))?;
    match &args.revision {
        None => Ok(name),
        Some(revision) => Ok(name.at(revision).ok_or_else(|| {
            let message = format!("`{revision}` is not a branch, a tag or a commit");
            Failure::user(message).hint("such as main, v1.0 or 0123abc")
        })?),
    }
}

/// Without a connection a model is in the cache, or is not.
fn offline(cache: &HubCache, name: &HubName, json: bool) -> Result<Exit> {
    let Ok(folder) = cache.find(name) else {
        let message = format!(
            "HF_HUB_OFFLINE is set, and `{name}` is not in the cache `{}`",
            cache.root().display()
        );
        return Err(Failure::user(message)
            .hint("unset HF_HUB_OFFLINE to download it, or copy the cache's folder from a machine that has it")
            .into());
    };
    if json {
        print_json(&json!({"name": name.to_string(), "folder": folder, "downloaded_bytes": 0}))?;
    } else {
        note("fetch  HF_HUB_OFFLINE is set, and the model is there");
        print(&format!("{}\n", folder.display()))?;
    }
    Ok(Exit::Done)
}
