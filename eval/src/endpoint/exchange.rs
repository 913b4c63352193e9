//! One request and its answer, and which failures pass.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::error::{EndpointError, Fault};
use super::key::ApiKey;
use super::retry;
use super::section::{Address, EndpointSection};
use crate::model::Unanswered;

/// The largest answer that is read: the log-probabilities of a long prompt under many options take
/// a few megabytes.
const MOST_BYTES: u64 = 64 << 20;

/// A server's error codes are words such as `rate_limit_exceeded`.
const LONGEST_WORD: usize = 64;

/// Why a request has no answer.
pub(super) enum Failure {
    /// It may have one the next time.
    Again {
        fault: Fault,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// The server will not answer this one item.
    Item(Unanswered),
    /// It never will.
    Never(EndpointError),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Again { fault, after: None }
    }
}

/// A server, and how it is reached.
pub(super) struct Server {
    name: String,
    base: String,
    timeout_secs: u64,
    key: Option<ApiKey>,
    agent: Agent,
}

impl Server {
    pub fn new(section: &EndpointSection, address: Address) -> Result<Self, EndpointError> {
        let key = section.api_key_env.as_deref();
        let key = key
            .map(|variable| ApiKey::from_env(&section.name, variable))
            .transpose()?;
        // The system's certificates, which are those that a hospital's servers are trusted by.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // A redirection could lead texts and the key off to another machine.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs(section.timeout_secs)))
            .max_idle_connections_per_host(section.concurrency)
            .user_agent(concat!("medtune/", env!("CARGO_PKG_VERSION")));
        if address.local {
            // What stays on this machine must not go through the house's proxy.
            config = config.proxy(None);
        }
        Ok(Server {
            name: section.name.clone(),
            base: address.base,
            timeout_secs: section.timeout_secs,
            key,
            agent: config.build().new_agent(),
        })
    }

    /// Sends a body to `base/method` and reads the JSON that comes back.
    pub fn post(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self
            .agent
            .post(format!("{}/{method}", self.base))
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", key.header());
        }
        let mut response = request
            .send(body.to_string())
            .map_err(|error| self.transport(error))?;
        let status = response.status().as_u16();
        let after = retry::after(response.headers());
        let text = read(&mut response).map_err(|error| self.transport(error))?;
        let json = serde_json::from_slice::<Value>(&text);
        if (200..300).contains(&status) {
            return json.map_err(|_| Fault::NotJson.into());
        }
        Err(self.refused(status, json.ok().as_ref(), after))
    }

    fn refused(&self, status: u16, json: Option<&Value>, after: Option<Duration>) -> Failure {
        let code = json.and_then(|json| self.code(json));
        // Azure's filter answers so.
        if matches!(
            code.as_deref(),
            Some("content_filter" | "content_policy_violation")
        ) {
            return Failure::Item(Unanswered::ContentFilter);
        }
        let passing = matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 529);
        if passing && code.as_deref() != Some("insufficient_quota") {
            let fault = Fault::Status { status, code };
            return Failure::Again { fault, after };
        }
        let endpoint = self.name.clone();
        Failure::Never(EndpointError::Refused {
            endpoint,
            status,
            code,
        })
    }

    /// The error's code or type.
    fn code(&self, json: &Value) -> Option<String> {
        let error = json.get("error").unwrap_or(json);
        let word = |key: &str| {
            let text = error.get(key)?.as_str()?;
            self.may_show(text).then(|| text.to_owned())
        };
        word("code").or_else(|| word("type"))
    }

    /// Whether what a server says is one word, such as a code or a model's name, without a part of the key.
    pub fn may_show(&self, text: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/@".contains(&byte);
        !text.is_empty()
            && text.len() <= LONGEST_WORD
            && text.bytes().all(plain)
            && self.key.as_ref().is_none_or(|key| key.is_free_of(text))
    }

    fn transport(&self, error: ureq::Error) -> Failure {
        let fault = match error {
            ureq::Error::Timeout(_) => Fault::Timeout {
                secs: self.timeout_secs,
            },
            ureq::Error::Io(error) if is_tls(&error) => return self.untrusted(&error),
            // A body that ends before its announced length.
            ureq::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Fault::NotJson,
            ureq::Error::Io(error) => Fault::Connection(error.kind()),
            ureq::Error::ConnectionFailed => Fault::Connection(ErrorKind::NotConnected),
            ureq::Error::HostNotFound => Fault::HostNotFound,
            ureq::Error::BodyExceedsLimit(_) => Fault::TooLarge,
            ureq::Error::Rustls(error) => return self.untrusted(&error),
            _ => Fault::Protocol,
        };
        fault.into()
    }

    fn untrusted(&self, error: &dyn StdError) -> Failure {
        Failure::Never(EndpointError::Tls {
            endpoint: self.name.clone(),
            reason: error.to_string(),
        })
    }
}

fn is_tls(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::InvalidData && error.get_ref().is_some()
}

fn read(response: &mut Response<Body>) -> Result<Vec<u8>, ureq::Error> {
    response
        .body_mut()
        .with_config()
        .limit(MOST_BYTES)
        .read_to_vec()
}
