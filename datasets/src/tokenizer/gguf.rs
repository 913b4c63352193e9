//! Vocabularies from GGUF metadata (`tokenizer.ggml.*`, as llama.cpp writes and
//! reads them).

use serde_json::{Map, Value, json};

use super::sentencepiece::{
    CONTROL, NORMAL, Pieces, PrefixSpace, UNKNOWN, USER_DEFINED, added_token, around_text,
};
use super::splitter::{LLAMA3, QWEN2};
use super::{SpecialTokens, Tokenizer};
use crate::{Error, Result};

/// The metadata of a GGUF file that makes its tokenizer: the values of
/// `tokenizer.ggml.<field>` and of `tokenizer.chat_template`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `pre`: how a byte-level vocabulary cuts text into words.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id; empty means all normal.
    pub token_types: Vec<i32>,
    /// `scores`, by id, of a SentencePiece vocabulary.
    pub scores: Vec<f32>,
    /// `merges`, of a byte-level vocabulary: two tokens with a space between.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: the token that ends a turn, where it is not `eos`.
    pub eot: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`, of a SentencePiece vocabulary.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// How byte-level vocabularies cut text into words before merging, by the
/// `tokenizer.ggml.pre` names of llama.cpp. A wrong one gives other ids in
/// silence, so names that are not here are refused.
pub const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["smollm"],
        split: Split::DigitsThenGpt2,
        nfc: false,
        whole_words: false,
    },
    PreTokenizer {
        names: &["gpt-2", "gpt2"],
        split: Split::Gpt2,
        nfc: false,
        whole_words: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::Patterns(&[LLAMA3]),
        nfc: false,
        whole_words: true,
    },
    PreTokenizer {
        names: &["qwen2"],
        split: Split::Patterns(&[QWEN2]),
        nfc: true,
        whole_words: false,
    },
    // What llama.cpp does where a file names nothing: one pattern after another.
    PreTokenizer {
        names: &["default"],
        split: Split::Patterns(&[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ]),
        nfc: false,
        whole_words: false,
    },
];

/// One way to cut text into words.
#[derive(Debug)]
pub struct PreTokenizer {
    /// Its names in `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    split: Split,
    /// Whether text is composed first (Unicode NFC).
    nfc: bool,
    /// Whether a word that is a token is taken whole, without merging.
    whole_words: bool,
}

#[derive(Debug)]
enum Split {
    /// GPT-2's pattern, which the `tokenizers` crate has built in.
    Gpt2,
    /// Each digit alone, then GPT-2's.
    DigitsThenGpt2,
    /// Each pattern's matches apart, one pattern after another.
    Patterns(&'static [&'static str]),
}

pub(super) fn tokenizer(vocab: &GgufVocab) -> Result<Tokenizer> {
    check(vocab)?;
    let json = match vocab.model.as_str() {
        "gpt2" => byte_level(vocab)?,
        "llama" => sentencepiece(vocab)?,
        other => {
            return Err(Error::VocabularyModel {
                model: other.to_string(),
            });
        }
    };
    let special = SpecialTokens {
        bos: vocab.bos,
        eos: vocab.eos,
        unk: vocab.unk,
        pad: vocab.pad,
        ends: [vocab.eos, vocab.eot].into_iter().flatten().collect(),
    };
    let config = Map::from_iter([("clean_up_tokenization_spaces".to_string(), json!(false))]);
    Tokenizer::new(
        json.to_string().as_bytes(),
        ORIGIN.into(),
        special,
        config,
        vocab.chat_template.clone(),
    )
}

const ORIGIN: &str = "GGUF metadata tokenizer.ggml";

fn bad(message: String) -> Error {
    Error::Tokenizer {
        origin: ORIGIN.into(),
        message,
    }
}

/// Lists that fit together, and ids that are there.
fn check(vocab: &GgufVocab) -> Result<()> {
    let tokens = vocab.tokens.len();
    if tokens == 0 {
        return Err(bad("tokens is empty".into()));
    }
    for (name, length) in [
        ("token_type", vocab.token_types.len()),
        ("scores", vocab.scores.len()),
    ] {
        if length != 0 && length != tokens {
            return Err(bad(format!(
                "{name} has {length} entries, tokens has {tokens}"
            )));
        }
    }
    let ids = [
        ("bos_token_id", vocab.bos),
        ("eos_token_id", vocab.eos),
        ("eot_token_id", vocab.eot),
        ("unknown_token_id", vocab.unk),
        ("padding_token_id", vocab.pad),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| id as usize >= tokens) {
            return Err(bad(format!("{name} = {id}, but there are {tokens} tokens")));
        }
    }
    Ok(())
}

