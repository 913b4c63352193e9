//! A tokenizer as GGUF metadata: the inverse of [`Tokenizer::from_gguf`].
//!
//! Source: `get_vocab_base` and `get_vocab_base_pre` of llama.cpp's `convert_hf_to_gguf.py`, and `LlamaHfVocab` of its
//! `gguf-py/gguf/vocab.py`.

use std::collections::HashMap;

use serde_json::Value;

use super::Tokenizer;
use super::gguf::{GgufVocab, PRE_TOKENIZERS};
use super::sentencepiece::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::{Error, Result};

/// A vocabulary for a GGUF file, and what of its tokenizer that file cannot say.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocabOut {
    /// The metadata's values.
    pub vocab: GgufVocab,
    /// What programs that read the file will do otherwise than this tokenizer.
    pub warnings: Vec<String>,
}

/// What llama.cpp's converter hashes the ids of, to tell one way to cut text into words from another.
const CHECK_TEXT: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫\u{fe0f} (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

/// Hashes of the check text's ids, and the name that llama.cpp gives the way of cutting: the vocabularies of the
/// Llama, Mistral and Qwen families.
const KNOWN_IDS: &[(&str, &str)] = &[
    (
        "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5",
        "llama-bpe",
    ),
    (
        "c136ed14d01c2745d4f60a9596ae66800e2b61fa45643e72436041855ad4089d",
        "smaug-bpe",
    ),
    (
        "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249",
        "smollm",
    ),
    (
        "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea",
        "qwen2",
    ),
    (
        "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c",
        "qwen2",
    ),
    (
        "b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5",
        "deepseek-r1-qwen",
    ),
    (
        "d4c8f286ea6b520b3d495c4455483cfa2302c0cfcd4be05d781b6a8a0a7cdaf1",
        "megrez",
    ),
    (
        "049ecf7629871e3041641907f3de7c733e4dbfdc736f57d882ba0b0845599754",
        "deepseek-llm",
    ),
    (
        "347715f544604f9118bb75ed199f68779f423cabb20db6de6f31b908d04d7821",
        "deepseek-coder",
    ),
    (
        "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e",
        "tekken",
    ),
    (
        "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454",
        "gpt-2",
    ),
    (
        "0fe1cf6eda062318a1af7270f3331a85c539a01778ff948e24388e949c5282f4",
        "gpt-2",
    ),
];

/// Tokens that end a turn of a chat, by which llama.cpp also knows them.
const TURN_ENDS: &[&str] = &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

impl Tokenizer {
    /// The vocabulary as GGUF metadata, for a model whose embedding has `rows` rows: ids without a token are filled up.
    /// `pre` names the way of cutting text into words where it cannot be told; the ids of a text are compared.
    ///
    /// # Errors
    /// A vocabulary that GGUF's two kinds cannot hold, a way of cutting that is not known, or ids that come out
    /// otherwise.
    pub fn to_gguf(&self, rows: usize, pre: Option<&str>) -> Result<GgufVocabOut> {
        let (json, _) = self.files_json()?;
        let source = Source {
            tokenizer: self,
            json: &json,
        };
        let vocab = source.vocab(rows, pre)?;
        let warnings = source.compare(&vocab)?;
        Ok(GgufVocabOut { vocab, warnings })
    }
}

struct Source<'t> {
    tokenizer: &'t Tokenizer,
    /// As `tokenizer.json`.
    json: &'t Value,
}

