//! Text to token ids and back.
//!
//! One type for the three ways a Llama-family model brings its vocabulary: a
//! Hugging Face folder, a SentencePiece `tokenizer.model`, GGUF metadata. All
//! become what the `tokenizers` crate reads, so that ids are those that
//! `transformers` gives.

mod added;
mod cache;
mod encoder;
mod folder;
mod gguf;
mod gguf_out;
mod prefix_space;
mod sentencepiece;
mod splitter;
mod word_piece;
mod words;

#[cfg(test)]
mod identical;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

pub use gguf::{GgufVocab, PRE_TOKENIZERS};
pub use gguf_out::GgufVocabOut;

use encoder::Encoder;
use prefix_space::{GoingOn, without_prefix_space};

use crate::template::Piece;
use crate::{Error, Result, Tokenized};

/// A model's vocabulary, its special tokens and its chat template.
pub struct Tokenizer {
    inner: Encoder,
    /// For text that goes on: without the space that some vocabularies put
    /// before a text. `None` where the vocabulary adds none.
    going_on: Option<GoingOn>,
    /// What errors call it: a file, or the GGUF's metadata.
    origin: String,
    special: SpecialTokens,
    /// `tokenizer_config.json`.
    config: Map<String, Value>,
    chat_template: Option<String>,
}

/// The ids with a role of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// The tokens that end generation, as `generation_config.json` lists them.
    pub ends: BTreeSet<u32>,
}

