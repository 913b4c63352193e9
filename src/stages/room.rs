//! Whether a prompt with its examples leaves room for an answer.

use anyhow::Result;
use datasets::{Template, Tokenizer};
use eval::{Answering, Prompt, Task};
use finetune::Checkpoint;

use super::samples::{asked_by, template_as};
use crate::plan::{Plan, PlannedTask};

/// Room for the longest option where options are scored.
const OPTION_TOKENS: usize = 64;

/// The base model's tokenizer and the positions that it knows.
pub(super) struct Room {
    tokenizer: Tokenizer,
    template: Template,
    tokens: usize,
}

impl Room {
    /// Opens the base of a plan, for these of its tasks; reads no weights.
    pub(super) fn of(plan: &Plan, tasks: &[PlannedTask]) -> Result<Self> {
        let Checkpoint {
            config, tokenizer, ..
        } = Checkpoint::open(&plan.base)?;
        let mut tasks = tasks.iter().flat_map(|planned| &planned.tasks);
        let chat = tasks.any(|task| task.chat_template);
        let template = template_as(asked_by(plan.recipe()), &tokenizer, chat)?;
        Ok(Self {
            tokenizer,
            template,
            tokens: config.max_position_embeddings,
        })
    }

    /// Whether a task's prompt and answer fit. One that cannot be written as tokens does: the model says why when it is
    /// asked.
    pub(super) fn fits(&self, task: &Task, prompt: &Prompt) -> bool {
        let answer = match &task.answering {
            Answering::Generate { max_new_tokens, .. } => *max_new_tokens,
            Answering::LogLikelihood { .. } => OPTION_TOKENS,
        };
        self.length(prompt)
            .is_none_or(|length| length + answer <= self.tokens)
    }

    fn length(&self, prompt: &Prompt) -> Option<usize> {
        Some(match prompt {
            Prompt::Chat(messages) => {
                let pieces = self.template.render(messages, true).ok()?;
                self.tokenizer.encode_pieces(&pieces).ok()?.0.len()
            }
            Prompt::Text(text) => self.tokenizer.encode(text, true).ok()?.len(),
        })
    }
}
