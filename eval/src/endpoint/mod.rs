//! A [`LanguageModel`] behind an OpenAI-compatible HTTP API: ChatGPT, GPT-4, a vLLM server.
//!
//! A few workers ask at a time. What fails for a passing reason is asked again after a growing wait;
//! what fails for good ends the evaluation with a named error; an item that the server will not
//! answer is recorded as unanswered. Each answer is given away as soon as it is there, so that a
//! journal holds it and no item is asked twice.

mod chat;
mod echo;
mod error;
mod exchange;
mod key;
mod retry;
mod section;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use datasets::recipe::TemplateKind;
use datasets::{Template, Tokenized, Tokenizer};
use serde_json::{Value, json};

pub use error::{EndpointError, Fault, KeyProblem, UrlProblem};
pub use section::EndpointSection;

use crate::model::{
    GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Reply, ScoreRequest,
};
use echo::Writer;
use exchange::{Failure, Server};

/// How long a worker sleeps before it looks whether to stop.
const NAP: Duration = Duration::from_millis(100);

/// A model behind an HTTP API.
pub struct Endpoint<'a> {
    section: EndpointSection,
    server: Server,
    writer: Option<Writer>,
    seed: u64,
    stop: &'a AtomicBool,
    sleep: Box<dyn Fn(Duration) + Send + Sync>,
    usage: Counters,
}

/// What was sent and what it cost, as far as this process asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests sent, with those sent again.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Tokens of prompts, as the server counts them.
    pub prompt_tokens: u64,
    /// Tokens of answers, as the server counts them.
    pub completion_tokens: u64,
    /// The models that say they have answered: a name such as `gpt-4` stands for one that changes.
    pub models: BTreeSet<String>,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    retries: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    models: Mutex<BTreeSet<String>>,
}

