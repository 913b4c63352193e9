//! What to do about each error.

use super::{Error, is_name, shown_name};

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Read { .. } => "check the path; a source's path is relative to --data-root".into(),
            Error::EmptyFolder { .. } => "name the file itself, or put the files there".into(),
            Error::Json { .. } => {
                "each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record".into()
            }
            Error::NotASample { .. } => "build the data again".into(),
            Error::UnsupportedVocabulary { .. } => {
                "use the model's tokenizer.json, if its publisher has one".into()
            }
            Error::NotAnObject { .. } => "a record is written as {\"field\": ...}".into(),
            Error::WrongShape { .. } => "check the source's format".into(),
            Error::NotUtf8 { .. } => "convert the file to UTF-8, for example with iconv -f latin1 -t utf-8".into(),
            Error::RecordTooLarge { .. } => {
                "is this a JSON file written without line ends, or another kind of file? Split long documents".into()
            }
            Error::Compressed { .. } => {
                "it was cut or changed on its way: get it again, and compare its size with the publisher's".into()
            }
            Error::Unreadable { .. } => {
                "is it whole, and of the kind that the source's format says? Compare its size with the publisher's".into()
            }
            Error::NoColumn { column, found, .. } => column_hint(column, found),
            Error::ColumnTwice { .. } => "give every column a name of its own".into(),
            Error::CellCount { .. } => {
                "is the row cut short, or a quotation mark missing? on_bad_record = \"drop\" leaves such rows out and lists them".into()
            }
            Error::OpenQuote { .. } => {
                "is the file cut short? A quotation mark inside a quoted cell is written twice".into()
            }
            Error::NoSheet { sheets, .. } => format!("the sheets are {}", sheets.join(", ")),
            Error::Value { .. } | Error::NoGoldLabel { .. } => {
                "on_bad_record = \"drop\" leaves such records out and lists them".into()
            }
            Error::FirstOption { .. } => {
                "set first_option = 0 for Hugging Face's copy, or 1 for the authors' own JSON".into()
            }
            Error::Field { available, .. } => match available.len() {
                0 => "the record has no fields".into(),
                _ => format!("the record has {}", available.join(", ")),
            },
            Error::Xml { .. } => "check the source's format; a file cut short ends in the middle of an element".into(),
            Error::BadRecord { .. } | Error::MarkedAsError { .. } => {
                "set on_bad_record = \"drop\" to leave such records out; they are counted and listed".into()
            }
            Error::FieldCount { .. } => {
                "is it the table that the format reads, whole? on_bad_record = \"drop\" leaves such rows out".into()
            }
            Error::MissingColumn { available, .. } => {
                format!("the columns are {}; check the source's format", available.join(", "))
            }
            Error::Csv { .. } => "compare the file's size with the publisher's".into(),
            Error::Tables { needed, optional, .. } => tables_hint(needed, optional),
            Error::Role { known, .. } => format!("the roles are {}", known.join(", ")),
            Error::NoAnswer { .. } => "an assistant message is what tuning teaches; leave the record out".into(),
            Error::EmptyAnswer { .. } => "leave the record out, or give it an answer".into(),
            Error::NoTarget { .. } => "a document needs at least one token".into(),
            Error::TooLong { .. } => {
                "raise max_seq_len, or set on_too_long = \"drop\" or \"truncate_prompt\"".into()
            }
            Error::AnswerTooLong { .. } => "raise max_seq_len, or set on_too_long = \"drop\"".into(),
            Error::SourceName { .. } => "a source's name starts its samples' ids; give each its own".into(),
            Error::NoRecords { .. } => "check the path, the split and the limit".into(),
            Error::NoSamples { .. } => "add sources, raise their limits, or lower validation_fraction".into(),
            Error::Split { known, .. } => match known.len() {
                0 => "leave split out: this format has no official splits".into(),
                _ => format!("the splits are {}", known.join(", ")),
            },
            Error::Fold { .. } => "leave fold out for the usual one, 0".into(),
            Error::NeedsTask { .. } => {
                "add [data.source.task] with prompt = \"{{ question }}\" and answer = \"{{ answer }}\", naming the records' fields".into()
            }
            Error::MixedSamples { .. } => "tune on conversations and pre-train on documents in separate stages".into(),
            Error::TwoValidations { .. } => "keep one of them".into(),
            Error::Fraction { .. } => "0.05 holds out one sample in twenty".into(),
            Error::SampleShare { .. } => "0.02 builds 2 % of each quota, 1 the whole set".into(),
            Error::Template { available, .. } => match available.len() {
                0 => return None,
                _ => format!("the record's fields are {}", available.join(", ")),
            },
            Error::NoChatTemplate { .. } => {
                "set data.template (for an evaluation eval.template) = \"me-llama\", or put a chat_template.jinja beside the tokenizer".into()
            }
            Error::NoEos { .. } => "name it in tokenizer_config.json: \"eos_token\": \"</s>\"".into(),
            Error::MissingSources { .. } => {
                "put the files under --data-root, or build the rest with --allow-missing".into()
            }
            Error::Checksum { .. } => "download it again; if its publisher has changed it, change sha256 in the recipe".into(),
            Error::SourceChanged { .. } => "let nothing write to it and build again".into(),
            Error::Phi { .. } => {
                "look at those records; then set phi = \"redact\" for the source, or phi = \"allow\" if you may use them as they are".into()
            }
            Error::Several(errors) => return errors.iter().find_map(Error::hint),
            Error::SplitLeak { .. } => "leave them out of one side with `where`, or use validation_fraction, which keeps split groups together".into(),
            Error::TaskTemplates => "prompt and answer make a conversation to tune on, document a text to pre-train on".into(),
            Error::Group { .. } => "quota counts samples, token_share is in proportion to the other groups' tokens".into(),
            Error::UnknownGroup { known, .. } => match known.len() {
                0 => "add [[data.group]] with its name and quota".into(),
                _ => format!("the groups are {}", known.join(", ")),
            },
            Error::Similarity { .. } => "0.8 is usual; 0 turns it off".into(),
            Error::NeedsTokenizer => "name a model with model.path, whose tokenizer counts".into(),
            Error::Write { .. } => "is there room on the disk, and may you write there?".into(),
            Error::NotPrefix { .. } => {
                "this template rewrites earlier turns (some drop earlier answers' reasoning): tune on conversations with one answer, or use another template".into()
            }
            Error::NoEndOfTurn { .. } => {
                "without one the model never learns to stop: end the message with {{ eos_token }} in the template".into()
            }
            Error::Sample { source, .. } => return source.hint(),
            Error::NoTokenizer { .. } => "copy the tokenizer's files from the model's publisher into the folder".into(),
            Error::Tokenizer { .. } => "is the file whole? Compare its size with the publisher's".into(),
            Error::PreTokenizer { known, .. } => {
                format!("supported are {}; or use the model's Hugging Face folder", known.join(", "))
            }
            Error::VocabularyModel { .. } => {
                "supported are gpt2 and llama; or use the model's Hugging Face folder".into()
            }
            Error::NotForGguf { .. } => {
                "use the model's Hugging Face folder with a program that reads it".into()
            }
            Error::UnnamedSplit { .. } => {
                "if llama.cpp has a name for it, give it with --pre; see `get_vocab_base_pre` in its convert_hf_to_gguf.py".into()
            }
            Error::GgufIdsDiffer { .. } => {
                "leave --pre out, or name the way that the vocabulary was made with".into()
            }
            Error::Encode { .. } => return None,
            Error::Ledger(error) => return error.hint(),
        })
    }
}

