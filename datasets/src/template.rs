//! Conversations as text: a model's own chat template, or Me-LLaMA's.
//!
//! A conversation is written as pieces, each known to be taught or not, so the
//! loss mask is never found by searching for a marker. What is taught is every
//! assistant message with the token that ends its turn, and nothing after that:
//! in ChatML the answer and `<|im_end|>`, not the line break behind it.
//!
//! Where this differs from transformers' `{% generation %}` mask:
//! - that mask is whatever the template's author put between the tags; some
//!   leave out the end-of-turn token, and then a model never learns to stop;
//! - templates without the tags have no mask in transformers; here all do;
//! - a token that crosses the border between prompt and answer is possible in
//!   transformers, which encodes the whole text; here the pieces are encoded one
//!   by one, as generation sees them;
//! - a template that rewrites earlier turns is an error here, and has a mask
//!   there.
//!
//! The tags themselves are understood and have no effect.

mod chat;

pub use chat::ChatTemplate;

use crate::recipe::TemplateKind;
use crate::record::{Message, Role};
use crate::{Error, Result, Tokenizer};

/// A run of text that is taught as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether its tokens are targets.
    pub target: bool,
}

impl Piece {
    fn new(text: impl Into<String>, target: bool) -> Self {
        Self {
            text: text.into(),
            target,
        }
    }
}

/// How a conversation is written.
#[derive(Debug)]
pub enum Template {
    /// A Hugging Face chat template.
    Chat(Box<ChatTemplate>),
    /// Me-LLaMA's: `Human: \n{prompt}\n\nAssistant: \n{answer}</s>`, turns one
    /// after another, no BOS. It has no place for a system message; one is
    /// written before the next question, with a blank line between.
    MeLlama {
        /// The text of the token that ends an answer.
        eos: String,
    },
}

impl Template {
    /// The template that a recipe asks for, with this tokenizer's tokens.
    ///
    /// # Errors
    /// The tokenizer has no chat template or no end token, or the template's
    /// syntax.
    pub fn new(kind: TemplateKind, tokenizer: &Tokenizer) -> Result<Self> {
        match kind {
            TemplateKind::Chat => Ok(Template::Chat(Box::new(ChatTemplate::new(tokenizer)?))),
            TemplateKind::MeLlama => {
                let eos = tokenizer.eos().and_then(|id| tokenizer.token(id));
                let eos = eos.ok_or_else(|| Error::NoEos {
                    tokenizer: tokenizer.origin().to_string(),
                })?;
                Ok(Template::MeLlama { eos })
            }
        }
    }

    /// Writes a conversation as pieces, in order; with `add_generation_prompt`,
    /// up to where the assistant's next answer begins.
    ///
    /// # Errors
    /// The template refuses the conversation, or rewrites what it has written.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<Piece>> {
        match self {
            Template::Chat(template) => template.render(messages, add_generation_prompt),
            Template::MeLlama { eos } => Ok(me_llama(messages, add_generation_prompt, eos)),
        }
    }
}

fn me_llama(messages: &[Message], add_generation_prompt: bool, eos: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut prompt = String::new();
    let mut system: Option<&str> = None;
    for message in messages {
        match message.role {
            Role::System => system = Some(&message.content),
            Role::User => {
                prompt.push_str("Human: \n");
                if let Some(system) = system.take() {
                    prompt.push_str(system);
                    prompt.push_str("\n\n");
                }
                prompt.push_str(&message.content);
                prompt.push_str("\n\n");
            }
            Role::Assistant => {
                prompt.push_str("Assistant: \n");
                pieces.push(Piece::new(std::mem::take(&mut prompt), false));
                pieces.push(Piece::new(format!("{}{eos}", message.content), true));
            }
        }
    }
    if add_generation_prompt {
        prompt.push_str("Assistant: \n");
    }
    if !prompt.is_empty() {
        pieces.push(Piece::new(prompt, false));
    }
    pieces
}
