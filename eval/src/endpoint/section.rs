//! `[[eval.endpoint]]`: a model behind an HTTP API.

use ledger::AccessClass;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::http::Uri;

use super::error::{EndpointError, UrlProblem};
use crate::task::{Answering, Task};

/// A model behind an OpenAI-compatible HTTP API that is asked the recipe's tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSection {
    /// What the model is called in the report.
    pub name: String,
    /// Where the API is, up to and with its version: `https://api.openai.com/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key; left out where the server wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Under which agreement texts that are not open may be sent to this server, in words that the
    /// run records. Without it they are sent to servers on this machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
    /// Those of the recipe's tasks that this model is asked; all where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
    /// A folder with the model's tokenizer, for servers that give the log-probabilities of a prompt
    /// (`echo` and `logprobs` of the completions API, as vLLM): with it, tasks answered by
    /// log-likelihood can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// How many requests are under way at a time.
    #[serde(default = "four")]
    pub concurrency: usize,
    /// How long to wait for an answer.
    #[serde(default = "two_minutes")]
    pub timeout_secs: u64,
    /// How often a request that failed for a passing reason is sent again.
    #[serde(default = "eight")]
    pub max_retries: u32,
    /// Most tokens of an answer, in place of the tasks' own: models that think before they answer
    /// need more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// How freely tokens are drawn; 0 takes the likeliest.
    #[serde(default)]
    pub temperature: f64,
    /// Further keys of the request, as the server wants them: `extra = { seed = 1 }`. They replace
    /// medtune's own.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

fn four() -> usize {
    4
}

fn two_minutes() -> u64 {
    120
}

fn eight() -> u32 {
    8
}

/// More connections than this help no one.
const MOST_CONCURRENT: usize = 256;

impl EndpointSection {
    /// A section with defaults beside what has none.
    pub fn new(name: &str, url: &str, model: &str) -> Self {
        EndpointSection {
            name: name.to_owned(),
            url: url.to_owned(),
            model: model.to_owned(),
            api_key_env: None,
            agreement: None,
            tasks: None,
            tokenizer: None,
            concurrency: four(),
            timeout_secs: two_minutes(),
            max_retries: eight(),
            max_new_tokens: None,
            temperature: 0.0,
            extra: Map::new(),
        }
    }

    /// Problems that types cannot rule out, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut hold = |ok: bool, key, wrong: &str| {
            if !ok {
                problems.push((key, wrong.to_owned()));
            }
        };
        let written = |text: &Option<String>| text.as_ref().is_none_or(|t| !t.trim().is_empty());
        let filled = "is empty: leave it out, or fill it in";
        hold(!self.model.trim().is_empty(), "model", "is empty");
        hold(written(&self.agreement), "agreement", filled);
        hold(written(&self.api_key_env), "api_key_env", filled);
        let some = (1..=MOST_CONCURRENT).contains(&self.concurrency);
        hold(some, "concurrency", "must be from 1 to 256");
        hold(self.timeout_secs >= 1, "timeout_secs", "must be at least 1");
        hold(
            self.max_retries <= 100,
            "max_retries",
            "must be at most 100",
        );
        let tokens = self.max_new_tokens;
        hold(tokens != Some(0), "max_new_tokens", "must be at least 1");
        let warm = (0.0..=2.0).contains(&self.temperature);
        hold(warm, "temperature", "must be from 0 to 2");
        if let Err(EndpointError::Url { problem, .. }) = self.address() {
            problems.push(("url", problem.to_string()));
        }
        problems
    }

    /// Whether this model is asked a task.
    pub fn asks(&self, task: &str) -> bool {
        let named = self.tasks.as_deref();
        named.is_none_or(|tasks| tasks.iter().any(|name| name == task))
    }

    /// Whether texts under these terms may be sent: open ones anywhere, others to this machine, or
    /// under an agreement that the recipe names.
    ///
    /// # Errors
    /// [`EndpointError::Terms`].
    pub fn permit(&self, task: &str, access: AccessClass) -> Result<(), EndpointError> {
        match self.may_see(access)? {
            true => Ok(()),
            false => Err(EndpointError::Terms {
                task: task.to_owned(),
                access,
                endpoint: self.name.clone(),
                host: self.host()?,
            }),
        }
    }

    /// As [`permit`](Self::permit), of what a model under these terms writes: it may repeat what it
    /// was trained on.
    ///
    /// # Errors
    /// [`EndpointError::AnswerTerms`].
    pub fn permit_answers(&self, model: &str, access: AccessClass) -> Result<(), EndpointError> {
        match self.may_see(access)? {
            true => Ok(()),
            false => Err(EndpointError::AnswerTerms {
                model: model.to_owned(),
                access,
                endpoint: self.name.clone(),
                host: self.host()?,
            }),
        }
    }

    fn may_see(&self, access: AccessClass) -> Result<bool, EndpointError> {
        let agreed = self.agreement.as_deref();
        let agreed = agreed.is_some_and(|text| !text.trim().is_empty());
        Ok(access == AccessClass::Open || self.is_local()? || agreed)
    }

    /// Whether a task can be asked here, before anything is: that its terms allow it, and that the
    /// server gives what its way of answering needs. `generative` is the task that asks the same
    /// by generation, where there is one.
    ///
    /// # Errors
    /// [`EndpointError::Terms`], [`EndpointError::NoLogProbs`].
    pub fn check(&self, task: &Task, generative: Option<String>) -> Result<(), EndpointError> {
        let by_likelihood = matches!(task.answering, Answering::LogLikelihood { .. });
        if by_likelihood && self.tokenizer.is_none() {
            return Err(EndpointError::NoLogProbs {
                task: task.name.clone(),
                endpoint: self.name.clone(),
                generative,
            });
        }
        self.permit(&task.name, task.source.access)
    }

    /// The host that is asked.
    ///
    /// # Errors
    /// [`EndpointError::Url`].
    pub fn host(&self) -> Result<String, EndpointError> {
        Ok(self.address()?.host)
    }

    /// Whether the server is this machine.
    ///
    /// # Errors
    /// [`EndpointError::Url`].
    pub fn is_local(&self) -> Result<bool, EndpointError> {
        Ok(self.address()?.local)
    }

    pub(super) fn address(&self) -> Result<Address, EndpointError> {
        Address::parse(&self.url).map_err(|problem| EndpointError::Url {
            endpoint: self.name.clone(),
            problem,
        })
    }
}