fn column_hint(column: &str, found: &[String]) -> String {
    // A table without a header has a record's text in its first row.
    let plain: Vec<&str> = found
        .iter()
        .filter(|name| is_name(name))
        .map(String::as_str)
        .collect();
    let shown: Vec<String> = found.iter().take(20).map(|name| shown_name(name)).collect();
    let more = found.len().saturating_sub(20);
    let columns = match (shown.len(), more) {
        (0, _) => "there are no columns".to_string(),
        (_, 0) => format!("the columns are {}", shown.join(", ")),
        _ => format!("the columns are {} and {more} more", shown.join(", ")),
    };
    match ledger::recipe::nearest(column, &plain) {
        Some(near) => format!("did you mean {near:?}? {columns}"),
        None if plain.len() < found.len() => {
            format!("{columns}; if the table has no header, name its columns with columns = [..]")
        }
        None => columns,
    }
}

fn tables_hint(needed: &[(&str, &str)], optional: &[(&str, &str)]) -> String {
    let list = |tables: &[(&str, &str)]| {
        let each = tables
            .iter()
            .map(|(name, what)| format!("{name} = \"...\" ({what})"));
        each.collect::<Vec<_>>().join(", ")
    };
    match (needed.len(), optional.len()) {
        (0, 0) => "this format joins no tables: leave tables out".into(),
        (0, _) => format!("under tables it can have {}", list(optional)),
        (_, 0) => format!("under tables it needs {}", list(needed)),
        _ => format!(
            "under tables it needs {}, and can have {}",
            list(needed),
            list(optional)
        ),
    }
}
