//! Ids, rendered texts and masks against what transformers makes of the same
//! input (`tests/golden/tokenizers`, made by `scripts/golden`).

use std::path::{Path, PathBuf};

use datasets::recipe::TemplateKind;
use datasets::{GgufVocab, Message, Template, Tokenizer};
use serde_json::Value;

const KINDS: [&str; 5] = ["llama2", "llama2_json", "llama3", "qwen2", "smollm2"];

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/tokenizers")
        .join(kind)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// Texts whose ids, or whose decoded text, differ from the golden ones.
fn differing(tokenizer: &Tokenizer, golden: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in golden["texts"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let plain = tokenizer.encode(text, false).unwrap();
        let with_special = tokenizer.encode(text, true).unwrap();
        if plain != ids(&row["ids"]) || with_special != ids(&row["ids_with_special"]) {
            wrong.push(format!("{text:?}: {plain:?}, expected {}", row["ids"]));
        }
        let decoded = tokenizer.decode(&plain, false).unwrap();
        let without = tokenizer.decode(&plain, true).unwrap();
        if decoded != row["decoded"] || without != row["decoded_without_special"] {
            wrong.push(format!(
                "{text:?}: decoded {decoded:?}, expected {}",
                row["decoded"]
            ));
        }
    }
    wrong
}

#[test]
fn texts_have_the_ids_that_transformers_gives() {
    for kind in KINDS {
        let golden = json(&folder(kind).join("golden.json"));
        let tokenizer = Tokenizer::from_folder(&folder(kind)).unwrap();
        assert_eq!(
            tokenizer.vocab_size() as u64,
            golden["vocab_size"].as_u64().unwrap(),
            "{kind}"
        );
        assert_eq!(differing(&tokenizer, &golden), [""; 0], "{kind}");
    }
}

#[test]
fn conversations_have_the_text_the_ids_and_the_mask_that_transformers_gives() {
    for kind in KINDS {
        let golden = json(&folder(kind).join("golden.json"));
        let tokenizer = Tokenizer::from_folder(&folder(kind)).unwrap();
        let template = Template::new(TemplateKind::Chat, &tokenizer).unwrap();
        for (i, row) in golden["conversations"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
            let pieces = template
                .render(&messages, false)
                .unwrap_or_else(|e| panic!("{kind} {i}: {e}"));
            let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            assert_eq!(text, row["rendered"], "{kind} conversation {i}");
            let (input_ids, mask) = tokenizer.encode_pieces(&pieces).unwrap();
            assert_eq!(input_ids, ids(&row["ids"]), "{kind} conversation {i}");
            let mask: Vec<u32> = mask.into_iter().map(u32::from).collect();
            assert_eq!(mask, ids(&row["assistant_mask"]), "{kind} conversation {i}");

            let prompt = template
                .render(&messages[..messages.len() - 1], true)
                .unwrap();
            let text: String = prompt.iter().map(|piece| piece.text.as_str()).collect();
            assert_eq!(text, row["prompt"], "{kind} conversation {i}");
            let (prompt_ids, _) = tokenizer.encode_pieces(&prompt).unwrap();
            assert_eq!(
                prompt_ids,
                ids(&row["prompt_ids"]),
                "{kind} conversation {i}"
            );
        }
    }
}

/// What llama.cpp's converter would write of a `tokenizer.json`.
fn gguf_of(kind: &str, pre: &str) -> GgufVocab {
    let file = json(&folder(kind).join("tokenizer.json"));
    let added: Vec<&str> = file["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["content"].as_str().unwrap())
        .collect();
    let mut tokens: Vec<(String, u64)> = file["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (token.clone(), id.as_u64().unwrap()))
        .collect();
    for token in file["added_tokens"].as_array().unwrap() {
        let entry = (
            token["content"].as_str().unwrap().to_string(),
            token["id"].as_u64().unwrap(),
        );
        if !tokens.contains(&entry) {
            tokens.push(entry);
        }
    }
    tokens.sort_by_key(|(_, id)| *id);
    let tokens: Vec<String> = tokens.into_iter().map(|(token, _)| token).collect();
    let merges = file["model"]["merges"].as_array().unwrap();
    let id = |token: &str| tokens.iter().position(|t| t == token).map(|id| id as u32);
    GgufVocab {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        token_types: tokens
            .iter()
            .map(|token| {
                if added.contains(&token.as_str()) {
                    3
                } else {
                    1
                }
            })
            .collect(),
        merges: merges
            .iter()
            .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
            .collect(),
        bos: id("<|begin_of_text|>"),
        eos: id("<|eot_id|>").or(id("<|im_end|>")),
        add_bos: Some(kind == "llama3"),
        tokens,
        ..GgufVocab::default()
    }
}

#[test]
fn gguf_metadata_gives_the_same_ids() {
    for (kind, pre) in [
        ("smollm2", "smollm"),
        ("llama3", "llama-bpe"),
        ("qwen2", "qwen2"),
    ] {
        let golden = json(&folder(kind).join("golden.json"));
        let tokenizer = Tokenizer::from_gguf(&gguf_of(kind, pre)).unwrap();
        assert_eq!(differing(&tokenizer, &golden), [""; 0], "{kind}");
    }
}

#[test]
fn what_a_gguf_is_converted_to_reads_back_the_same() {
    let vocab = gguf_of("llama3", "llama-bpe");
    let tokenizer = Tokenizer::from_gguf(&GgufVocab {
        chat_template: Some("{{ messages }}".into()),
        ..vocab
    })
    .unwrap();
    let (file, config) = tokenizer.files_json().unwrap();
    let written = tempfile::tempdir().unwrap();
    std::fs::write(written.path().join("tokenizer.json"), file.to_string()).unwrap();
    std::fs::write(
        written.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    let read = Tokenizer::from_folder(written.path()).unwrap();
    let golden = json(&folder("llama3").join("golden.json"));
    assert_eq!(differing(&read, &golden), [""; 0]);
    assert_eq!(
        read.fingerprint().unwrap(),
        tokenizer.fingerprint().unwrap()
    );
    assert_eq!(read.chat_template(), Some("{{ messages }}"));
    assert_eq!((read.bos(), read.eos()), (tokenizer.bos(), tokenizer.eos()));
}

/// Without `legacy = false` a `tokenizer.model` reads text as the SentencePiece
/// library, llama.cpp and the published LLaMA-2 `tokenizer.json` do.
#[test]
fn a_lone_sentencepiece_model_gives_the_librarys_ids() {
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(
        folder("llama2").join("tokenizer.model"),
        alone.path().join("tokenizer.model"),
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(alone.path()).unwrap();
    let published = json(&folder("llama2_json").join("golden.json"));
    assert_eq!(differing(&tokenizer, &published), [""; 0]);
    let library = json(&folder("llama2").join("golden.json"));
    for row in library["texts"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        // The library reads control tokens in a text as plain characters.
        if !["<s>", "</s>", "<unk>"]
            .iter()
            .any(|token| text.contains(token))
        {
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids(&row["ids_sentencepiece"]),
                "{text:?}"
            );
        }
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
}
