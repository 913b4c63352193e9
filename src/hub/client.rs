//! The few requests that a download needs. Paths and headers are those of the Hub's API, as huggingface_hub 2.4 uses it.

use std::sync::Arc;
use std::time::Duration;

use adapters::hub::HubName;
use anyhow::Result;
use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, HeaderMap, LOCATION, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::token::Token;
use crate::failure::Failure;

const ENDPOINT: &str = "https://huggingface.co";
/// No list of a repository's files is longer.
const LONGEST_LIST_BYTES: u64 = 32 << 20;
const MOST_REDIRECTS: usize = 8;
/// Without a byte for so long, a connection is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// A connection to the hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// Why a request did not do.
pub enum Trouble {
    /// It may work the next time: the network, or a server that is busy.
    Passing(String),
    /// It will not.
    Lasting(anyhow::Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Lasting(failure.into())
    }
}

/// A repository at a commit.
pub struct Repository {
    /// The commit that the revision stands for.
    pub commit: String,
    /// Every file, with folders.
    pub files: Vec<String>,
}

/// A file as the server describes it.
#[derive(Debug, Clone)]
pub struct FileFacts {
    /// What names its content: its SHA-256 where the hub stores it apart, its git blob id elsewhere.
    pub etag: String,
    /// Its length.
    pub size_bytes: u64,
}

