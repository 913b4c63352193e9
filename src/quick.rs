//! Quick validation of a merge: base and merged model on a few items, so that a model that came out wrong is seen at
//! once and not after an evaluation of hours.

use std::fmt::Write;

use adapters::PeftAdapter;
use adapters::recipe::ComputeDtype;
use anyhow::{Context, Result};
use datasets::recipe::{DataSection, TemplateKind};
use datasets::{Conversation, Samples, Tokenized};
use eval::{
    Bootstrap, GenerateRequest, LanguageModel, Prompt, Report, Settings, TaskNotes, run_perplexity,
    run_task,
};
use finetune::{Checkpoint, Model, ValidationTask};
use ledger::AccessClass;
use serde_json::{Value, json};

use crate::stages::{Tuned, template_as, tokens};
use crate::terminal::{bar, note};

/// Held-out samples that perplexity is measured on, and prompts that are answered, at most: a look takes seconds.
const HELD_OUT: usize = 50;
const SAMPLES: usize = 2;
/// Tokens of a sample answer.
const SAMPLE_TOKENS: usize = 48;

/// What base and merged model are asked.
pub struct QuickValidation {
    /// Tasks with the items that are asked.
    pub tasks: Vec<ValidationTask>,
    /// Held-out samples and how they are written as tokens, where the run has some.
    pub held_out: Option<(Samples, DataSection)>,
    /// What answers are computed in.
    pub compute: ComputeDtype,
    /// How questions are written; held-out samples are written as their section says.
    pub template: TemplateKind,
    /// How intervals are computed.
    pub bootstrap: Bootstrap,
    /// Items that are given to a model at a time.
    pub batch_items: usize,
}

/// A prompt that both models go on from.
struct Opening {
    id: String,
    prompt: Prompt,
    access: AccessClass,
}

/// What came of it.
pub struct Look {
    /// Base against merged, for people.
    pub table: String,
    /// For the manifest: metrics, numbers of items, and answers to what is open.
    pub details: Value,
}

impl QuickValidation {
    /// Asks both.
    pub fn run(&self, base: &Tuned, merged: &Tuned) -> Result<Look> {
        let mut report = Report::new(self.bootstrap);
        for ValidationTask { task, .. } in &self.tasks {
            report.describe(&task.name, TaskNotes::of(task));
        }
        let openings = self.openings();
        let mut answers = Vec::new();
        for (label, model) in [("base", base), ("merged", merged)] {
            answers.push(self.ask(label, model, &openings, &mut report)?);
        }
        // Texts stay out of what is not open: a manifest is copied and read like a label.
        let shown: Vec<Value> = openings
            .iter()
            .enumerate()
            .filter(|(_, opening)| opening.access == AccessClass::Open)
            .map(|(i, opening)| {
                json!({"id": opening.id, "base": answers[0][i], "merged": answers[1][i]})
            })
            .collect();
        let file = report.file(false);
        let items: serde_json::Map<String, Value> = self
            .tasks
            .iter()
            .map(|asked| (asked.task.name.clone(), asked.items.len().into()))
            .collect();
        let left_out = openings.len() - shown.len();
        let mut table = file.table();
        for sample in &shown {
            let text = |label: &str| one_line(sample[label].as_str().unwrap_or_default());
            let id = sample["id"].as_str().unwrap_or_default();
            let _ = writeln!(
                table,
                "\n{id}\n  base    {}\n  merged  {}",
                text("base"),
                text("merged")
            );
        }
        if left_out > 0 {
            let _ = writeln!(
                table,
                "\nsample answers left out, of material that is not open: {left_out}"
            );
        }
        let details = json!({
            "items": items,
            "metrics": file.metrics,
            "samples": shown,
            "samples_left_out": left_out,
        });
        Ok(Look { table, details })
    }

    /// One model's answers; the texts to the openings, in their order.
    fn ask(
        &self,
        label: &str,
        model: &Tuned,
        openings: &[Opening],
        report: &mut Report,
    ) -> Result<Vec<String>> {
        let mut model = self.load(label, model)?;
        let settings = Settings {
            items: None,
            batch_items: self.batch_items,
            bootstrap: self.bootstrap,
        };
        let bar = bar(0, label);
        let mut progress = |progress: eval::Progress<'_>| {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(progress.task.to_owned());
        };
        let held_out = self.held_out(&model)?;
        if !held_out.is_empty() {
            let result = run_perplexity(
                "validation",
                &held_out,
                &mut model,
                &settings,
                &mut progress,
            )?;
            report.add_perplexity(label, result);
        }
        for ValidationTask { task, items } in &self.tasks {
            let result = run_task(task, items, &mut model, &settings, &mut progress)?;
            report.add_task(label, result);
        }
        if let Some(section) = self.held_out_chats() {
            // The openings are of them.
            model.template = template_as(section.template, &model.tokenizer, true)?;
        }
        let request = |opening: &Opening| GenerateRequest {
            id: opening.id.clone(),
            prompt: opening.prompt.clone(),
            max_new_tokens: SAMPLE_TOKENS,
            stop: Vec::new(),
        };
        let requests: Vec<_> = openings.iter().map(request).collect();
        let answers = model.generate(&requests);
        bar.finish_and_clear();
        answers.context("cannot answer the samples of the quick validation")
    }

    fn load(&self, label: &str, model: &Tuned) -> Result<Model> {
        let checkpoint = Checkpoint::open(&model.base)?;
        let adapter = model
            .adapter
            .as_deref()
            .map(PeftAdapter::load)
            .transpose()?;
        let chat = self.tasks.iter().any(|asked| asked.task.chat_template);
        let template = template_as(self.template, &checkpoint.tokenizer, chat)?;
        Ok(checkpoint.into_model(self.compute.into(), adapter, template, label.to_owned())?)
    }

    /// How the held-out samples are written, where they are conversations.
    fn held_out_chats(&self) -> Option<&DataSection> {
        match &self.held_out {
            Some((Samples::Conversations(chats), section)) if !chats.is_empty() => Some(section),
            _ => None,
        }
    }

    fn held_out(&self, model: &Model) -> Result<Vec<Tokenized>> {
        let Some((samples, section)) = &self.held_out else {
            return Ok(Vec::new());
        };
        let chat = self.held_out_chats().is_some();
        let template = template_as(section.template, &model.tokenizer, chat)?;
        let mut samples = tokens(samples, section, &model.tokenizer, &template)?.samples;
        samples.truncate(HELD_OUT);
        Ok(samples)
    }

    /// What both go on from: held-out conversations up to their last answer, else questions of the first task.
    fn openings(&self) -> Vec<Opening> {
        let of_conversation = |conversation: &Conversation| {
            let mut messages = conversation.messages.clone();
            messages.pop();
            Opening {
                id: conversation.id.clone(),
                prompt: Prompt::Chat(messages),
                access: conversation.provenance.access,
            }
        };
        if let Some((Samples::Conversations(conversations), _)) = &self.held_out
            && !conversations.is_empty()
        {
            return conversations
                .iter()
                .take(SAMPLES)
                .map(of_conversation)
                .collect();
        }
        let items = self.tasks.first().map_or(&[][..], |asked| &asked.items);
        items
            .iter()
            .take(SAMPLES)
            .map(|item| Opening {
                id: item.id.clone(),
                prompt: item.prompt.clone(),
                access: item.access,
            })
            .collect()
    }
}

impl Look {
    /// Shows it.
    pub fn show(&self) {
        note(&format!(
            "\nquick validation: a look, on few items\n{}",
            self.table
        ));
    }
}

/// Text on one line, without what a terminal would obey.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