impl<'a> Endpoint<'a> {
    /// An endpoint whose key, if it wants one, is in the environment. `tokenizer` is the folder that
    /// the section names, with its path resolved; `template` writes conversations for it. The seed
    /// moves nothing but the waits between attempts. Once `stop` is set, no further item is asked.
    ///
    /// # Errors
    /// [`EndpointError::Url`], [`EndpointError::Key`], [`EndpointError::Tokenizer`].
    pub fn new(
        section: EndpointSection,
        tokenizer: Option<&Path>,
        template: TemplateKind,
        seed: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self, EndpointError> {
        let server = Server::new(&section, section.address()?)?;
        let open = |folder| -> datasets::Result<Writer> {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let template = Template::new(template, &tokenizer);
            Ok(Writer {
                tokenizer,
                template,
            })
        };
        let failed = |source| EndpointError::Tokenizer {
            endpoint: section.name.clone(),
            source: Box::new(source),
        };
        let writer = tokenizer.map(open).transpose().map_err(failed)?;
        Ok(Endpoint {
            section,
            server,
            writer,
            seed,
            stop,
            sleep: Box::new(thread::sleep),
            usage: Counters::default(),
        })
    }

    /// Waits between attempts by this function instead of sleeping.
    #[must_use]
    pub fn sleeping(mut self, sleep: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.sleep = Box::new(sleep);
        self
    }

    /// What its answers depend on, for a journal or a manifest.
    ///
    /// # Errors
    /// [`EndpointError::Tokenizer`].
    pub fn identity(&self) -> Result<Value, EndpointError> {
        let fingerprint = |writer: &Writer| writer.tokenizer.fingerprint();
        let tokenizer = self.writer.as_ref().map(fingerprint).transpose();
        let tokenizer = tokenizer.map_err(|source| EndpointError::Tokenizer {
            endpoint: self.section.name.clone(),
            source: Box::new(source),
        })?;
        Ok(json!({
            "url": self.section.url,
            "model": self.section.model,
            "max_new_tokens": self.section.max_new_tokens,
            "temperature": self.section.temperature,
            "extra": self.section.extra,
            "tokenizer": tokenizer,
        }))
    }

    /// What was sent so far.
    pub fn usage(&self) -> Usage {
        let models = self.usage.models.lock();
        Usage {
            requests: self.usage.requests.load(Relaxed),
            retries: self.usage.retries.load(Relaxed),
            prompt_tokens: self.usage.prompt_tokens.load(Relaxed),
            completion_tokens: self.usage.completion_tokens.load(Relaxed),
            models: models.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn reply(&self, request: &GenerateRequest, halt: &AtomicBool) -> Asked<Reply> {
        let (method, body) = chat::body(&self.section, request, self.writer.is_some());
        let read = |answer: &Value| chat::reply(answer, &request.stop);
        match self.ask(&request.id, method, &body, &read, halt)? {
            Some(Ok(reply)) => Ok(Some(reply)),
            Some(Err(why)) => Ok(Some(Reply::Unanswered(why))),
            None => Ok(None),
        }
    }

    fn option_scores(&self, request: &ScoreRequest, halt: &AtomicBool) -> Asked<Vec<OptionScore>> {
        let name = &self.section.name;
        let Some(writer) = &self.writer else {
            return Err(EndpointError::NoLogProbs {
                task: request.id.clone(),
                endpoint: name.clone(),
                generative: None,
            });
        };
        let encoded = writer.encode(request, name)?;
        let body = echo::body(&self.section, &encoded);
        let read = |answer: &Value| echo::scores(name, &encoded, answer);
        match self.ask(&request.id, "completions", &body, &read, halt)? {
            Some(Ok(scores)) => Ok(Some(scores)),
            // Options cannot be told apart without scores.
            Some(Err(_)) => Err(EndpointError::NoEcho {
                endpoint: name.clone(),
            }),
            None => Ok(None),
        }
    }

    /// Asks until there is an answer, a reason why there will be none, or a call to stop (`None`).
    fn ask<T>(
        &self,
        item: &str,
        method: &str,
        body: &Value,
        read: &dyn Fn(&Value) -> Result<T, Failure>,
        halt: &AtomicBool,
    ) -> Asked<Result<T, crate::model::Unanswered>> {
        let mut attempt = 0;
        loop {
            self.usage.requests.fetch_add(1, Relaxed);
            let answer = self.server.post(method, body).and_then(|answer| {
                let read = read(&answer)?;
                self.count(&answer);
                Ok(read)
            });
            let (fault, after) = match answer {
                Ok(answer) => return Ok(Some(Ok(answer))),
                Err(Failure::Item(why)) => return Ok(Some(Err(why))),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Again { fault, after }) => (fault, after),
            };
            if attempt >= self.section.max_retries {
                return Err(EndpointError::GaveUp {
                    endpoint: self.section.name.clone(),
                    attempts: attempt + 1,
                    fault,
                });
            }
            if !self.rest(retry::wait(self.seed, item, attempt, after), halt) {
                return Ok(None);
            }
            attempt += 1;
            self.usage.retries.fetch_add(1, Relaxed);
        }
    }

    /// Waits; false where it was told to stop.
    fn rest(&self, mut left: Duration, halt: &AtomicBool) -> bool {
        while !left.is_zero() && !self.stopped(halt) {
            let nap = left.min(NAP);
            (self.sleep)(nap);
            left -= nap;
        }
        !self.stopped(halt)
    }

    fn stopped(&self, halt: &AtomicBool) -> bool {
        halt.load(Relaxed) || self.stop.load(Relaxed)
    }

    fn count(&self, answer: &Value) {
        let tokens = |key| {
            answer
                .get("usage")
                .and_then(|usage| usage.get(key)?.as_u64())
        };
        let (prompt, completion) = (tokens("prompt_tokens"), tokens("completion_tokens"));
        self.usage
            .prompt_tokens
            .fetch_add(prompt.unwrap_or(0), Relaxed);
        self.usage
            .completion_tokens
            .fetch_add(completion.unwrap_or(0), Relaxed);
        let model = answer.get("model").and_then(Value::as_str);
        if let Some(model) = model.filter(|model| self.server.may_show(model)) {
            let mut models = self
                .usage
                .models
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            models.insert(model.to_owned());
        }
    }

    /// Asks with a few workers, in no fixed order of time, and gives each answer away as it comes.
    /// After a failure nothing more is asked, and what was under way is still given away.
    fn ask_all<R: Request, T: Send>(
        &self,
        requests: &[R],
        ask: &(dyn Fn(&R, &AtomicBool) -> Asked<T> + Sync),
        given: &mut dyn FnMut(usize, T) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let (next, halt) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = |send: mpsc::Sender<(usize, Result<T, EndpointError>)>| {
            while !self.stopped(&halt) {
                let index = next.fetch_add(1, Relaxed);
                let Some(request) = requests.get(index) else {
                    return;
                };
                let answer = match ask(request, &halt) {
                    Ok(None) => return,
                    Ok(Some(answer)) => Ok(answer),
                    Err(error) => {
                        halt.store(true, Relaxed);
                        Err(error)
                    }
                };
                // Whoever listens does so until every worker is done.
                let _ = send.send((index, answer));
            }
        };
        let mut failed: Option<(usize, EndpointError)> = None;
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..self.section.concurrency.min(requests.len()) {
                let (send, work) = (send.clone(), &work);
                scope.spawn(move || work(send));
            }
            drop(send);
            for (index, answer) in receive {
                match answer {
                    Ok(answer) => {
                        if given(index, answer).is_break() {
                            halt.store(true, Relaxed);
                        }
                    }
                    Err(error) => {
                        if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                            failed = Some((index, error));
                        }
                    }
                }
            }
        });
        match failed {
            Some((index, error)) => Err(ModelError::at(requests[index].id(), error)),
            None => Ok(()),
        }
    }
}

