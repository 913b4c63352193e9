//! Who answers: the boundary between tasks and whatever runs the weights.
//!
//! Strings go in, numbers and strings come out, so tasks, prompts, filters and metrics are tested
//! without a tensor. Every call takes a slice of requests and answers them in order; how they are
//! batched inside is the implementer's choice, and must not change the answers.

use std::error::Error as StdError;
use std::fmt;
use std::ops::ControlFlow;

use datasets::{Message, Role, Tokenized};
use serde::{Deserialize, Serialize};

/// What the model is shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation that ends with a user message. The model's own chat template is put around
    /// it, with the assistant's turn opened; the answer starts there.
    Chat(Vec<Message>),
    /// Text as it stands, without a chat template. The answer goes on right after the last
    /// character, so a space between the two belongs to the answer.
    Text(String),
}

impl Prompt {
    /// Everything that the model is shown, its messages one after another.
    pub fn text(&self) -> String {
        match self {
            Prompt::Text(text) => text.clone(),
            Prompt::Chat(messages) => {
                let contents = messages.iter().map(|message| message.content.as_str());
                contents.collect::<Vec<_>>().join("\n")
            }
        }
    }

    /// SHA-256 of everything in the prompt (roles and contents), to tell two prompts apart
    /// without showing either.
    pub fn sha256(&self) -> String {
        let mut bytes = Vec::new();
        match self {
            Prompt::Text(text) => {
                bytes.extend_from_slice(b"text\0");
                bytes.extend_from_slice(text.as_bytes());
            }
            Prompt::Chat(messages) => {
                bytes.extend_from_slice(b"chat\0");
                for message in messages {
                    let role: &[u8] = match message.role {
                        Role::System => b"system",
                        Role::User => b"user",
                        Role::Assistant => b"assistant",
                    };
                    bytes.extend_from_slice(role);
                    // Lengths keep two messages from hashing like one longer message.
                    bytes.extend_from_slice(&(message.content.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(message.content.as_bytes());
                }
            }
        }
        ledger::hash::sha256_bytes(&bytes)
    }
}

/// "How likely is each of these answers?"
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The item's id, for error messages.
    pub id: String,
    /// What the model is shown; read once, shared by all options.
    pub prompt: Prompt,
    /// The candidate continuations, never empty. Each is scored exactly as written: with a text
    /// prompt it carries its own leading space.
    pub options: Vec<String>,
}

/// How likely one option is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionScore {
    /// Sum over the option's tokens of ln p(token | prompt, tokens before it), in nats.
    pub log_prob: f64,
    /// How many tokens were summed: the option's own, without an end-of-turn token.
    pub tokens: usize,
    /// Length of the option's text in UTF-8 bytes.
    pub bytes: usize,
    /// Whether every one of those tokens is the model's first choice, so that greedy generation
    /// would start with this option.
    pub greedy: bool,
}

/// "What do you answer?", decoded greedily.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The item's id, for error messages.
    pub id: String,
    /// What the model is shown.
    pub prompt: Prompt,
    /// Most tokens to generate; the model's own end-of-sequence tokens end the answer earlier.
    pub max_new_tokens: usize,
    /// The answer ends before the first occurrence of any of these, which is left out.
    pub stop: Vec<String>,
}

/// What became of a [`GenerateRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// What the model wrote.
    Text(String),
    /// It wrote nothing that could be marked.
    Unanswered(Unanswered),
}

/// Why one item has no answer, while others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unanswered {
    /// The model says that it will not answer.
    #[error("the model refused to answer")]
    Refusal,
    /// The server's filter let the question or the answer not through.
    #[error("the server's content filter stopped it")]
    ContentFilter,
    /// All tokens of the answer were spent, on thoughts that are not shown, before a word of it.
    #[error("the answer's tokens were spent before a word was written")]
    Length,
}

impl Unanswered {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Unanswered::Refusal => "refusal",
            Unanswered::ContentFilter => "content_filter",
            Unanswered::Length => "length",
        }
    }
}

/// Summed loss of a set of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Sum over the target tokens of -ln p, in nats.
    pub loss_sum: f64,
    /// How many target tokens were summed.
    pub tokens: u64,
}

impl Perplexity {
    /// exp(mean loss). Infinite where nothing was summed or the model is infinitely surprised.
    pub fn value(&self) -> f64 {
        if self.tokens == 0 {
            return f64::INFINITY;
        }
        (self.loss_sum / self.tokens as f64).exp()
    }
}

/// Why a model gave no answer.
#[derive(Debug)]
pub struct ModelError {
    /// The item being answered, where the failure belongs to one.
    pub item: Option<String>,
    /// What went wrong.
    pub source: Box<dyn StdError + Send + Sync>,
}

impl ModelError {
    /// A failure that belongs to no single item.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        ModelError {
            item: None,
            source: source.into(),
        }
    }

    /// A failure on the item with this id.
    pub fn at(item: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        ModelError {
            item: Some(item.into()),
            source: source.into(),
        }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Some(item) => write!(f, "item `{item}`: {}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

impl StdError for ModelError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The message above already is the source's.
        self.source.source()
    }
}

/// Something that can be evaluated.
pub trait LanguageModel {
    /// What to call it in reports, such as the base folder's or the run's name.
    fn name(&self) -> &str;

    /// Scores every option of every request: one `Vec` a request in the order given, one
    /// [`OptionScore`] an option in the order given.
    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<Vec<OptionScore>>, ModelError>;

    /// Answers every request by greedy decoding, in the order given, without the prompt, special
    /// tokens or the stop string.
    fn generate(&mut self, requests: &[GenerateRequest]) -> Result<Vec<String>, ModelError>;

    /// Sums the loss of these samples' target tokens. Each sample is read on its own.
    fn perplexity(&mut self, samples: &[Tokenized]) -> Result<Perplexity, ModelError>;

    /// Whether each request is worked on by itself, as servers do, so that any of them can be asked
    /// again or left out. Otherwise requests that are given together are worked on together, and
    /// an evaluation that goes on later gives the same ones together again.
    fn answers_singly(&self) -> bool {
        false
    }

    /// As [`score`](Self::score), giving each request's scores away with its number as soon as they
    /// are there, until it is told to break off. A model that is stopped from outside leaves the
    /// rest out.
    fn score_each(
        &mut self,
        requests: &[ScoreRequest],
        given: &mut dyn FnMut(usize, Vec<OptionScore>) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        give_all(self.score(requests)?, given);
        Ok(())
    }

    /// As [`generate`](Self::generate), giving each reply away as [`score_each`](Self::score_each)
    /// does.
    fn generate_each(
        &mut self,
        requests: &[GenerateRequest],
        given: &mut dyn FnMut(usize, Reply) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let replies = self.generate(requests)?.into_iter().map(Reply::Text);
        give_all(replies, given);
        Ok(())
    }
}

fn give_all<T>(
    answers: impl IntoIterator<Item = T>,
    given: &mut dyn FnMut(usize, T) -> ControlFlow<()>,
) {
    let _ = answers
        .into_iter()
        .enumerate()
        .try_for_each(|(index, answer)| given(index, answer));
}
