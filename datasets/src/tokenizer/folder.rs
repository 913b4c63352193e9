//! Hugging Face folders.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::sentencepiece::{self, Pieces, PrefixSpace, Problem};
use super::{SpecialTokens, Tokenizer, word_piece};
use crate::{Error, Result};

pub(super) fn read(folder: &Path) -> Result<Tokenizer> {
    let mut config = read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    // Older folders keep the special tokens in a file of their own.
    for (name, token) in read_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default() {
        config.entry(name).or_insert(token);
    }
    let chat_template = chat_template(folder, &mut config)?;
    let (file, json, pieces) = vocabulary(folder, &config)?;
    let origin = file.display().to_string();
    let mut tokenizer = Tokenizer::new(
        &json,
        origin,
        SpecialTokens::default(),
        config,
        chat_template,
    )?;
    tokenizer.special = special_tokens(folder, &tokenizer, pieces.as_ref())?;
    Ok(tokenizer)
}

type Vocabulary = (std::path::PathBuf, Vec<u8>, Option<Pieces>);

/// `tokenizer.json`'s bytes, read or made of `tokenizer.model`.
fn vocabulary(folder: &Path, config: &Map<String, Value>) -> Result<Vocabulary> {
    let file = folder.join("tokenizer.json");
    if let Some(bytes) = read_file(&file)? {
        return Ok((file, bytes, None));
    }
    let file = folder.join("tokenizer.model");
    let Some(bytes) = read_file(&file)? else {
        return word_pieces(folder, config);
    };
    let bad = |problem| {
        let origin = file.display().to_string();
        match problem {
            Problem::Damaged(message) => Error::Tokenizer {
                origin,
                message: message.into(),
            },
            Problem::Unsupported(message) => Error::UnsupportedVocabulary { origin, message },
        }
    };
    let pieces = sentencepiece::read(&bytes).map_err(bad)?;
    let json = sentencepiece_json(&pieces, config);
    Ok((file, json.to_string().into_bytes(), Some(pieces)))
}

/// The vocabulary of a BERT that has no other file.
fn word_pieces(folder: &Path, config: &Map<String, Value>) -> Result<Vocabulary> {
    let file = folder.join("vocab.txt");
    let Some(bytes) = read_file(&file)? else {
        return Err(Error::NoTokenizer {
            folder: folder.to_path_buf(),
        });
    };
    let bad = |message: String| Error::Tokenizer {
        origin: file.display().to_string(),
        message,
    };
    let text = String::from_utf8(bytes).map_err(|_| bad("it is not valid UTF-8".into()))?;
    let json = word_piece::tokenizer_json(&text, config).map_err(bad)?;
    Ok((file, json.to_string().into_bytes(), None))
}

/// What `tokenizer_config.json` says about a SentencePiece vocabulary; without
/// it, what LLaMA-2's says.
fn sentencepiece_json(pieces: &Pieces, config: &Map<String, Value>) -> Value {
    let flag =
        |name: &str, default: bool| config.get(name).and_then(Value::as_bool).unwrap_or(default);
    let prefix = match flag("add_prefix_space", pieces.add_dummy_prefix) {
        false => PrefixSpace::Never,
        true if flag("legacy", true) => PrefixSpace::EveryRun,
        true => PrefixSpace::First,
    };
    let around = (
        pieces.bos.filter(|_| flag("add_bos_token", true)),
        pieces.eos.filter(|_| flag("add_eos_token", false)),
    );
    // Tokens added later, such as a padding token, are only in the configuration.
    let added = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    let added = added.into_iter().flatten().filter_map(|(id, token)| {
        let mut token = token.as_object()?.clone();
        token.shift_insert(0, "id".into(), json!(id.parse::<u32>().ok()?));
        token.remove("__type");
        Some(Value::Object(token))
    });
    pieces.tokenizer_json(prefix, around, added.collect())
}

/// A template file wins over the configuration, as in transformers. Where the
/// configuration has several, the one called `default` is meant.
fn chat_template(folder: &Path, config: &mut Map<String, Value>) -> Result<Option<String>> {
    let configured = config.remove("chat_template");
    let file = folder.join("chat_template.jinja");
    if let Some(bytes) = read_file(&file)? {
        let message = "it is not valid UTF-8".to_string();
        let template = String::from_utf8(bytes);
        return Ok(Some(template.map_err(|_| Error::Tokenizer {
            origin: file.display().to_string(),
            message,
        })?));
    }
    Ok(match configured {
        Some(Value::String(template)) => Some(template),
        Some(Value::Array(templates)) => templates
            .iter()
            .find(|named| named["name"] == "default")
            .and_then(|named| named["template"].as_str())
            .map(String::from),
        _ => None,
    })
}

/// The named tokens of the configuration, and what ends generation:
/// `generation_config.json`'s word, else `config.json`'s, else the eos token.
fn special_tokens(
    folder: &Path,
    tokenizer: &Tokenizer,
    pieces: Option<&Pieces>,
) -> Result<SpecialTokens> {
    let named = |name: &str| {
        let token = tokenizer.config.get(name)?;
        // A name, or an object that describes the token.
        tokenizer.token_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let mut ends = BTreeSet::new();
    let mut bos = named("bos_token").or(pieces.and_then(|pieces| pieces.bos));
    for file in ["generation_config.json", "config.json"] {
        let config = read_object(&folder.join(file))?.unwrap_or_default();
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        if ends.is_empty() {
            match config.get("eos_token_id") {
                Some(Value::Array(ids)) => ends.extend(ids.iter().filter_map(id)),
                Some(one) => ends.extend(id(one)),
                None => {}
            }
        }
        bos = bos.or_else(|| config.get("bos_token_id").and_then(id));
    }
    let eos = named("eos_token")
        .or(pieces.and_then(|pieces| pieces.eos))
        .or(ends.first().copied());
    ends.extend(eos);
    Ok(SpecialTokens {
        bos,
        eos,
        unk: named("unk_token").or(pieces.map(|pieces| pieces.unk)),
        pad: named("pad_token").or(pieces.and_then(|pieces| pieces.pad)),
        ends,
    })
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::read(path)(error)),
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = read_file(path)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(object) => Ok(Some(object)),
        Err(error) => Err(Error::Tokenizer {
            origin: path.display().to_string(),
            message: error.to_string(),
        }),
    }
}