impl GgufVocab {
    fn kind(&self, id: usize) -> u32 {
        self.token_types.get(id).map_or(NORMAL, |&kind| kind as u32)
    }

    fn around(&self, add_bos: bool) -> (Option<u32>, Option<u32>) {
        let bos = self.bos.filter(|_| self.add_bos.unwrap_or(add_bos));
        (bos, self.eos.filter(|_| self.add_eos.unwrap_or(false)))
    }
}

fn byte_level(vocab: &GgufVocab) -> Result<Value> {
    let name = vocab.pre.as_deref().unwrap_or("default");
    let Some(pre) = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)) else {
        let known = PRE_TOKENIZERS
            .iter()
            .flat_map(|pre| pre.names)
            .copied()
            .collect();
        return Err(Error::PreTokenizer {
            pre: name.to_string(),
            known,
        });
    };
    let merges: Vec<(&str, &str)> = vocab
        .merges
        .iter()
        .enumerate()
        .map(|(i, merge)| {
            merge
                .split_once(' ')
                .ok_or_else(|| bad(format!("merge {i} has no space")))
        })
        .collect::<Result<_>>()?;
    let tokens = || vocab.tokens.iter().enumerate();
    let ids: Map<String, Value> = tokens()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let added: Vec<Value> = tokens()
        .filter(|&(id, _)| [UNKNOWN, CONTROL, USER_DEFINED].contains(&vocab.kind(id)))
        .map(|(id, token)| added_token(id as u32, token, vocab.kind(id) != USER_DEFINED))
        .collect();
    // llama.cpp begins a text of Llama 3's vocabulary with BOS unless told otherwise.
    let around = vocab.around(pre.whole_words);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.json(),
        "post_processor": around_text(around, |id| vocab.tokens.get(id as usize).map(String::as_str)),
        "decoder": byte_level_step(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.whole_words, "vocab": ids, "merges": merges,
        },
    }))
}

fn byte_level_step(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

/// What of a `tokenizer.json` decides how a byte-level vocabulary cuts text into words.
pub(super) fn rules(json: &Value) -> (Value, Vec<Value>, bool) {
    let steps = match json["pre_tokenizer"]["pretokenizers"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![json["pre_tokenizer"].clone()],
    };
    let without_offsets = |mut step: Value| {
        // Which characters a token is said to cover.
        step.as_object_mut().map(|step| step.remove("trim_offsets"));
        step
    };
    let steps = steps.into_iter().map(without_offsets).collect();
    let whole_words = json["model"]["ignore_merges"] == true;
    (json["normalizer"].clone(), steps, whole_words)
}

impl PreTokenizer {
    /// As [`rules`] finds them in a `tokenizer.json`.
    pub(super) fn rules(&self) -> (Value, Vec<Value>, bool) {
        rules(&json!({
            "normalizer": self.normalizer(),
            "pre_tokenizer": self.json(),
            "model": {"ignore_merges": self.whole_words},
        }))
    }

    fn normalizer(&self) -> Value {
        if self.nfc {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }

    fn json(&self) -> Value {
        let steps = match self.split {
            Split::Gpt2 => vec![byte_level_step(false, true)],
            Split::DigitsThenGpt2 => {
                vec![
                    json!({"type": "Digits", "individual_digits": true}),
                    byte_level_step(false, true),
                ]
            }
            Split::Patterns(patterns) => {
                let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
                let mut steps: Vec<Value> = patterns.iter().map(split).collect();
                steps.push(byte_level_step(false, false));
                steps
            }
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn sentencepiece(vocab: &GgufVocab) -> Result<Value> {
    if vocab.scores.is_empty() {
        return Err(bad(
            "scores is missing, which a SentencePiece vocabulary needs".into(),
        ));
    }
    let tokens = vocab.tokens.iter().zip(&vocab.scores).enumerate();
    let pieces = Pieces {
        pieces: tokens
            .map(|(id, (text, &score))| (text.clone(), score, vocab.kind(id)))
            .collect(),
        unigram: false,
        byte_fallback: true,
        unk: vocab.unk.unwrap_or(0),
        ..Pieces::default()
    };
    let prefix = match vocab.add_space_prefix {
        Some(false) => PrefixSpace::Never,
        _ => PrefixSpace::EveryRun,
    };
    Ok(pieces.tokenizer_json(prefix, vocab.around(true), Vec::new()))
}
