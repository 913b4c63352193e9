//! A vocabulary that encodes: word by word where that gives the same ids, else
//! by the `tokenizers` crate.

use super::words::Words;
use crate::{Error, Result};

pub(super) struct Encoder {
    tokenizer: tokenizers::Tokenizer,
    /// `None` where only the crate knows this kind of vocabulary.
    words: Option<Words>,
}

impl Encoder {
    pub fn new(tokenizer: tokenizers::Tokenizer) -> Self {
        let words = Words::of(&tokenizer);
        Self { tokenizer, words }
    }

    /// The vocabulary as the crate has it.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.tokenizer
    }

    /// The ids of `text`; with `add_special`, with the tokens that go around
    /// every text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let words = self.words.as_ref().filter(|_| !add_special);
        let by_words = words.and_then(|words| words.encode(&self.tokenizer, text).transpose());
        let ids = by_words.unwrap_or_else(|| {
            let encoding = self.tokenizer.encode_fast(text, add_special)?;
            Ok(encoding.get_ids().to_vec())
        });
        ids.map_err(|error| Error::Encode {
            action: "encode",
            message: error.to_string(),
        })
    }

    #[cfg(test)]
    pub fn words(&self) -> Option<&Words> {
        self.words.as_ref()
    }
}