impl Source<'_> {
    fn bad(&self, problem: impl Into<String>) -> Error {
        Error::NotForGguf {
            origin: self.tokenizer.origin().into(),
            problem: problem.into(),
        }
    }

    fn vocab(&self, rows: usize, pre: Option<&str>) -> Result<GgufVocab> {
        let model = &self.json["model"];
        if model["type"] != "BPE" {
            let kind = model["type"].as_str().unwrap_or("unknown");
            return Err(self.bad(format!("its model is {kind}, and only BPE is written")));
        }
        // SentencePiece writes what it does not know as bytes; the others are bytes to begin with.
        let pieces = model["byte_fallback"] == true;
        if !pieces
            && !self.json["pre_tokenizer"]
                .to_string()
                .contains("\"ByteLevel\"")
        {
            return Err(self.bad("it is neither a byte-level BPE nor one that falls back to bytes"));
        }
        let special = &self.tokenizer.special;
        let (tokens, token_types) = self.tokens(rows, pieces)?;
        let merges = self.merges()?;
        let (add_bos, add_eos) = self.around()?;
        let turn_end = |id: &&u32| {
            let text = tokens.get(**id as usize).map(String::as_str);
            text.is_some_and(|text| TURN_ENDS.contains(&text)) && special.eos != Some(**id)
        };
        let eot = special.ends.iter().find(turn_end).copied();
        Ok(GgufVocab {
            model: if pieces { "llama" } else { "gpt2" }.into(),
            pre: Some(match (pieces, pre) {
                (true, _) => "default".into(),
                (false, Some(given)) => given.to_owned(),
                (false, None) => self.pre()?,
            }),
            scores: match pieces {
                true => scores(&tokens, &merges),
                false => Vec::new(),
            },
            merges: match pieces {
                true => Vec::new(),
                false => merges.into_iter().map(written).collect(),
            },
            tokens,
            token_types,
            bos: special.bos,
            eos: special.eos,
            eot,
            unk: special.unk,
            pad: special.pad,
            add_bos: Some(add_bos),
            add_eos: Some(add_eos),
            add_space_prefix: pieces.then(|| self.puts_a_space_first()),
            chat_template: self.tokenizer.chat_template.clone(),
        })
    }

    /// Texts and types by id.
    fn tokens(&self, rows: usize, pieces: bool) -> Result<(Vec<String>, Vec<i32>)> {
        let mut tokens = vec![None; rows];
        let mut put = |text: &str, id: Option<u64>, kind: u32| {
            let id = id.and_then(|id| usize::try_from(id).ok());
            match id.and_then(|id| tokens.get_mut(id)) {
                Some(token) => {
                    *token = Some((text.to_owned(), kind as i32));
                    Ok(())
                }
                None => Err(self.bad(format!(
                    "it has more tokens than the {rows} rows of the model's embedding"
                ))),
            }
        };
        let model = self.json["model"]["vocab"].as_object();
        for (text, id) in model.into_iter().flatten() {
            let byte = pieces && is_byte(text);
            put(text, id.as_u64(), if byte { BYTE } else { NORMAL })?;
        }
        let unk = self.tokenizer.special.unk.filter(|_| pieces).map(u64::from);
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let (id, text) = (
                token["id"].as_u64(),
                token["content"].as_str().unwrap_or(""),
            );
            let kind = if id.is_some() && id == unk {
                UNKNOWN
            } else if token["special"] == true || looks_special(text) {
                CONTROL
            } else {
                USER_DEFINED
            };
            put(text, id, kind)?;
        }
        let filled = tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED as i32)));
        Ok(filled.unzip())
    }

    /// The two parts of each merge, first to last.
    fn merges(&self) -> Result<Vec<(String, String)>> {
        let merges = self.json["model"]["merges"].as_array();
        let parts = |merge: &Value| match merge {
            Value::String(text) => text
                .split_once(' ')
                .map(|(left, right)| (left.to_owned(), right.to_owned())),
            Value::Array(parts) => match &parts[..] {
                [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
                _ => None,
            },
            _ => None,
        };
        let merges = merges.into_iter().flatten();
        merges
            .map(|merge| parts(merge).ok_or_else(|| self.bad("a merge is no pair of tokens")))
            .collect()
    }

    /// Whether BOS is put before a text and EOS behind it, by what becomes of one.
    fn around(&self) -> Result<(bool, bool)> {
        let (bare, whole) = (
            self.tokenizer.encode("a", false)?,
            self.tokenizer.encode("a", true)?,
        );
        let special = &self.tokenizer.special;
        let longer = whole.len() > bare.len();
        let first = longer && special.bos.is_some() && whole.first().copied() == special.bos;
        let last = longer && special.eos.is_some() && whole.last().copied() == special.eos;
        Ok((first, last))
    }

    fn puts_a_space_first(&self) -> bool {
        let steps = |key: &str, list: &str| {
            let whole = &self.json[key];
            match whole[list].as_array() {
                Some(steps) => steps.clone(),
                None => vec![whole.clone()],
            }
        };
        let prepends = |step: &Value| step["type"] == "Prepend";
        let metaspace =
            |step: &Value| step["type"] == "Metaspace" && step["prepend_scheme"] != "never";
        steps("normalizer", "normalizers").iter().any(prepends)
            || steps("pre_tokenizer", "pretokenizers")
                .iter()
                .any(metaspace)
    }

    /// llama.cpp's name for how this vocabulary cuts text into words: by the ids of its check text, else by the rules
    /// themselves.
    fn pre(&self) -> Result<String> {
        let ids = self.tokenizer.encode(CHECK_TEXT, true)?;
        // As Python writes a list.
        let hash = ledger::hash::sha256_bytes(format!("{ids:?}").as_bytes());
        if let Some((_, name)) = KNOWN_IDS.iter().find(|(known, _)| *known == hash) {
            return Ok((*name).into());
        }
        let rules = super::gguf::rules(self.json);
        let known = PRE_TOKENIZERS.iter().find(|pre| pre.rules() == rules);
        let name = known.and_then(|pre| pre.names.first());
        name.map(|name| (*name).into())
            .ok_or_else(|| Error::UnnamedSplit {
                origin: self.tokenizer.origin().into(),
            })
    }

    /// Encodes a text with the vocabulary as a reader of the file will have it.
    fn compare(&self, vocab: &GgufVocab) -> Result<Vec<String>> {
        let read = match Tokenizer::from_gguf(vocab) {
            Ok(read) => read,
            // llama.cpp knows more ways of cutting than are read here.
            Err(Error::PreTokenizer { pre, .. }) => {
                return Ok(vec![format!(
                    "that {pre} is how the vocabulary cuts text into words could not be checked"
                )]);
            }
            Err(error) => return Err(error),
        };
        let same = |text: &str| -> Result<bool> {
            Ok(read.encode(text, true)? == self.tokenizer.encode(text, true)?)
        };
        if !same(CHECK_TEXT)? {
            return Err(Error::GgufIdsDiffer {
                origin: self.tokenizer.origin().into(),
                pre: vocab.pre.clone().unwrap_or_default(),
            });
        }
        let mut warnings = Vec::new();
        for token in self.tokenizer.special_texts() {
            if !same(&format!("one{token}two {token} three"))? {
                warnings.push(format!(
                    "text beside {token} gets other ids: GGUF has no word for how this tokenizer \
                     treats spaces there"
                ));
            }
        }
        Ok(warnings)
    }
}

/// `<0x0A>`
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Tokens that llama.cpp's converter takes for control tokens though they are not marked as such.
fn looks_special(text: &str) -> bool {
    ["<pad>", "<mask>"].contains(&text) || text.starts_with("<|") && text.ends_with("|>")
}

/// A merge as GGUF writes it. A space within a part would end it; byte-level vocabularies write spaces so.
fn written((left, right): (String, String)) -> String {
    format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))
}

/// A SentencePiece vocabulary joins the neighbours whose joined text has the best score. The score of a token is the
/// place of the first merge that makes it, so that the merges come in the same order; what no merge makes comes last.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, (left, right)) in merges.iter().enumerate() {
        places.entry(format!("{left}{right}")).or_insert(place);
    }
    let score = |token: &String| match places.get(token) {
        Some(place) => -(*place as f32),
        None if is_byte(token) => 0.0,
        None => -(merges.len() as f32),
    };
    tokens.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A character more or less would give every vocabulary another hash, and the rules would be asked in silence.
    #[test]
    fn the_check_text_is_llama_cpp_s() {
        assert_eq!(
            ledger::hash::sha256_bytes(CHECK_TEXT.as_bytes()),
            "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
        );
    }
}
