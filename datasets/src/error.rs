mod hint;

use std::path::PathBuf;

use crate::build::Missing;
use crate::record::Site;

/// What went wrong, where, and with which value. Messages carry ids, files,
/// lines and positions, never a record's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder named as a source has no file in it.
    #[error("source {source_name}: the folder {path} has no files")]
    EmptyFolder {
        /// The source.
        source_name: String,
        /// The folder, as the recipe writes it.
        path: String,
    },
    /// A record is not well-formed JSON.
    #[error("{at}: not valid JSON: {message}")]
    Json {
        /// Where.
        at: Place,
        /// What the parser says; never quotes the text.
        message: String,
    },
    /// A line of a built folder that no build wrote.
    #[error("{at}: not a sample that a build wrote")]
    NotASample {
        /// Where.
        at: Place,
    },
    /// A record is JSON, but not an object.
    #[error("{at}: expected a record (a JSON object), found {found}")]
    NotAnObject {
        /// Where.
        at: Place,
        /// The kind of value found.
        found: &'static str,
    },
    /// A file is neither an array nor lines of JSON objects.
    #[error("{at}: expected {wanted}, found {found}")]
    WrongShape {
        /// Where.
        at: Place,
        /// The shape that the format needs.
        wanted: &'static str,
        /// What the file starts with.
        found: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{at}: not valid UTF-8 (byte {byte} of the record)")]
    NotUtf8 {
        /// Where.
        at: Place,
        /// The first bad byte of the line or file, 0-based.
        byte: usize,
    },
    /// One record is larger than any honest one; nothing that large is read
    /// into memory.
    #[error("{at}: a record larger than {} MiB", limit_bytes >> 20)]
    RecordTooLarge {
        /// Where the record begins.
        at: Place,
        /// The limit.
        limit_bytes: usize,
    },
    /// A compressed file that does not unpack.
    #[error("{at}: the compressed file {problem}")]
    Compressed {
        /// Where its text stops.
        at: Place,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file of a kind that is read as a whole, and cannot be.
    #[error("{file}: this {kind} cannot be read: {problem}")]
    Unreadable {
        /// The file, as the recipe writes it.
        file: String,
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A column that the format needs is not there.
    #[error("{at}: there is no column {column:?}")]
    NoColumn {
        /// The row that names the columns.
        at: Place,
        /// The column.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// Two columns have one name.
    #[error("{at}: two columns are named {}", shown_name(column))]
    ColumnTwice {
        /// The row that names the columns.
        at: Place,
        /// The name.
        column: String,
    },
    /// A row has more or fewer cells than there are columns.
    #[error("{at}: {cells} cells in a row of {columns} columns")]
    CellCount {
        /// Where the row begins.
        at: Place,
        /// Its cells.
        cells: usize,
        /// The columns.
        columns: usize,
    },
    /// A cell in quotation marks that goes on to the end of the file.
    #[error("{at}: the quotation mark that opens cell {cell} is never closed")]
    OpenQuote {
        /// Where the row begins.
        at: Place,
        /// The cell, 1-based.
        cell: usize,
    },
    /// A workbook has no such sheet.
    #[error("{file}: there is no sheet {sheet:?}")]
    NoSheet {
        /// The workbook.
        file: String,
        /// The sheet asked for.
        sheet: String,
        /// The sheets there are.
        sheets: Vec<String>,
    },
    /// A field's value is none that the format knows.
    #[error("{at}: field {field:?} should be {wanted}, found {found}")]
    Value {
        /// The record.
        at: Box<Site>,
        /// The field.
        field: String,
        /// What it should be.
        wanted: String,
        /// The value where it is a number or a word of the format; otherwise
        /// what can be said without showing it.
        found: String,
    },
    /// Annotators did not agree on a record's label.
    #[error("{at}: no gold label")]
    NoGoldLabel {
        /// The record.
        at: Box<Site>,
    },
    /// Which number stands for the first option is not said.
    #[error("source {source_name}: {}", match given { None => "the records' `cop` counts the options from 0 or from 1, and first_option does not say which".to_string(), Some(given) => format!("first_option = {given} is neither 0 nor 1") })]
    FirstOption {
        /// The source.
        source_name: String,
        /// What the recipe says.
        given: Option<u8>,
    },
    /// A field is missing or of another kind.
    #[error("{at}: field {field:?} should be {wanted}, {}", match found { Some(found) => format!("found {found}"), None => "but is missing".to_string() })]
    Field {
        /// The record.
        at: Box<Site>,
        /// The field.
        field: String,
        /// What it should be.
        wanted: &'static str,
        /// The kind of value found, if any.
        found: Option<&'static str>,
        /// The fields that the record does have.
        available: Vec<String>,
    },
    /// A file is not XML, or XML that no honest document is.
    #[error("{at}: not readable XML: {message}")]
    Xml {
        /// Where; the record is the last one begun.
        at: Place,
        /// What is wrong; never quotes the text.
        message: String,
    },
    /// A record's parts do not fit together: a span beyond its text, a pair
    /// without a label.
    #[error("{at}: {id}: {problem}")]
    BadRecord {
        /// Where.
        at: Place,
        /// The record's own id, or the column.
        id: String,
        /// What does not fit; never quotes the text.
        problem: String,
    },
    /// A note that its publisher marks as an error.
    #[error("{at}: note {id} is marked as an error (ISERROR = 1)")]
    MarkedAsError {
        /// Where.
        at: Place,
        /// The note's ROW_ID.
        id: String,
    },
    /// A row has another number of fields than its table.
    #[error("{at}: {found} fields instead of {wanted}")]
    FieldCount {
        /// Where.
        at: Place,
        /// Fields of the table.
        wanted: usize,
        /// Fields of the row.
        found: usize,
    },
    /// A table lacks a column that its format has.
    #[error("{at}: there is no column {column:?}")]
    MissingColumn {
        /// Where the header is.
        at: Place,
        /// The column.
        column: &'static str,
        /// The columns there are.
        available: Vec<String>,
    },
    /// A file is not CSV.
    #[error("{at}: {message}")]
    Csv {
        /// Where the record begins.
        at: Place,
        /// What is wrong; never quotes the text.
        message: &'static str,
    },
    /// A source does not name a table that its format needs, or names one that
    /// it does not know.
    #[error("source {source_name}: format {format:?} {} {table:?}", if *missing { "needs the table" } else { "has no table" })]
    Tables {
        /// The source.
        source_name: Box<str>,
        /// Its format.
        format: &'static str,
        /// The table.
        table: Box<str>,
        /// Whether it is missing, and not too many.
        missing: bool,
        /// The tables that the format needs, and what they are.
        needed: &'static [(&'static str, &'static str)],
        /// Those that it can do without.
        optional: &'static [(&'static str, &'static str)],
    },
    /// A message's role is none that can be tuned on.
    #[error("{at}: message {message} has the role {role}")]
    Role {
        /// The record.
        at: Box<Site>,
        /// The message, 1-based.
        message: usize,
        /// The role, quoted, or its length where it is no plain word.
        role: String,
        /// The roles that are understood.
        known: &'static [&'static str],
    },
    /// A conversation has nothing for the model to learn to say.
    #[error("{at}: no assistant message")]
    NoAnswer {
        /// The sample.
        at: Site,
    },
    /// An answer has no text.
    #[error("{at}: the answer (message {message}) is empty")]
    EmptyAnswer {
        /// The sample.
        at: Site,
        /// The message, 1-based.
        message: usize,
    },
    /// A text has no token to learn from.
    #[error("{at}: no target token")]
    NoTarget {
        /// The sample.
        at: Site,
    },
    /// A sample does not fit.
    #[error("{at}: {tokens} tokens, more than max_seq_len = {max_seq_len}")]
    TooLong {
        /// The sample.
        at: Site,
        /// Its length.
        tokens: usize,
        /// The limit.
        max_seq_len: usize,
    },
    /// A sample does not fit even with nothing left of its prompt.
    #[error(
        "{at}: {tokens} tokens with an empty prompt, more than max_seq_len = {max_seq_len}: the answer itself is too long"
    )]
    AnswerTooLong {
        /// The sample.
        at: Site,
        /// Its length without the prompt's text.
        tokens: usize,
        /// The limit.
        max_seq_len: usize,
    },
    /// Two sources have one name, so their samples' ids would clash.
    #[error("two sources are named {name:?}")]
    SourceName {
        /// The name.
        name: String,
    },
    /// A source has no records.
    #[error("source {source_name}: no records in {path}")]
    NoRecords {
        /// The source.
        source_name: String,
        /// The file, as the recipe writes it.
        path: String,
    },
    /// No samples at all are left to train on.
    #[error("no training samples: {read} records read, {held_out} held out for validation")]
    NoSamples {
        /// Records read.
        read: usize,
        /// Samples held out.
        held_out: usize,
    },
    /// A format has no official split of that name.
    #[error("source {source_name}: format {format:?} has no split {split:?}")]
    Split {
        /// The source.
        source_name: String,
        /// Its format.
        format: &'static str,
        /// The split asked for.
        split: String,
        /// The splits there are.
        known: &'static [&'static str],
    },
    /// A fold beyond the last.
    #[error("source {source_name}: there is no fold {fold} (there are {folds}, counted from 0)")]
    Fold {
        /// The source.
        source_name: String,
        /// The fold asked for.
        fold: usize,
        /// How many there are.
        folds: usize,
    },
    /// Records have no question and answer of their own, and no task makes them.
    #[error(
        "source {source_name}: records of format {format:?} need a [source.task] to become conversations"
    )]
    NeedsTask {
        /// The source.
        source_name: String,
        /// Its format.
        format: &'static str,
    },
    /// Conversations and plain documents in one set.
    #[error("source {source_name} gives documents, but {other} gives conversations")]
    MixedSamples {
        /// The source of documents.
        source_name: String,
        /// A source of conversations.
        other: String,
    },
    /// Both ways of choosing validation samples.
    #[error("validation_fraction = {fraction} and [[data.validation]] are both given")]
    TwoValidations {
        /// The fraction.
        fraction: f64,
    },
    /// A share that is none.
    #[error("validation_fraction = {fraction} is not between 0 and 1")]
    Fraction {
        /// The value.
        fraction: f64,
    },
    /// A share of the set that is none of it, or more than all.
    #[error("sample = {share} is not above 0 and up to 1")]
    SampleShare {
        /// The value.
        share: f64,
    },
    /// A template does not compile or does not render.
    #[error("template {name}{}: {message}", match line { Some(line) => format!(", line {line}"), None => String::new() })]
    Template {
        /// Which one: `chat_template`, or the key in the recipe.
        name: String,
        /// The line in the template.
        line: Option<usize>,
        /// What went wrong; never quotes a record.
        message: String,
        /// The fields it could use, of a template over a record.
        available: Vec<String>,
    },
    /// The model has no chat template.
    #[error("the tokenizer {tokenizer} has no chat template")]
    NoChatTemplate {
        /// Where the tokenizer came from.
        tokenizer: String,
    },
    /// The tokenizer names no token that ends a text.
    #[error("the tokenizer {tokenizer} has no eos_token")]
    NoEos {
        /// Where the tokenizer came from.
        tokenizer: String,
    },
    /// A chat template changes what it has already written, so where an answer
    /// begins and ends is not known by construction.
    #[error("the chat template writes {} differently {when}: only {agree} of {length} characters agree", first_messages(*before))]
    NotPrefix {
        /// How many messages the shorter rendering has.
        before: usize,
        /// What the longer one adds.
        when: &'static str,
        /// Number of characters that agree.
        agree: usize,
        /// Number of characters of the shorter rendering.
        length: usize,
    },
    /// A template does not end an assistant's message with a special token.
    #[error("the chat template ends the assistant's message {message} with no special token")]
    NoEndOfTurn {
        /// The message, 1-based.
        message: usize,
    },
    /// An error that concerns one sample.
    #[error("{at}: {source}")]
    Sample {
        /// The sample.
        at: Site,
        /// What went wrong with it.
        source: Box<Error>,
    },
    /// A folder has no tokenizer.
    #[error("{} has neither tokenizer.json nor tokenizer.model", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A tokenizer file that cannot be used.
    #[error("{origin}: {message}")]
    Tokenizer {
        /// The file, or the GGUF metadata.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// A SentencePiece vocabulary that does what is not supported; ignoring it
    /// would change ids.
    #[error("{origin}: {message}, which is not supported")]
    UnsupportedVocabulary {
        /// The file.
        origin: String,
        /// What it does.
        message: &'static str,
    },
    /// A GGUF vocabulary whose text splitting is not known; guessing would
    /// change ids.
    #[error("tokenizer.ggml.pre = {pre:?} is not supported")]
    PreTokenizer {
        /// The kind.
        pre: String,
        /// The kinds that are.
        known: Vec<&'static str>,
    },
    /// A GGUF vocabulary of a kind that is not supported.
    #[error("tokenizer.ggml.model = {model:?} is not supported")]
    VocabularyModel {
        /// The kind.
        model: String,
    },
    /// A vocabulary that a GGUF file cannot hold.
    #[error("{origin}: this vocabulary cannot be written as GGUF: {problem}")]
    NotForGguf {
        /// The vocabulary's file.
        origin: String,
        /// Why not.
        problem: String,
    },
    /// A way of cutting text into words that has no known name in GGUF.
    #[error(
        "{origin}: the way this vocabulary cuts text into words has no known tokenizer.ggml.pre"
    )]
    UnnamedSplit {
        /// The vocabulary's file.
        origin: String,
    },
    /// A vocabulary that gives other ids once it is written.
    #[error("{origin}: with tokenizer.ggml.pre = {pre:?} the same text gets other ids")]
    GgufIdsDiffer {
        /// The vocabulary's file.
        origin: String,
        /// The way of cutting text into words.
        pre: String,
    },
    /// A text could not be encoded or decoded.
    #[error("cannot {action}: {message}")]
    Encode {
        /// `encode` or `decode`.
        action: &'static str,
        /// What the tokenizer says.
        message: String,
    },
    /// Files of sources are not there.
    #[error("sources that are missing: {}\n  {}", missing.len(), missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    MissingSources {
        /// Every one of them.
        missing: Vec<Missing>,
    },
    /// A file is not the one that the recipe was written for.
    #[error("source {source_name}: {path} has SHA-256 {found}, not {expected}")]
    Checksum {
        /// The source.
        source_name: String,
        /// Its file.
        path: String,
        /// The recipe's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// A source's files were other ones when they were read again.
    #[error("source {source_name} changed while it was read")]
    SourceChanged {
        /// The source.
        source_name: String,
    },
    /// Text that may identify patients, where the recipe forbids it.
    #[error("source {source_name}: records that hold what may identify a patient: {records} ({}), such as {}", classes.join(", "), first.join(", "))]
    Phi {
        /// The source.
        source_name: String,
        /// How many of its records.
        records: u64,
        /// Classes with how many of each.
        classes: Vec<String>,
        /// The first records' ids.
        first: Vec<String>,
    },
    /// Several of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Error>),
    /// A patient or document is on both sides.
    #[error(
        "patients or documents in both training (source {source_name}) and validation (source {other}): {groups}"
    )]
    SplitLeak {
        /// How many.
        groups: usize,
        /// A source that trains on one.
        source_name: String,
        /// A source that validates on it.
        other: String,
    },
    /// A task that is neither a question with an answer nor a document.
    #[error("a task needs `prompt` and `answer`, or `document` alone")]
    TaskTemplates,
    /// A group that says neither or both.
    #[error("group {name:?} needs either a quota or a token_share")]
    Group {
        /// Its name.
        name: String,
    },
    /// A source names a group that is not there.
    #[error("source {source_name} is in group {group:?}, which is not there")]
    UnknownGroup {
        /// The source.
        source_name: String,
        /// What it names.
        group: String,
        /// The groups.
        known: Vec<String>,
    },
    /// A similarity that is none.
    #[error("clean.near_duplicates = {near} is neither 0 nor between 0.3 and 1")]
    Similarity {
        /// The recipe's.
        near: f64,
    },
    /// Tokens are to be counted, and no tokenizer says how.
    #[error("token_share mixes by tokens, and the recipe has no tokenizer")]
    NeedsTokenizer,
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be hashed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Write { path, source }
    }

    /// A bad record in a list: its place where the error knows it, else its
    /// source. Never what it holds.
    pub(crate) fn place_in(&self, source: &str) -> String {
        match self {
            Error::Json { at, .. }
            | Error::NotAnObject { at, .. }
            | Error::NotUtf8 { at, .. }
            | Error::RecordTooLarge { at, .. } => format!("{source} at {at}"),
            Error::Field { at, .. } => format!("{source} at {}, record {}", at.file, at.record),
            _ => source.to_owned(),
        }
    }

    pub(crate) fn at(self, at: Site) -> Self {
        Error::Sample {
            at,
            source: Box::new(self),
        }
    }
}

/// Whether a text is what a column would be named, rather than a record's text.
fn is_name(text: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || " _-/()".contains(c);
    text.len() <= 32 && text.split_whitespace().count() <= 3 && text.chars().all(name)
}

fn shown_name(name: &str) -> String {
    if is_name(name) {
        name.to_string()
    } else {
        format!("(a text of {} bytes)", name.len())
    }
}

fn first_messages(count: usize) -> String {
    match count {
        0 => "the beginning".into(),
        1 => "message 1".into(),
        last => format!("messages 1 to {last}"),
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the recipe writes it.
    pub file: String,
    /// The line, 1-based.
    pub line: u64,
    /// The record, 1-based, where it is not the line.
    pub record: Option<u64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.record {
            Some(record) => write!(f, " (record {record})"),
            None => Ok(()),
        }
    }
}
