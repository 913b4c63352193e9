//! What can go wrong between here and an endpoint. No message holds a key, a prompt or a server's
//! own words, which may repeat either: of what a server says only its error code is shown.

use std::fmt;
use std::io::ErrorKind;

use ledger::AccessClass;

/// What can go wrong with an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The URL is none that can be asked.
    #[error("the endpoint `{endpoint}`: `url` {problem}")]
    Url {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        problem: UrlProblem,
    },
    /// The environment variable of the key is not set.
    #[error("the endpoint `{endpoint}` takes its key from {variable}, which {problem}")]
    Key {
        /// The endpoint.
        endpoint: String,
        /// The variable.
        variable: String,
        /// What is wrong with it.
        problem: KeyProblem,
    },
    /// Texts under such terms may not leave this machine.
    #[error(
        "task `{task}` is {access}, and the endpoint `{endpoint}` at {host} is not on this machine"
    )]
    Terms {
        /// The task.
        task: String,
        /// Its items' strictest class.
        access: AccessClass,
        /// The endpoint.
        endpoint: String,
        /// Where it is.
        host: String,
    },
    /// What a model under such terms writes may not leave this machine.
    #[error(
        "`{model}` is {access}, as what it was trained on is, and the endpoint `{endpoint}` at {host}, which \
         would judge its answers, is not on this machine"
    )]
    AnswerTerms {
        /// The model.
        model: String,
        /// Its terms.
        access: AccessClass,
        /// The endpoint.
        endpoint: String,
        /// Where it is.
        host: String,
    },
    /// The endpoint has no tokenizer, so its prompts cannot be scored.
    #[error(
        "task `{task}` is answered by log-likelihood, and the endpoint `{endpoint}` gives no \
         log-probabilities of prompts"
    )]
    NoLogProbs {
        /// The task.
        task: String,
        /// The endpoint.
        endpoint: String,
        /// The same questions answered by generation, where there is such a task.
        generative: Option<String>,
    },
    /// Perplexity needs the model's own tokens.
    #[error("the endpoint `{endpoint}` gives no perplexity")]
    NoPerplexity {
        /// The endpoint.
        endpoint: String,
    },
    /// The tokenizer could not be read, or could not write a prompt.
    #[error("the endpoint `{endpoint}`: its tokenizer")]
    Tokenizer {
        /// The endpoint.
        endpoint: String,
        /// The reason.
        source: Box<datasets::Error>,
    },
    /// The tokenizer's folder has no chat template.
    #[error("the endpoint `{endpoint}`: its tokenizer has no chat template, and a chat is asked")]
    NoTemplate {
        /// The endpoint.
        endpoint: String,
    },
    /// The server refused for good.
    #[error(
        "the endpoint `{endpoint}` refused with HTTP {status}{}",
        in_brackets(code)
    )]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// The server's error code.
        code: Option<String>,
    },
    /// The server's certificate was not accepted.
    #[error("the endpoint `{endpoint}` cannot be trusted: {reason}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What the TLS library says.
        reason: String,
    },
    /// Every attempt failed.
    #[error("the endpoint `{endpoint}` gave no answer in {attempts} attempts; the last: {fault}")]
    GaveUp {
        /// The endpoint.
        endpoint: String,
        /// How often it was asked.
        attempts: u32,
        /// What failed at last.
        fault: Fault,
    },
    /// The server answered without the log-probabilities of the prompt.
    #[error("the endpoint `{endpoint}` answered without the log-probabilities of the prompt")]
    NoEcho {
        /// The endpoint.
        endpoint: String,
    },
    /// The server counts other tokens than the tokenizer.
    #[error("the endpoint `{endpoint}` gave log-probabilities of {given} tokens, {sent} were sent")]
    EchoLength {
        /// The endpoint.
        endpoint: String,
        /// Tokens sent.
        sent: usize,
        /// Tokens that came back.
        given: usize,
    },
}

/// What is wrong with a URL. None of these repeats it, since it may hold a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlProblem {
    /// No URL at all.
    #[error("is no URL")]
    NotAUrl,
    /// Neither http nor https.
    #[error("starts with neither http:// nor https://")]
    Scheme,
    /// A name or password before the host.
    #[error("has an `@`: a key belongs in the variable that `api_key_env` names")]
    Credentials,
    /// A query or a fragment.
    #[error("has a `?` or a `#`")]
    Query,
    /// The path of one method instead of the API's.
    #[error("ends with `/completions`: leave the method away, as in https://api.openai.com/v1")]
    Path,
}

/// What is wrong with a key. None of these repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The variable is not set.
    #[error("is not set")]
    Unset,
    /// The variable is set to nothing.
    #[error("is empty")]
    Empty,
    /// The variable holds what no HTTP header can.
    #[error("holds characters that no key has")]
    Characters,
}

