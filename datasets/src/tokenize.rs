//! Conversations and documents as tokens.

use rayon::prelude::*;

use crate::recipe::OnTooLong;
use crate::record::{Conversation, Document, Message, Role};
use crate::template::Template;
use crate::{Error, Result, Tokenized, Tokenizer};

/// A set of samples as tokens, and what became of those that did not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedSet {
    /// The samples, in the order they were given in.
    pub samples: Vec<Tokenized>,
    /// The samples left out.
    pub dropped: Vec<TooLong>,
    /// The samples whose prompt was cut.
    pub truncated: Vec<TooLong>,
}

/// A sample that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TooLong {
    /// Its id.
    pub id: String,
    /// Its length, uncut.
    pub tokens: usize,
}

/// Writes conversations as tokens, in parallel; the result depends on nothing
/// but the arguments. A sample's number is its place among `conversations`.
///
/// # Errors
/// The first conversation, in order, that has no answer, an empty one, none of
/// its own in tokens, that the template refuses, or that does not fit.
pub fn tokenize(
    conversations: &[Conversation],
    tokenizer: &Tokenizer,
    template: &Template,
    max_seq_len: usize,
    on_too_long: OnTooLong,
) -> Result<TokenizedSet> {
    let mut writer = SampleWriter::new(tokenizer, template, max_seq_len, on_too_long);
    let mut set = TokenizedSet::default();
    for chunk in conversations.chunks(CHUNK) {
        writer.write(chunk, |_, written| {
            set.push(written);
            Ok(())
        })?;
    }
    Ok(set)
}

impl TokenizedSet {
    /// Puts a sample, or what became of it, where it belongs.
    pub fn push(&mut self, written: Written) {
        match written {
            Written::Whole(sample) => self.samples.push(sample),
            Written::Truncated(sample, whole) => {
                self.samples.push(sample);
                self.truncated.push(whole);
            }
            Written::Dropped(whole) => self.dropped.push(whole),
        }
    }
}

/// Writes documents as blocks of at most `max_seq_len` tokens, EOS between
/// them: see [`crate::pack_documents`].
///
/// # Errors
/// The tokenizer has no EOS, or a document has no token.
pub fn tokenize_documents(
    documents: &[Document],
    tokenizer: &Tokenizer,
    max_seq_len: usize,
) -> Result<Vec<Tokenized>> {
    let eos = tokenizer.eos().ok_or_else(|| Error::NoEos {
        tokenizer: tokenizer.origin().to_string(),
    })?;
    let encode = |document: &Document| match tokenizer.encode(&document.text, false) {
        Ok(ids) if ids.is_empty() => Err(Error::NoTarget {
            at: document.site(),
        }),
        ids => ids.map_err(|error| error.at(document.site())),
    };
    let ids: Vec<Result<Vec<u32>>> = documents.par_iter().map(encode).collect();
    let ids: Vec<Vec<u32>> = ids.into_iter().collect::<Result<_>>()?;
    Ok(crate::pack::pack_documents(ids, eos, max_seq_len))
}

/// What became of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It fits.
    Whole(Tokenized),
    /// It fits since its prompt was cut; how long it was.
    Truncated(Tokenized, TooLong),
    /// It does not fit and is left out.
    Dropped(TooLong),
}

/// The most conversations that [`SampleWriter::write_all`] holds at a time.
pub const CHUNK: usize = 4096;
/// The bytes of text after which it takes no further ones before it has written
/// those.
const CHUNK_BYTES: usize = 8 << 20;

/// Writes conversations as tokens, some at a time, so that memory does not grow
/// with their number.
#[derive(Debug)]
pub struct SampleWriter<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a Template,
    max_seq_len: usize,
    on_too_long: OnTooLong,
    /// The next conversation's number.
    number: u64,
}

