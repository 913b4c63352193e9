//! A key that is sent and never shown.

use std::fmt;

use super::error::{EndpointError, KeyProblem};

/// A key from the environment.
pub(super) struct ApiKey(String);

impl ApiKey {
    /// Reads it.
    pub fn from_env(endpoint: &str, variable: &str) -> Result<Self, EndpointError> {
        let failed = |problem| EndpointError::Key {
            endpoint: endpoint.to_owned(),
            variable: variable.to_owned(),
            problem,
        };
        let value = std::env::var_os(variable).ok_or_else(|| failed(KeyProblem::Unset))?;
        let value = value
            .into_string()
            .map_err(|_| failed(KeyProblem::Characters))?;
        // A key that was read from a file has its newline with it.
        let key = value.trim();
        if key.is_empty() {
            return Err(failed(KeyProblem::Empty));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(failed(KeyProblem::Characters));
        }
        Ok(ApiKey(key.to_owned()))
    }

    /// The header that carries it.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a text that a server gave may be shown: it holds no part of the key.
    pub fn is_free_of(&self, text: &str) -> bool {
        let part = text.len() >= 6 && self.0.contains(text);
        !part && !text.contains(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}
