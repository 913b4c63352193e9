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
    let writer = Writer {
        tokenizer,
        template,
        max_seq_len,
        on_too_long,
    };
    // Results, not a short-circuiting Result: which error is first must not
    // depend on which thread is.
    let written: Vec<Result<Written>> = conversations
        .par_iter()
        .enumerate()
        .map(|(number, c)| writer.write(number as u64, c))
        .collect();
    let mut set = TokenizedSet::default();
    for written in written {
        match written? {
            Written::Whole(sample) => set.samples.push(sample),
            Written::Cut(sample, whole) => {
                set.samples.push(sample);
                set.truncated.push(whole);
            }
            Written::Dropped(whole) => set.dropped.push(whole),
        }
    }
    Ok(set)
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

struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a Template,
    max_seq_len: usize,
    on_too_long: OnTooLong,
}

enum Written {
    Whole(Tokenized),
    Cut(Tokenized, TooLong),
    Dropped(TooLong),
}

impl Writer<'_> {
    fn write(&self, number: u64, conversation: &Conversation) -> Result<Written> {
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
                    Ok(sample) => Ok(Written::Cut(sample, whole)),
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

/// The first and last half of `keep` characters.
fn without_middle(text: &[char], keep: usize) -> String {
    let head = keep.div_ceil(2);
    text[..head]
        .iter()
        .chain(&text[text.len() - (keep - head)..])
        .collect()
}