#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    /// The hub that the environment names (`HF_ENDPOINT`), with the user's token. Connects to nothing yet.
    pub fn from_env() -> Result<Self> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = match endpoint.trim().trim_end_matches('/') {
            "" => ENDPOINT,
            endpoint => endpoint,
        };
        if origin(endpoint).is_none() {
            let failure =
                Failure::user(format!("HF_ENDPOINT is `{endpoint}`, which is no address"));
            return Err(failure
                .hint("give one with http:// or https://, or none")
                .into());
        }
        // The system's certificates, which are those that a hospital's proxy is trusted by.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Followed here, so that headers on the way are seen and the token goes to the hub only.
            .max_redirects(0)
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("medtune/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Ok(Self {
            agent: config.into(),
            endpoint: endpoint.to_owned(),
            token: Token::from_env()?,
        })
    }

    /// The commit and the files of a model's revision.
    pub fn repository(&self, name: &HubName) -> Result<Repository, Trouble> {
        let (id, revision) = (name.id(), escaped(name.revision(), false));
        let url = format!("{}/api/models/{id}/revision/{revision}", self.endpoint);
        let (response, _) = self.follow("GET", url, None)?;
        let body = self.accepted(response, name, None)?;
        let text = body
            .into_with_config()
            .limit(LONGEST_LIST_BYTES)
            .read_to_vec()
            .map_err(|error| passing(&error))?;
        let no_hub = || {
            Failure::user(format!(
                "{} does not answer as a Hugging Face Hub does",
                self.endpoint
            ))
            .hint("is HF_ENDPOINT right, and is there a proxy that asks for a login?")
        };
        let listing: Listing = serde_json::from_slice(&text).map_err(|_| no_hub())?;
        let commit = listing
            .sha
            .filter(|commit| is_hexadecimal(commit))
            .ok_or_else(no_hub)?;
        let files: Vec<String> = listing
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect();
        match files.iter().find(|file| !stays_inside(file)) {
            Some(file) => Err(Failure::user(format!(
                "`{name}` lists a file `{}`, which would lie outside of its folder",
                file.escape_debug()
            ))
            .into()),
            None => Ok(Repository { commit, files }),
        }
    }

    /// What a file's content is named by, and its length.
    pub fn facts(&self, name: &HubName, commit: &str, file: &str) -> Result<FileFacts, Trouble> {
        let (response, seen) = self.follow("HEAD", self.file_url(name, commit, file), None)?;
        if !response.status().is_redirection() {
            self.accepted(response, name, Some(file))?;
        }
        let facts = seen.etag.zip(seen.size_bytes);
        let facts = facts.filter(|(etag, _)| is_file_name(etag));
        let (etag, size_bytes) = facts.ok_or_else(|| {
            Failure::user(format!(
                "{} states no usable ETag and length for {file}",
                self.endpoint
            ))
            .hint("is HF_ENDPOINT a Hugging Face Hub?")
        })?;
        Ok(FileFacts { etag, size_bytes })
    }

    /// A file's content from a byte on, and whether the server begins there and not at the first.
    pub fn content(
        &self,
        name: &HubName,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<(Body, bool), Trouble> {
        let (response, _) = self.follow("GET", self.file_url(name, commit, file), Some(from))?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        // The server has another file now than the one that was begun.
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Trouble::Passing(
                "the server does not go on from there".into(),
            ));
        }
        Ok((self.accepted(response, name, Some(file))?, resumed))
    }

    fn file_url(&self, name: &HubName, commit: &str, file: &str) -> String {
        let (id, file) = (name.id(), escaped(file, true));
        format!("{}/{id}/resolve/{commit}/{file}", self.endpoint)
    }

    /// Sends a request, and again to where the answers lead. A HEAD stops where it would leave the hub, whose headers
    /// describe the file.
    fn follow(
        &self,
        method: &str,
        mut url: String,
        from: Option<u64>,
    ) -> Result<(Response<Body>, Seen), Trouble> {
        let mut seen = Seen::default();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = match method {
                "HEAD" => self.agent.head(&url),
                _ => self.agent.get(&url),
            };
            if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header(AUTHORIZATION, token.header());
            }
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| passing(&error))?;
            let redirected = response.status().is_redirection();
            seen.note(response.headers(), redirected);
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|place| joined(&url, place.to_str().ok()?));
            match next {
                Some(next) if redirected && (method != "HEAD" || self.is_hub(&next)) => url = next,
                _ => return Ok((response, seen)),
            }
        }
        Err(Failure::user(format!(
            "{} leads from one address to the next without end",
            self.endpoint
        ))
        .into())
    }

    fn is_hub(&self, url: &str) -> bool {
        origin(url).is_some() && origin(url) == origin(&self.endpoint)
    }

    /// The body of an answer that is one.
    fn accepted(
        &self,
        response: Response<Body>,
        name: &HubName,
        file: Option<&str>,
    ) -> Result<Body, Trouble> {
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Trouble::Passing(format!(
                "{} answered {status}",
                self.endpoint
            )));
        }
        let code = response.headers().get("x-error-code");
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default();
        Err(self.refusal(status, code, name, file).into())
    }

    /// What a refusal means. To someone who may not see it, the hub shows a private model as one that is not there.
    fn refusal(
        &self,
        status: StatusCode,
        code: &str,
        name: &HubName,
        file: Option<&str>,
    ) -> Failure {
        let (id, page) = (name.id(), format!("{}/{}", self.endpoint, name.id()));
        let login = "set HF_TOKEN to a token of https://huggingface.co/settings/tokens, or run `hf auth login`";
        match (status.as_u16(), code, &self.token) {
            (401, "GatedRepo", None) => Failure::user(format!("`{id}` is gated, and there is no token"))
                .hint(format!("accept its terms on {page}, then {login}")),
            (401 | 403, "GatedRepo", _) | (403, ..) => Failure::user(format!(
                "`{id}` is gated, and your token's account has not been given access"
            ))
            .hint(format!("accept its terms on {page}; a fine-grained token must also be allowed to read gated models")),
            (401, _, None) => Failure::user(format!("there is no model `{id}` that everyone may see"))
                .hint(format!("check the spelling; if it is private or gated, accept its terms on {page} and {login}")),
            (401, ..) => Failure::user(format!("the hub does not take your token for `{id}`"))
                .hint("check the spelling of the name, and that the token is still valid: `hf auth whoami`"),
            (404, "RevisionNotFound", _) => {
                Failure::user(format!("`{id}` has no revision `{}`", name.revision()))
                    .hint(format!("branches and tags are on {page}/tree/main; leave --revision out for the newest"))
            }
            (404, ..) => match file {
                Some(file) => Failure::user(format!("`{id}` has no file {file}"))
                    .hint("it may have been changed just now: try again"),
                None => Failure::user(format!("there is no model `{name}`"))
                    .hint(format!("check the spelling; if it is private, {login}")),
            },
            _ => Failure::user(format!("{} answered {status} for `{id}`", self.endpoint)),
        }
    }
}

