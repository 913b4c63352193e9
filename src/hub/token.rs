//! The user's token for the hub. It is sent to the hub alone, and never shown.

use std::env;
use std::path::PathBuf;

use anyhow::Result;

use super::is_true;
use crate::failure::Failure;

/// A token, without a way to print it.
pub struct Token(String);

impl Token {
    /// The token of the environment (`HF_TOKEN`), or that of `hf auth login`, in `HF_TOKEN_PATH` or the hub's folder.
    pub fn from_env() -> Result<Option<Self>> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        if set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            return Ok(None);
        }
        if let Some(text) = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
            return Self::new(&text, "HF_TOKEN");
        }
        let path = set("HF_TOKEN_PATH")
            .map(PathBuf::from)
            .unwrap_or_else(|| adapters::hub::hub_home().join("token"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::new(&text, &format!("`{}`", path.display())),
            Err(_) => Ok(None),
        }
    }

    fn new(text: &str, place: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            let failure = Failure::user(format!("{place} holds something that is not a token"));
            return Err(failure
                .hint("a token is one word, such as hf_...; `hf auth login` writes it where it is looked for")
                .into());
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The value of the header that carries it.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}