impl Tokenizer {
    /// Reads a Hugging Face folder: `tokenizer.json`, or a SentencePiece
    /// `tokenizer.model`, or BERT's `vocab.txt`; `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja`, `generation_config.json` and `config.json` where
    /// they are.
    ///
    /// # Errors
    /// No vocabulary, or a file that cannot be read or used.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        folder::read(folder)
    }

    /// Makes a tokenizer of a GGUF file's metadata.
    ///
    /// # Errors
    /// A kind of vocabulary or of text splitting that is not supported, or
    /// lists that do not fit together.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        gguf::tokenizer(vocab)
    }

    /// Makes a tokenizer of `tokenizer.json`'s contents.
    fn new(
        json: &[u8],
        origin: String,
        special: SpecialTokens,
        config: Map<String, Value>,
        chat_template: Option<String>,
    ) -> Result<Self> {
        let bad = |error: tokenizers::Error| Error::Tokenizer {
            origin: origin.clone(),
            message: error.to_string(),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        // What is too long is dealt with by name, never cut in silence.
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        let going_on = without_prefix_space(&inner).map_err(bad)?;
        Ok(Self {
            inner: Encoder::new(inner),
            going_on,
            origin,
            special,
            config,
            chat_template,
        })
    }

    /// The ids of `text`. Special tokens written in it are recognised; with
    /// `add_special`, those that the vocabulary puts around every text (BOS)
    /// are added.
    ///
    /// # Errors
    /// The vocabulary cannot write the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.inner.encode(text, add_special)
    }

    /// The ids of `text` where it comes right after a token: `before` is the
    /// last token, `None` at the start. A SentencePiece vocabulary puts a space
    /// before a text's beginning; text that goes on must not get it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_after(&self, before: Option<u32>, text: &str) -> Result<Vec<u32>> {
        let (Some(before), Some(going_on)) = (before, &self.going_on) else {
            return self.encode(text, false);
        };
        if going_on.after_special && self.is_special(before) {
            return self.encode(text, false);
        }
        let mut ids = going_on.encoder.encode(text, false)?;
        if going_on.after_special
            && let Some(at) = ids.iter().position(|&id| self.is_special(id))
        {
            // What follows a special token in this text is a beginning again.
            let fresh = self.encode(text, false)?;
            let rest = fresh
                .iter()
                .position(|&id| self.is_special(id))
                .unwrap_or(fresh.len());
            ids.truncate(at);
            ids.extend_from_slice(&fresh[rest..]);
        }
        Ok(ids)
    }

    /// Encodes a template's pieces one by one: a token is a target exactly
    /// where its piece is one, so no boundary has to be found again in the ids.
    /// Tokens never join two pieces, which is also what generation sees: the
    /// prompt's tokens are fixed before the answer's first.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Result<(Vec<u32>, Vec<bool>)> {
        let mut input_ids = Vec::new();
        let mut loss_mask = Vec::new();
        for piece in pieces {
            let ids = self.encode_after(input_ids.last().copied(), &piece.text)?;
            loss_mask.resize(loss_mask.len() + ids.len(), piece.target);
            input_ids.extend(ids);
        }
        Ok((input_ids, loss_mask))
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// Ids that the vocabulary's decoder cannot put together.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |error: tokenizers::Error| Error::Encode {
            action: "decode",
            message: error.to_string(),
        };
        self.inner
            .tokenizer()
            .decode(ids, skip_special)
            .map_err(failed)
    }

    /// Each token's text and whether it is a target, for people to look at.
    /// Bytes of one character spread over several tokens are shown with the
    /// last of them.
    pub fn tokens_with_mask(&self, sample: &Tokenized) -> Vec<(String, bool)> {
        let mut stream = self.inner.tokenizer().decode_stream(false);
        let mut shown = Vec::with_capacity(sample.len());
        for (&id, &target) in sample.input_ids.iter().zip(&sample.loss_mask) {
            // A token that cannot be shown is still listed.
            shown.push((stream.step(id).ok().flatten().unwrap_or_default(), target));
        }
        shown
    }

    /// The id of a token, by its exact name in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer().token_to_id(token)
    }

    /// The name of a token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer().id_to_token(id)
    }

    /// One more than the largest id: the rows an embedding needs.
    pub fn vocab_size(&self) -> usize {
        let added = self
            .inner
            .tokenizer()
            .get_added_vocabulary()
            .get_vocab()
            .values()
            .copied()
            .max();
        let largest = added.map_or(0, |id| id as usize + 1);
        self.inner.tokenizer().get_vocab_size(false).max(largest)
    }

    /// Whether a token stands for something other than text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self
            .inner
            .tokenizer()
            .get_added_vocabulary()
            .get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special) || self.special.ends.contains(&id)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a text: what goes between documents and behind
    /// Me-LLaMA's answers.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token that fills up batches.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Every token that ends generation; chat models often have two.
    pub fn ends(&self) -> &BTreeSet<u32> {
        &self.special.ends
    }

    /// The chat template's source.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The vocabulary's origin, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The texts of all special tokens.
    pub(crate) fn special_texts(&self) -> Vec<String> {
        let added = self
            .inner
            .tokenizer()
            .get_added_vocabulary()
            .get_added_tokens_decoder();
        let special = added
            .values()
            .filter(|token| token.special)
            .map(|token| token.content.clone());
        let ends = self.special.ends.iter().filter_map(|&id| self.token(id));
        BTreeSet::from_iter(special.chain(ends))
            .into_iter()
            .collect()
    }

    /// `bos_token` and the like, as chat templates name them.
    pub(crate) fn named_tokens(&self) -> Vec<(&'static str, String)> {
        let SpecialTokens {
            bos, eos, unk, pad, ..
        } = self.special;
        [
            ("bos_token", bos),
            ("eos_token", eos),
            ("unk_token", unk),
            ("pad_token", pad),
        ]
        .into_iter()
        .filter_map(|(name, id)| Some((name, self.token(id?)?)))
        .collect()
    }

    /// `tokenizer.json` and `tokenizer_config.json`, as `transformers` reads them.
    ///
    /// # Errors
    /// The vocabulary cannot be written as JSON.
    pub fn files_json(&self) -> Result<(Value, Value)> {
        let failed = |error: serde_json::Error| Error::Tokenizer {
            origin: self.origin.clone(),
            message: error.to_string(),
        };
        let tokenizer = serde_json::to_value(self.inner.tokenizer()).map_err(failed)?;
        let mut config = self.config.clone();
        // Where nothing is said, the class that takes tokenizer.json as it is.
        config
            .entry("tokenizer_class")
            .or_insert(json!("PreTrainedTokenizerFast"));
        for (name, token) in self.named_tokens() {
            config.entry(name).or_insert(json!(token));
        }
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), json!(template));
        }
        Ok((tokenizer, Value::Object(config)))
    }

    /// A hash of which token has which id: the part that a model's embedding depends on, the same for a tokenizer that
    /// comes from another file format.
    pub fn vocabulary_sha256(&self) -> String {
        let mut tokens: Vec<(u32, String)> = self
            .inner
            .tokenizer()
            .get_vocab(true)
            .into_iter()
            .map(|(token, id)| (id, token))
            .collect();
        tokens.sort_unstable();
        ledger::hash::sha256_bytes(json!(tokens).to_string().as_bytes())
    }

    /// A hash of everything that changes ids or rendered text.
    ///
    /// # Errors
    /// As [`Tokenizer::files_json`].
    pub fn fingerprint(&self) -> Result<String> {
        let (tokenizer, _) = self.files_json()?;
        let facts = json!([
            tokenizer,
            self.chat_template,
            self.named_tokens(),
            self.special.ends
        ]);
        Ok(ledger::hash::sha256_bytes(facts.to_string().as_bytes()))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("origin", &self.origin)
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}