/// What the answers to a request said of the file.
#[derive(Default)]
struct Seen {
    etag: Option<String>,
    size_bytes: Option<u64>,
}

impl Seen {
    fn note(&mut self, headers: &HeaderMap, redirected: bool) {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        // An answer that leads elsewhere has an ETag and a length of its own.
        let own = |name: &str| text(name).filter(|_| !redirected);
        if let Some(etag) = text("x-linked-etag").or_else(|| own("etag")) {
            self.etag
                .get_or_insert(etag.trim_start_matches("W/").trim_matches('"').to_owned());
        }
        if let Some(size) = text("x-linked-size").or_else(|| own("content-length")) {
            self.size_bytes = self.size_bytes.or(size.parse().ok());
        }
    }
}

fn passing(error: &ureq::Error) -> Trouble {
    Trouble::Passing(error.to_string())
}

/// Scheme and host of an address, in lower case.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest
        .split(['/', '?', '#'])
        .next()
        .filter(|host| !host.is_empty())?;
    let scheme = scheme.to_lowercase();
    ["http", "https"]
        .contains(&scheme.as_str())
        .then(|| format!("{scheme}://{}", host.to_lowercase()))
}

/// Where an answer from `url` leads; nowhere from https to http.
fn joined(url: &str, place: &str) -> Option<String> {
    let from = origin(url)?;
    if place.starts_with('/') && !place.starts_with("//") {
        return Some(format!("{from}{place}"));
    }
    let to = origin(place)?;
    let weaker = from.starts_with("https:") && to.starts_with("http:");
    (!weaker).then(|| place.to_owned())
}

/// A part of an address, with what means something else in one as `%20`.
fn escaped(text: &str, keep_slashes: bool) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(byte.into())
            }
            b'/' if keep_slashes => escaped.push('/'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn is_hexadecimal(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a name from the server is one of a file in its folder.
fn is_file_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.chars().all(plain)
}

/// Whether a path from the server stays in the folder that it is put in.
fn stays_inside(path: &str) -> bool {
    let sound = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 512
        && path.split('/').all(sound)
        && !path.contains(['\\', ':'])
        && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_and_the_hub_is_recognised() {
        let hub = "https://hub.co/a/b";
        assert_eq!(
            origin("HTTPS://Hub.co:443/x").unwrap(),
            "https://hub.co:443"
        );
        for none in ["hub.co", "ftp://hub.co", "https://", ""] {
            assert_eq!(origin(none), None, "{none}");
        }
        assert_eq!(joined(hub, "/x?y").unwrap(), "https://hub.co/x?y");
        assert_eq!(joined(hub, "https://cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(joined(hub, "http://cdn.co/x"), None);
        assert_eq!(
            joined("http://hub.co/a", "http://cdn.co/x").unwrap(),
            "http://cdn.co/x"
        );
        for none in ["//cdn.co/x", "x", "file:///etc"] {
            assert_eq!(joined(hub, none), None, "{none}");
        }
    }

    #[test]
    fn names_from_the_server_stay_in_their_folder() {
        for good in ["config.json", "onnx/model.onnx", "a b"] {
            assert!(stays_inside(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a\\b",
            "c:x",
            "a\nb",
            ".",
        ] {
            assert!(!stays_inside(bad), "{bad}");
        }
        assert!(is_file_name("0123abcd"));
        for bad in ["", "..", "a/b", ".x", "a b"] {
            assert!(!is_file_name(bad), "{bad}");
        }
        assert_eq!(escaped("a b/c#?", true), "a%20b/c%23%3F");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