/// What fails once and may not fail the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A status that asks to come back later.
    Status {
        /// The HTTP status.
        status: u16,
        /// The server's error code.
        code: Option<String>,
    },
    /// No answer in time.
    Timeout {
        /// How long was waited.
        secs: u64,
    },
    /// No connection, or a lost one.
    Connection(ErrorKind),
    /// The name of the host is not known.
    HostNotFound,
    /// Something is there, and does not speak HTTP.
    Protocol,
    /// The answer is cut short, or no JSON.
    NotJson,
    /// The answer is larger than any answer is.
    TooLarge,
    /// The answer has no choice with a text.
    NoChoice,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Status { status, code } => write!(f, "HTTP {status}{}", in_brackets(code)),
            Fault::Timeout { secs } => write!(f, "no answer within {secs} s"),
            Fault::Connection(kind) => write!(f, "{kind}"),
            Fault::HostNotFound => f.write_str("the host is not known"),
            Fault::Protocol => f.write_str("the answer is not HTTP"),
            Fault::NotJson => f.write_str("the answer is cut short or no JSON"),
            Fault::TooLarge => f.write_str("the answer is too large"),
            Fault::NoChoice => f.write_str("the answer has no choice with a text"),
        }
    }
}

fn in_brackets(code: &Option<String>) -> String {
    code.as_ref()
        .map_or(String::new(), |code| format!(" ({code})"))
}

impl EndpointError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            EndpointError::Url { .. } => {
                "write the API's address up to its version, as in https://api.openai.com/v1".into()
            }
            EndpointError::Key { variable, .. } => {
                format!("set it for this command: {variable}=... medtune eval ...")
            }
            EndpointError::Terms { .. } | EndpointError::AnswerTerms { .. } => {
                "if its terms let you send these texts there, name them in the endpoint's table: \
                 agreement = \"...\"; the run records it. Or ask a server on this machine"
                    .into()
            }
            EndpointError::NoLogProbs {
                task, generative, ..
            } => {
                let instead = match generative {
                    Some(generative) => format!("ask `{generative}` instead"),
                    None => format!("ask a variant of `{task}` with answering = [\"generate\"]"),
                };
                format!(
                    "{instead}; the endpoint's `tasks` says which tasks it is asked. A server such \
                     as vLLM does give them: name the model's `tokenizer` there"
                )
            }
            EndpointError::NoPerplexity { .. } => "measure it on a model on this machine".into(),
            EndpointError::Tokenizer { source, .. } => return source.hint(),
            EndpointError::NoTemplate { .. } => {
                "name the folder of the chat model itself, or set eval.template = \"me-llama\""
                    .into()
            }
            EndpointError::Refused { status, code, .. } => {
                refused_hint(*status, code.as_deref()).to_owned()
            }
            EndpointError::Tls { .. } => {
                "add the authority that issued the server's certificate to the system's, or name \
                 its file in SSL_CERT_FILE"
                    .into()
            }
            EndpointError::GaveUp { fault, .. } => format!(
                "{}; the same command goes on from the answers so far",
                fault.hint()
            ),
            EndpointError::NoEcho { .. } => {
                "the server must offer `echo` and `logprobs` of the completions API, as vLLM does; \
                 without them, leave `tokenizer` out and ask tasks that are answered by generation"
                    .into()
            }
            EndpointError::EchoLength { .. } => {
                "`tokenizer` must be the folder of the model that the server has loaded".into()
            }
        };
        Some(hint)
    }
}

fn refused_hint(status: u16, code: Option<&str>) -> &'static str {
    match (status, code) {
        (_, Some("insufficient_quota")) => {
            "the account has no credit left; the same command goes on from the answers so far"
        }
        (_, Some("context_length_exceeded")) => {
            "the prompt is longer than the model reads; ask a task with shorter prompts"
        }
        (401 | 403, _) => {
            "check the key in the variable that `api_key_env` names, and what it is allowed to use"
        }
        (404, _) => "check `url` (it ends with the version, as in /v1) and `model`",
        (300..400, _) => "the server sends elsewhere, and is not followed: give the final `url`",
        (400 | 422, _) => {
            "the server does not take this request: check `model`, `max_new_tokens` and `extra`; \
             newer models of OpenAI want extra = { max_completion_tokens = 512, temperature = 1 }"
        }
        (413, _) => "the prompt is larger than the server takes",
        _ => "the server's own log says more",
    }
}

impl Fault {
    fn hint(&self) -> &'static str {
        match self {
            Fault::Status { status: 429, .. } => {
                "the server allows fewer requests: lower `concurrency`, or raise `max_retries`"
            }
            Fault::Status { .. } => "the server is overloaded or broken: try again later",
            Fault::Timeout { .. } => "raise `timeout_secs`, or lower `concurrency`",
            Fault::Connection(_) | Fault::HostNotFound => {
                "check that the server runs, and its `url`"
            }
            Fault::Protocol | Fault::NotJson | Fault::TooLarge | Fault::NoChoice => {
                "check that `url` is an OpenAI-compatible API"
            }
        }
    }
}
