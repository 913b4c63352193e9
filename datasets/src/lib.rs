//! medtune's data: from a source's rows to the tokens a model reads.
//!
//! ```text
//! rows -> Record -> Conversation | Document -> Tokenized -> Pack -> Batch
//! ```
//!
//! - [`source`] reads a recipe's `[[source]]` in one of the [`formats`];
//! - [`task`] makes conversations of records by the recipe's templates;
//! - [`Tokenizer`] and [`Template`] write a conversation as tokens, piece by
//!   piece, so that which tokens teach is known and never searched for;
//! - [`pack()`] puts samples in one row of tokens, [`Batch`] is what a forward
//!   pass reads;
//! - [`build()`] does the first half and leaves files.
//!
//! Nothing here depends on the number of threads, and nothing here has tensors.

mod bounded;
mod build;
pub mod clean;
mod error;
pub mod files;
pub mod formats;
mod jinja;
pub mod pack;
mod python_literal;
pub mod python_random;
pub mod random;
pub mod recipe;
mod record;
mod rows;
pub mod source;
pub mod task;
pub mod template;
mod tokenize;
pub mod tokenizer;
mod tokens;
mod xml;

pub use build::{
    BuildOptions, BuildReport, Built, BuiltSamples, CARD_FILE, Counter, DROPPED_FILE, Missing,
    PICTURE_FILE, PlannedSource, SampleTokens, Samples, ShortGroup, SourceReport, TRAIN_FILE,
    Totals, VALIDATION_FILE, build, inputs, load_built, planned_sources,
};
pub use error::{Error, Place, Result};
pub use pack::{WINDOW, pack, pack_documents, pack_sharing_prefixes};
pub use python_random::PythonRandom;
pub use random::shuffled;
pub use recipe::OnTooLong;
pub use record::{Conversation, Document, Message, Provenance, Record, Role, Sample, Site};
pub use source::read_source;
pub use task::{RecordTemplate, Task};
pub use template::{ChatTemplate, Piece, Template};
pub use tokenize::{
    CHUNK, SampleWriter, TokenizedSet, TooLong, Written, tokenize, tokenize_documents,
};
pub use tokenizer::{GgufVocab, GgufVocabOut, Tokenizer};
pub use tokens::{Batch, Pack, Segment, Tokenized};
