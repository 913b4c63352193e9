//! BERT's vocabulary: `vocab.txt`, a token a line, its number the id.

use serde_json::{Map, Value, json};

/// The tokens that stand for no text; a vocabulary needs those with `true`.
const SPECIAL: &[(&str, bool)] = &[
    ("[PAD]", false),
    ("[UNK]", true),
    ("[CLS]", true),
    ("[SEP]", true),
    ("[MASK]", false),
];

/// `tokenizer.json`'s contents as transformers' `BertTokenizer` would write them, with what
/// `tokenizer_config.json` says. As error, what is wrong with the vocabulary.
pub(super) fn tokenizer_json(text: &str, config: &Map<String, Value>) -> Result<Value, String> {
    let mut vocab = Map::new();
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    for (id, token) in lines.enumerate() {
        // Of a token that is listed twice the last id counts.
        vocab.insert(token.trim_end_matches('\r').to_owned(), id.into());
    }
    let mut added = Vec::new();
    for (token, needed) in SPECIAL {
        match vocab.get(*token) {
            Some(id) => added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true
            })),
            None if *needed => return Err(format!("it has no {token}")),
            None => {}
        }
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let around = |token: &str| json!({"id": token, "ids": [vocab[token]], "tokens": [token]});
    let special = |token: &str, of: u8| json!({"SpecialToken": {"id": token, "type_id": of}});
    let sequence = |name: &str, of: u8| json!({"Sequence": {"id": name, "type_id": of}});
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    let (cls, sep) = ("[CLS]", "[SEP]");
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars").unwrap_or(true),
            "strip_accents": flag("strip_accents"),
            "lowercase": flag("do_lower_case").unwrap_or(true)
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(cls, 0), sequence("A", 0), special(sep, 0)],
            "pair": [special(cls, 0), sequence("A", 0), special(sep, 0), sequence("B", 1), special(sep, 1)],
            "special_tokens": {cls: around(cls), sep: around(sep)}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab
        }
    }))
}
