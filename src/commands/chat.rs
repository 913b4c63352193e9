//! `medtune chat`: questions to a model, answers as they come.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use adapters::PeftAdapter;
use adapters::hub::locate;
use adapters::recipe::ComputeDtype;
use anyhow::Result;
use datasets::recipe::TemplateKind;
use datasets::{Message, Role, Template};
use eval::Prompt;
use finetune::{Base, Checkpoint, Model, argmax};

use crate::args::ChatArgs;
use crate::device;
use crate::failure::{Exit, Failure};
use crate::plan::Plan;
use crate::recipe::find;
use crate::stages::{load, tuned};
use crate::terminal::{note, print};

pub fn chat(args: &ChatArgs) -> Result<Exit> {
    let model = model(args)?;
    let mut messages = Vec::new();
    if let Some(prompt) = &args.prompt {
        answer(&model, &mut messages, prompt, args.max_new_tokens)?;
        return Ok(Exit::Done);
    }
    if io::stdin().is_terminal() {
        note("one question a line; an empty line forgets what was said; Ctrl-D ends");
    }
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "" => messages.clear(),
            question => answer(&model, &mut messages, question, args.max_new_tokens)?,
        }
    }
    Ok(Exit::Done)
}

/// The model of a recipe's run, or one that is named.
fn model(args: &ChatArgs) -> Result<Model> {
    device::must_compute(&args.flags.device)?;
    if is_recipe(&args.model) {
        let plan = Plan::new(&args.model, &args.flags)?;
        let mut model = tuned(&plan)?;
        if let Some(adapter) = &args.adapter {
            model.adapter = Some(locate(adapter, Path::new(""))?);
        }
        return load(&plan, &model, &plan.recipe().name, true);
    }
    let base = Base::find(&args.model, Path::new(""));
    if matches!(&base, Base::Path(path) if !path.exists()) {
        let message = format!("there is no recipe and no model `{}`", args.model.display());
        return Err(Failure::user(message)
            .hint("name a recipe, a Hugging Face folder or a .gguf file")
            .into());
    }
    if !args.flags.sets.is_empty() {
        return Err(Failure::user("--set changes a recipe, and this is a model").into());
    }
    let checkpoint = Checkpoint::open(&base)?;
    let adapter = adapter(args)?;
    let template = Template::new(TemplateKind::Chat, &checkpoint.tokenizer)?;
    let name = args.model.display().to_string();
    Ok(checkpoint.into_model(ComputeDtype::F32.into(), adapter, template, name)?)
}

/// The adapter that is named, with a line where nothing says which base it belongs to.
fn adapter(args: &ChatArgs) -> Result<Option<PeftAdapter>> {
    let Some(given) = &args.adapter else {
        return Ok(None);
    };
    let adapter = PeftAdapter::load(&locate(given, Path::new(""))?)?;
    if let Some(unchecked) = adapter.unchecked_base() {
        note(&format!("note: {unchecked}"));
    }
    Ok(Some(adapter))
}

fn is_recipe(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "toml")
        || find(path).is_file() && !path.exists()
}

fn answer(
    model: &Model,
    messages: &mut Vec<Message>,
    question: &str,
    max_new_tokens: usize,
) -> Result<()> {
    messages.push(Message {
        role: Role::User,
        content: question.to_owned(),
    });
    let prompt = model.prompt_ids(&Prompt::Chat(messages.clone()))?;
    let mut printed = Ok(());
    let text = model.stream(
        &prompt,
        max_new_tokens,
        &mut |logits| argmax(logits),
        &mut |piece| {
            if printed.is_ok() {
                printed = print(piece);
            }
        },
    )?;
    printed?;
    print("\n")?;
    messages.push(Message {
        role: Role::Assistant,
        content: text,
    });
    Ok(())
}
