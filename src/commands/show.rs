//! `medtune show`: a recipe's settings with where each comes from, and samples with what they teach.

use anyhow::Result;
use ledger::files::StagedDir;
use ledger::recipe::Origin;
use serde_json::{Value, json};

use super::plan::endpoints;
use crate::args::ShowArgs;
use crate::credentials;
use crate::failure::Exit;
use crate::plan::{BuildFlags, Plan, Stage};
use crate::recipe::Recipe;
use crate::stages::{Materials, template_of, tokens};
use crate::terminal::{colour, count as counted, print, print_json};

pub fn show(args: &ShowArgs, json: bool) -> Result<Exit> {
    let mut plan = Plan::new(&args.recipe, &args.flags)?;
    plan.build = BuildFlags::from(&args.data);
    if let Some(count) = args.sample {
        return samples(&plan, count, json);
    }
    let settings = settings(&plan.document)?;
    if json {
        let entries = settings.iter().map(|(key, value, origin)| {
            json!({"key": key, "value": value, "origin": origin.to_string()})
        });
        print_json(&entries.collect())?;
        return Ok(Exit::Done);
    }
    let shown: Vec<_> = settings
        .iter()
        .map(|(key, value, origin)| (format!("{key} = {}", short(value)), origin.to_string()))
        .collect();
    let width = shown
        .iter()
        .map(|(setting, _)| setting.chars().count())
        .max()
        .unwrap_or(0)
        .min(60);
    let lines = shown
        .iter()
        .map(|(setting, origin)| format!("{setting:<width$}  # {origin}\n"));
    print(&lines.collect::<String>())?;
    for (i, sent) in endpoints::of(&plan).iter().enumerate() {
        let start = if i == 0 { "\n" } else { "" };
        print(&format!("{start}{}", sent.shown("# ")))?;
    }
    Ok(Exit::Done)
}

/// Every setting of the resolved recipe, in the order of its types.
fn settings(document: &ledger::recipe::Document<Recipe>) -> Result<Vec<(String, Value, Origin)>> {
    let resolved = serde_json::to_value(&document.value)?;
    let mut found = Vec::new();
    for key in keys(&resolved) {
        found.push((key.0.clone(), key.1, document.origin(&key.0).clone()));
    }
    Ok(found)
}

/// The leaves of a value by dotted key. What is not given and has no default is left out.
fn keys(value: &Value) -> Vec<(String, Value)> {
    fn walk(value: &Value, key: &str, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    let inner = if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    };
                    walk(value, &inner, found);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (i, item) in items.iter().enumerate() {
                    walk(item, &format!("{key}[{i}]"), found);
                }
            }
            Value::Null => {}
            leaf => found.push((key.to_owned(), leaf.clone())),
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

/// A value on one line: a template of many lines is not a setting to look over.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let head: String = text.chars().take(57).collect();
    format!("{head}...")
}

/// Builds the data anew, into a folder that is gone afterwards: what is shown is what the recipe says now.
fn samples(plan: &Plan, count: usize, json: bool) -> Result<Exit> {
    plan.require(Stage::Data)?;
    let section = plan.recipe().data.clone().unwrap_or_default();
    let name = format!("medtune-show-{}", std::process::id());
    let staged = StagedDir::create(&std::env::temp_dir().join(name))?;
    let sources = section.sources();
    credentials::require(&plan.out, plan.build.credentials, "show --sample", sources)?;
    let materials = Materials::open(plan)?;
    datasets::build(
        &section,
        &plan.data_root,
        staged.path(),
        &materials.options(plan, &section),
    )?;
    let built = datasets::load_built(staged.path())?;
    if !plan.has_model() {
        return texts(&built.train, count, json);
    }
    let tokenizer = finetune::Checkpoint::open(&plan.base)?.tokenizer;
    let chat = matches!(built.train, datasets::Samples::Conversations(_));
    let template = template_of(plan, &tokenizer, chat)?;
    let tokens = tokens(&built.train, &section, &tokenizer, &template)?;
    let shown = tokens
        .samples
        .iter()
        .take(count)
        .map(|sample| (sample, tokenizer.tokens_with_mask(sample)));
    if json {
        let samples = shown.map(|(sample, tokens)| {
            let text: Vec<_> = tokens
                .iter()
                .map(|(text, target)| json!({"text": text, "target": target}))
                .collect();
            json!({"id": sample.id, "input_ids": sample.input_ids, "tokens": text})
        });
        print_json(&samples.collect())?;
        return Ok(Exit::Done);
    }
    for (sample, tokens) in shown {
        let (length, targets) = (sample.len(), sample.target_tokens());
        print(&format!(
            "--- {}: {length} tokens, {targets} of them learned\n{}\n\n",
            sample.id,
            marked(&tokens)
        ))?;
    }
    print(&format!(
        "{} training samples, {} tokens, {} of them learned; \u{27e6} \u{27e7} marks what is learned\n",
        counted(tokens.samples.len() as u64),
        counted(tokens.tokens()),
        counted(tokens.target_tokens())
    ))?;
    Ok(Exit::Done)
}

/// Samples as they are built, where no model says what tokens they have.
fn texts(samples: &datasets::Samples, count: usize, json: bool) -> Result<Exit> {
    let values: Vec<Value> = match samples {
        datasets::Samples::Conversations(conversations) => {
            let first = conversations.iter().take(count);
            first.map(serde_json::to_value).collect::<Result<_, _>>()?
        }
        datasets::Samples::Documents(documents) => {
            let first = documents.iter().take(count);
            first.map(serde_json::to_value).collect::<Result<_, _>>()?
        }
    };
    if json {
        print_json(&Value::Array(values))?;
        return Ok(Exit::Done);
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for value in &values {
        print(&format!("--- {}\n", word(&value["id"])))?;
        for message in value["messages"].as_array().into_iter().flatten() {
            print(&format!(
                "[{}]\n{}\n",
                word(&message["role"]),
                word(&message["content"])
            ))?;
        }
        print(&format!("{}\n", word(&value["text"])))?;
    }
    print(&format!(
        "{} training samples; the recipe has no model, so what is learned is not marked\n",
        counted(samples.len() as u64)
    ))?;
    Ok(Exit::Done)
}

/// The text of a sample with what is learned between white brackets, which no medical text has.
fn marked(tokens: &[(String, bool)]) -> String {
    let (open, close) = if colour() {
        ("\u{1b}[1;32m\u{27e6}", "\u{27e7}\u{1b}[0m")
    } else {
        ("\u{27e6}", "\u{27e7}")
    };
    let mut text = String::new();
    let mut learned = false;
    for (piece, target) in tokens {
        if *target != learned {
            text.push_str(if *target { open } else { close });
            learned = *target;
        }
        text.push_str(piece);
    }
    if learned {
        text.push_str(close);
    }
    text
}
