//! How many tokens samples have, and how many packs they fill.

use crate::pack::{WINDOW, pack};
use crate::recipe::DataSection;
use crate::record::Sample;
use crate::{Error, Result, Template, Tokenized, Tokenizer};

/// Writes samples as tokens to count them.
pub struct Counter<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a Template,
    max_seq_len: usize,
}

/// The tokens of one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SampleTokens {
    /// All.
    pub tokens: u32,
    /// Those that teach.
    pub target_tokens: u32,
}

impl<'a> Counter<'a> {
    /// Counts as training will: with the model's tokenizer and the template of
    /// `section`.
    pub fn new(section: &DataSection, tokenizer: &'a Tokenizer, template: &'a Template) -> Self {
        Self {
            tokenizer,
            template,
            max_seq_len: section.max_seq_len,
        }
    }

    /// The longest sample that fits.
    pub fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    /// The tokens of a sample; a document's with the EOS behind it.
    ///
    /// # Errors
    /// The template refuses the conversation, or the vocabulary a text.
    pub fn count(&self, sample: &Sample) -> Result<SampleTokens> {
        let at = |error: Error| error.at(sample.site());
        match sample {
            Sample::Document(document) => {
                let ids = self.tokenizer.encode(&document.text, false).map_err(at)?;
                let tokens = ids.len() as u32 + 1;
                Ok(SampleTokens {
                    tokens,
                    target_tokens: tokens,
                })
            }
            Sample::Conversation(conversation) => {
                let pieces = self
                    .template
                    .render(&conversation.messages, false)
                    .map_err(at)?;
                let (ids, mask) = self.tokenizer.encode_pieces(&pieces).map_err(at)?;
                Ok(SampleTokens {
                    tokens: ids.len() as u32,
                    target_tokens: mask.iter().filter(|&&target| target).count() as u32,
                })
            }
        }
    }
}

/// Counts the packs of samples whose lengths come one after another, without
/// holding more than a window of them.
pub(super) struct Packs {
    max_seq_len: usize,
    window: Vec<Tokenized>,
    packs: u64,
}

impl Packs {
    pub(super) fn new(max_seq_len: usize) -> Self {
        Self {
            max_seq_len,
            window: Vec::with_capacity(WINDOW),
            packs: 0,
        }
    }

    /// Samples longer than a pack are left to training's `on_too_long`.
    pub(super) fn add(&mut self, tokens: u32) {
        let tokens = tokens as usize;
        if tokens == 0 || tokens > self.max_seq_len {
            return;
        }
        self.window.push(Tokenized {
            id: String::new(),
            sample: 0,
            input_ids: vec![0; tokens],
            loss_mask: vec![false; tokens],
        });
        if self.window.len() == WINDOW {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.packs += pack(&self.window, self.max_seq_len).len() as u64;
        self.window.clear();
    }

    pub(super) fn count(mut self) -> u64 {
        self.flush();
        self.packs
    }
}