/// A checked URL.
pub(super) struct Address {
    /// The URL without a slash at its end.
    pub base: String,
    pub host: String,
    /// Whether the host is this machine by its name or number; a name that only resolves to it is
    /// not taken for it.
    pub local: bool,
}

impl Address {
    fn parse(url: &str) -> Result<Self, UrlProblem> {
        // What may hold a key is not repeated in any message.
        if url.contains('@') {
            return Err(UrlProblem::Credentials);
        }
        if url.contains(['?', '#']) {
            return Err(UrlProblem::Query);
        }
        let uri: Uri = url.parse().map_err(|_| UrlProblem::NotAUrl)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(UrlProblem::Scheme);
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or(UrlProblem::NotAUrl)?;
        let base = url.trim_end_matches('/');
        if base.ends_with("/completions") {
            return Err(UrlProblem::Path);
        }
        Ok(Address {
            base: base.to_owned(),
            host: host.to_owned(),
            local: is_loopback(host),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let number = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || number.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> EndpointSection {
        EndpointSection::new("server", url, "model")
    }

    #[test]
    fn this_machine_is_known_by_name_and_number() {
        for url in [
            "http://localhost:8000/v1",
            "http://LOCALHOST/v1/",
            "http://127.0.0.1:8000/v1",
            "https://127.9.8.7/v1",
            "http://[::1]:8000/v1",
        ] {
            assert!(at(url).is_local().unwrap(), "{url}");
        }
        for url in [
            "https://api.openai.com/v1",
            "http://localhost.example.org/v1",
            "http://127.0.0.1.example.org/v1",
            "http://10.0.0.7/v1",
            "http://0.0.0.0:8000/v1",
            "http://[::]/v1",
        ] {
            assert!(!at(url).is_local().unwrap(), "{url}");
        }
    }

    #[test]
    fn only_a_bare_http_address_will_do() {
        let problem = |url: &str| match at(url).address() {
            Err(EndpointError::Url { problem, .. }) => problem,
            _ => panic!("{url} will do"),
        };
        assert_eq!(
            problem("http://127.0.0.1@evil.example/v1"),
            UrlProblem::Credentials
        );
        assert_eq!(problem("https://h/v1?key=abc"), UrlProblem::Query);
        assert_eq!(problem("ftp://h/v1"), UrlProblem::Scheme);
        assert_eq!(problem("api.openai.com"), UrlProblem::Scheme);
        assert_eq!(problem("https://h/v1/chat/completions/"), UrlProblem::Path);
        assert_eq!(problem("https:// h"), UrlProblem::NotAUrl);
        assert_eq!(problem(""), UrlProblem::NotAUrl);
    }

    #[test]
    fn texts_that_are_not_open_stay_on_this_machine_without_an_agreement() {
        let here = at("http://127.0.0.1:8000/v1");
        let away = at("https://api.openai.com/v1");
        let agreed = EndpointSection {
            agreement: Some("DUA 2024-17 with our cloud".into()),
            ..away.clone()
        };
        let blank = EndpointSection {
            agreement: Some(" ".into()),
            ..away.clone()
        };
        for &access in AccessClass::ALL {
            assert!(here.permit("mednli", access).is_ok());
            assert!(agreed.permit("mednli", access).is_ok());
            let open = access == AccessClass::Open;
            assert_eq!(away.permit("mednli", access).is_ok(), open, "{access}");
            assert_eq!(blank.permit("mednli", access).is_ok(), open, "{access}");
        }
    }
}
