//! Tokenizers written as GGUF metadata: read back they give the same ids, or they are refused.

use std::path::{Path, PathBuf};

use datasets::Tokenizer;
use insta::assert_snapshot;
use serde_json::Value;

use crate::{folder, shown};

fn golden(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/tokenizers")
        .join(kind)
}

fn golden_json(kind: &str, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(kind).join(name)).unwrap()).unwrap()
}

/// The tokenizer, the model, its `pre`, and what is said of it.
const KINDS: [(&str, &str, &str, usize); 5] = [
    ("smollm2", "gpt2", "smollm", 0),
    ("llama3", "gpt2", "llama-bpe", 0),
    ("qwen2", "gpt2", "qwen2", 0),
    ("llama2_json", "llama", "default", 0),
    // Its tokenizer puts no space behind a special token, which GGUF has no word for.
    ("llama2", "llama", "default", 3),
];

#[test]
fn ids_read_back_are_transformers_ids() {
    for (kind, model, pre, warnings) in KINDS {
        let tokenizer = Tokenizer::from_folder(&golden(kind)).unwrap();
        let size = tokenizer.vocab_size();
        let out = tokenizer.to_gguf(size + 7, None).unwrap();
        let vocab = &out.vocab;
        assert_eq!((&vocab.model[..], vocab.pre.as_deref()), (model, Some(pre)));
        assert_eq!(out.warnings.len(), warnings, "{kind}: {:?}", out.warnings);
        assert_eq!(vocab.tokens.len(), size + 7);
        assert_eq!(vocab.tokens[size + 6], format!("[PAD{}]", size + 6));
        assert_eq!(vocab.token_types[size + 6], 5);
        assert_eq!(vocab.scores.is_empty(), model == "gpt2");
        assert_eq!(vocab.merges.is_empty(), model == "llama");
        let read = Tokenizer::from_gguf(vocab).unwrap();
        let texts = golden_json(kind, "golden.json")["texts"].clone();
        for text in texts.as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(text["ids_with_special"].clone()).unwrap();
            let written = text["text"].as_str().unwrap();
            // Nor does it put one before a text that begins with a space, or with what stands for one.
            let spaced =
                warnings > 0 && (written.contains(['<', '[']) || written.starts_with([' ', '▁']));
            if !spaced {
                assert_eq!(
                    read.encode(written, true).unwrap(),
                    ids,
                    "{kind} {written:?}"
                );
            }
        }
        assert_eq!(
            (read.bos(), read.eos(), read.pad()),
            (tokenizer.bos(), tokenizer.eos(), tokenizer.pad())
        );
        assert_eq!(read.chat_template(), tokenizer.chat_template());
    }
}

#[test]
fn a_wrong_name_is_refused_by_its_ids() {
    let tokenizer = Tokenizer::from_folder(&golden("llama3")).unwrap();
    let error = tokenizer.to_gguf(500, Some("gpt-2")).unwrap_err();
    let shown = shown(&error).replace(golden("llama3").to_str().unwrap(), "ROOT");
    assert_snapshot!(shown, @r#"
    ROOT/tokenizer.json: with tokenizer.ggml.pre = "gpt-2" the same text gets other ids
    hint: leave --pre out, or name the way that the vocabulary was made with
    "#);
}

/// A name that llama.cpp knows and we do not read is taken at its word, and said so.
#[test]
fn a_name_that_is_not_read_is_written_unproven() {
    let tokenizer = Tokenizer::from_folder(&golden("qwen2")).unwrap();
    let out = tokenizer.to_gguf(500, Some("tekken")).unwrap();
    assert_eq!(out.vocab.pre.as_deref(), Some("tekken"));
    assert_eq!(
        out.warnings,
        ["that tekken is how the vocabulary cuts text into words could not be checked"]
    );
}

#[test]
fn vocabularies_that_gguf_cannot_hold() {
    let fails = |kind: &str, rows: usize, change: &dyn Fn(&mut Value)| {
        let mut json = golden_json(kind, "tokenizer.json");
        change(&mut json);
        let root = folder([("tokenizer.json", json.to_string().as_bytes())]);
        let tokenizer = Tokenizer::from_folder(root.path()).unwrap();
        let error = tokenizer.to_gguf(rows, None).unwrap_err();
        shown(&error).replace(root.path().to_str().unwrap(), "ROOT")
    };
    assert_snapshot!(fails("smollm2", 399, &|_| {}), @r"
    ROOT/tokenizer.json: this vocabulary cannot be written as GGUF: it has more tokens than the 399 rows of the model's embedding
    hint: use the model's Hugging Face folder with a program that reads it
    ");
    let words = |json: &mut Value| {
        json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]});
    };
    assert_snapshot!(fails("smollm2", 400, &words), @r"
    ROOT/tokenizer.json: the way this vocabulary cuts text into words has no known tokenizer.ggml.pre
    hint: if llama.cpp has a name for it, give it with --pre; see `get_vocab_base_pre` in its convert_hf_to_gguf.py
    ");
    let neither = |json: &mut Value| json["pre_tokenizer"] = Value::Null;
    assert_snapshot!(fails("smollm2", 400, &neither), @r"
    ROOT/tokenizer.json: this vocabulary cannot be written as GGUF: it is neither a byte-level BPE nor one that falls back to bytes
    hint: use the model's Hugging Face folder with a program that reads it
    ");
    let unigram = |json: &mut Value| {
        let vocab = json["model"]["vocab"].as_object().unwrap();
        let mut vocab: Vec<_> = vocab.iter().collect();
        vocab.sort_by_key(|(_, id)| id.as_u64());
        let scored: Vec<Value> = vocab
            .iter()
            .map(|(text, _)| serde_json::json!([text, -1.0]))
            .collect();
        json["model"] = serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": scored, "byte_fallback": true});
    };
    assert_snapshot!(fails("llama2_json", 600, &unigram), @r"
    ROOT/tokenizer.json: this vocabulary cannot be written as GGUF: its model is Unigram, and only BPE is written
    hint: use the model's Hugging Face folder with a program that reads it
    ");
}