impl<'a> SampleWriter<'a> {
    /// A writer whose first sample has number 0.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a Template,
        max_seq_len: usize,
        on_too_long: OnTooLong,
    ) -> Self {
        Self {
            tokenizer,
            template,
            max_seq_len,
            on_too_long,
            number: 0,
        }
    }

    /// Writes all of `conversations`, holding at most [`CHUNK`] of them at a
    /// time; `each` gets every one, in order, with what became of it.
    ///
    /// # Errors
    /// The first error in the order of the conversations: theirs, `each`'s, or
    /// as [`tokenize`].
    pub fn write_all(
        &mut self,
        conversations: impl IntoIterator<Item = Result<Conversation>>,
        mut each: impl FnMut(&Conversation, Written) -> Result<()>,
    ) -> Result<()> {
        let mut conversations = conversations.into_iter();
        let mut chunk = Vec::new();
        loop {
            let ended = fill(&mut chunk, &mut conversations);
            self.write(&chunk, &mut each)?;
            if let Some(ended) = ended {
                return ended;
            }
            chunk.clear();
        }
    }

    /// Writes some conversations, in parallel; `each` gets every one, in order,
    /// with what became of it.
    ///
    /// # Errors
    /// As [`SampleWriter::write_all`].
    pub fn write(
        &mut self,
        conversations: &[Conversation],
        mut each: impl FnMut(&Conversation, Written) -> Result<()>,
    ) -> Result<()> {
        let this = &*self;
        // Results, not a short-circuiting Result: which error is first must not
        // depend on which thread is.
        let written: Vec<Result<Written>> = conversations
            .par_iter()
            .enumerate()
            .map(|(i, conversation)| this.written(this.number + i as u64, conversation))
            .collect();
        for (conversation, written) in conversations.iter().zip(written) {
            each(conversation, written?)?;
        }
        self.number += conversations.len() as u64;
        Ok(())
    }

    fn written(&self, number: u64, conversation: &Conversation) -> Result<Written> {
        conversation.check()?;
        let site = || conversation.site();
        let encode = |messages: &[Message]| self.encode(number, &conversation.id, messages);
        let sample = encode(&conversation.messages).map_err(|error| error.at(site()))?;
        if sample.target_tokens() == 0 {
            return Err(Error::NoTarget { at: site() });
        }
        let (tokens, max_seq_len) = (sample.len(), self.max_seq_len);
        if tokens <= max_seq_len {
            return Ok(Written::Whole(sample));
        }
        let whole = TooLong {
            id: conversation.id.clone(),
            tokens,
        };
        match self.on_too_long {
            OnTooLong::Error => Err(Error::TooLong {
                at: site(),
                tokens,
                max_seq_len,
            }),
            OnTooLong::Drop => Ok(Written::Dropped(whole)),
            OnTooLong::TruncatePrompt => {
                let cut = self
                    .cut(conversation, encode)
                    .map_err(|error| error.at(site()))?;
                match cut {
                    Ok(sample) => Ok(Written::Truncated(sample, whole)),
                    Err(tokens) => Err(Error::AnswerTooLong {
                        at: site(),
                        tokens,
                        max_seq_len,
                    }),
                }
            }
        }
    }

    fn encode(&self, number: u64, id: &str, messages: &[Message]) -> Result<Tokenized> {
        let pieces = self.template.render(messages, false)?;
        let (input_ids, mut loss_mask) = self.tokenizer.encode_pieces(&pieces)?;
        // Nothing predicts the first token.
        if let Some(first) = loss_mask.first_mut() {
            *first = false;
        }
        Ok(Tokenized {
            id: id.to_string(),
            sample: number,
            input_ids,
            loss_mask,
        })
    }

    /// Takes text out of the middle of the longest question, then of the next
    /// longest, until the sample fits: instructions stand at a question's
    /// beginning and the question itself often at its end, and the template's
    /// own text stays whole. `Err` holds the length with no question text left.
    fn cut(
        &self,
        conversation: &Conversation,
        encode: impl Fn(&[Message]) -> Result<Tokenized>,
    ) -> Result<std::result::Result<Tokenized, usize>> {
        let mut messages = conversation.messages.clone();
        let mut questions: Vec<usize> = (0..messages.len())
            .filter(|&i| messages[i].role != Role::Assistant)
            .collect();
        questions.sort_by_key(|&i| std::cmp::Reverse(messages[i].content.len()));
        let mut tokens = 0;
        for question in questions {
            let text: Vec<char> = messages[question].content.chars().collect();
            // The most characters that fit, by bisection. `fits` is None where
            // not even an empty text does.
            let (mut low, mut high, mut fits) = (0, text.len(), None);
            while low <= high {
                let keep = low + (high - low) / 2;
                messages[question].content = without_middle(&text, keep);
                let sample = encode(&messages)?;
                if sample.len() <= self.max_seq_len {
                    fits = Some(sample);
                    low = keep + 1;
                } else if keep == 0 {
                    tokens = sample.len();
                    break;
                } else {
                    high = keep - 1;
                }
            }
            if let Some(sample) = fits {
                return Ok(Ok(sample));
            }
            messages[question].content.clear();
        }
        Ok(Err(tokens))
    }
}

/// Takes the next conversations. `Some` where there are no more after them, with
/// the error that is the reason, if one is.
fn fill(
    chunk: &mut Vec<Conversation>,
    conversations: &mut impl Iterator<Item = Result<Conversation>>,
) -> Option<Result<()>> {
    let mut bytes = 0;
    while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
        match conversations.next() {
            None => return Some(Ok(())),
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(conversation)) => {
                let texts = conversation.messages.iter();
                bytes += texts.map(|message| message.content.len()).sum::<usize>();
                chunk.push(conversation);
            }
        }
    }
    None
}

/// The first and last half of `keep` characters.
fn without_middle(text: &[char], keep: usize) -> String {
    let head = keep.div_ceil(2);
    text[..head]
        .iter()
        .chain(&text[text.len() - (keep - head)..])
        .collect()
}