/// An answer, or `None` where it was told to stop.
type Asked<T> = Result<Option<T>, EndpointError>;

/// Something asked, by its item's id.
trait Request: Sync {
    fn id(&self) -> &str;
}

impl Request for GenerateRequest {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Request for ScoreRequest {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The answers in the order of their requests; an error where stopping left some out.
fn all<T>(answers: Vec<Option<T>>) -> Result<Vec<T>, ModelError> {
    let all: Option<Vec<T>> = answers.into_iter().collect();
    all.ok_or_else(|| ModelError::new("it was told to stop"))
}

impl LanguageModel for Endpoint<'_> {
    fn name(&self) -> &str {
        &self.section.name
    }

    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<Vec<OptionScore>>, ModelError> {
        let mut scores = vec![None; requests.len()];
        self.score_each(requests, &mut |index, given| {
            scores[index] = Some(given);
            ControlFlow::Continue(())
        })?;
        all(scores)
    }

    fn generate(&mut self, requests: &[GenerateRequest]) -> Result<Vec<String>, ModelError> {
        let mut texts = vec![None; requests.len()];
        let mut unanswered = None;
        self.generate_each(requests, &mut |index, reply| match reply {
            Reply::Text(text) => {
                texts[index] = Some(text);
                ControlFlow::Continue(())
            }
            Reply::Unanswered(why) => {
                unanswered = Some((index, why));
                ControlFlow::Break(())
            }
        })?;
        match unanswered {
            Some((index, why)) => Err(ModelError::at(&requests[index].id, why)),
            None => all(texts),
        }
    }

    fn perplexity(&mut self, _: &[Tokenized]) -> Result<Perplexity, ModelError> {
        Err(ModelError::new(EndpointError::NoPerplexity {
            endpoint: self.section.name.clone(),
        }))
    }

    fn answers_singly(&self) -> bool {
        true
    }

    fn score_each(
        &mut self,
        requests: &[ScoreRequest],
        given: &mut dyn FnMut(usize, Vec<OptionScore>) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let ask = |request: &ScoreRequest, halt: &AtomicBool| self.option_scores(request, halt);
        self.ask_all(requests, &ask, given)
    }

    fn generate_each(
        &mut self,
        requests: &[GenerateRequest],
        given: &mut dyn FnMut(usize, Reply) -> ControlFlow<()>,
    ) -> Result<(), ModelError> {
        let ask = |request: &GenerateRequest, halt: &AtomicBool| self.reply(request, halt);
        self.ask_all(requests, &ask, given)
    }
}
