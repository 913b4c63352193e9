//! Tokenizers of every origin, and files that are none.

use std::path::{Path, PathBuf};

use datasets::recipe::TemplateKind;
use datasets::{GgufVocab, Message, Piece, Role, Template, Tokenizer};
use insta::assert_snapshot;
use serde_json::json;

use crate::{folder, shown};

fn golden(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/tokenizers")
        .join(kind)
}

fn vocab() -> GgufVocab {
    GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: ["a", "b", "ab", "<|end|>"].map(String::from).to_vec(),
        token_types: vec![1, 1, 1, 3],
        merges: vec!["a b".into()],
        ..GgufVocab::default()
    }
}

fn gguf_fails(change: impl FnOnce(&mut GgufVocab)) -> String {
    let mut vocab = vocab();
    change(&mut vocab);
    shown(&Tokenizer::from_gguf(&vocab).unwrap_err())
}

#[test]
fn a_gguf_vocabulary_that_cannot_be_used_is_named() {
    assert_snapshot!(gguf_fails(|v| v.pre = Some("tekken".into())), @r#"
    tokenizer.ggml.pre = "tekken" is not supported
    hint: supported are smollm, gpt-2, gpt2, llama-bpe, llama3, llama-v3, qwen2, default; or use the model's Hugging Face folder
    "#);
    assert_snapshot!(gguf_fails(|v| v.model = "bert".into()), @r#"
    tokenizer.ggml.model = "bert" is not supported
    hint: supported are gpt2 and llama; or use the model's Hugging Face folder
    "#);
    assert_snapshot!(gguf_fails(|v| v.tokens.clear()), @r"
    GGUF metadata tokenizer.ggml: tokens is empty
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(gguf_fails(|v| v.token_types.truncate(2)), @r"
    GGUF metadata tokenizer.ggml: token_type has 2 entries, tokens has 4
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(gguf_fails(|v| v.merges.push("nospace".into())), @r"
    GGUF metadata tokenizer.ggml: merge 1 has no space
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(gguf_fails(|v| v.merges.push("b c".into())), @r"
    GGUF metadata tokenizer.ggml: Token `c` out of vocabulary at line 1 column 696
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(gguf_fails(|v| v.eos = Some(4)), @r"
    GGUF metadata tokenizer.ggml: eos_token_id = 4, but there are 4 tokens
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(gguf_fails(|v| v.model = "llama".into()), @r"
    GGUF metadata tokenizer.ggml: scores is missing, which a SentencePiece vocabulary needs
    hint: is the file whole? Compare its size with the publisher's
    ");
}

#[test]
fn bos_and_eos_are_added_as_the_metadata_says() {
    let ids = |change: &dyn Fn(&mut GgufVocab)| {
        let mut vocab = GgufVocab {
            bos: Some(3),
            eos: Some(3),
            ..vocab()
        };
        change(&mut vocab);
        Tokenizer::from_gguf(&vocab)
            .unwrap()
            .encode("ab", true)
            .unwrap()
    };
    assert_eq!(ids(&|_| {}), [2]);
    assert_eq!(ids(&|v| v.add_bos = Some(true)), [3, 2]);
    assert_eq!(ids(&|v| v.add_eos = Some(true)), [2, 3]);
    // Llama 3's begins with BOS unless told otherwise.
    assert_eq!(ids(&|v| v.pre = Some("llama-bpe".into())), [3, 2]);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let fails = |files: &[(&str, &[u8])]| {
        let root = folder(files.iter().copied());
        let error = Tokenizer::from_folder(root.path()).unwrap_err();
        shown(&error).replace(root.path().to_str().unwrap(), "ROOT")
    };
    assert_snapshot!(fails(&[("config.json", b"{}")]), @r"
    ROOT has neither tokenizer.json nor tokenizer.model
    hint: copy the tokenizer's files from the model's publisher into the folder
    ");
    assert_snapshot!(fails(&[("tokenizer.json", b"{\"version\": \"1.0\"")]), @r"
    ROOT/tokenizer.json: EOF while parsing an object at line 1 column 17
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(fails(&[("tokenizer.json", b"{}"), ("tokenizer_config.json", b"[]")]), @r"
    ROOT/tokenizer_config.json: invalid type: sequence, expected a map at line 1 column 0
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(fails(&[("tokenizer.model", b"")]), @r"
    ROOT/tokenizer.model: not a SentencePiece model: it has no pieces
    hint: is the file whole? Compare its size with the publisher's
    ");
    assert_snapshot!(fails(&[("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n")]), @r"
    ROOT/tokenizer.model: it ends in the middle of a field, or is no SentencePiece model
    hint: is the file whole? Compare its size with the publisher's
    ");
    // A char model: trainer_spec { model_type: CHAR }, and rules of its own.
    assert_snapshot!(fails(&[("tokenizer.model", b"\x12\x02\x18\x04")]), @r"
    ROOT/tokenizer.model: its model type is neither BPE nor unigram, which is not supported
    hint: use the model's tokenizer.json, if its publisher has one
    ");
    assert_snapshot!(fails(&[("tokenizer.model", b"\x1a\x03\x12\x01x")]), @r"
    ROOT/tokenizer.model: it rewrites text by rules of its own, which is not supported
    hint: use the model's tokenizer.json, if its publisher has one
    ");
    let whole = std::fs::read(golden("llama2").join("tokenizer.model")).unwrap();
    assert_snapshot!(fails(&[("tokenizer.model", &whole[..whole.len() / 2])]), @r"
    ROOT/tokenizer.model: it ends in the middle of a field, or is no SentencePiece model
    hint: is the file whole? Compare its size with the publisher's
    ");
}

#[test]
fn a_cut_sentencepiece_model_never_panics() {
    let whole = std::fs::read(golden("llama2").join("tokenizer.model")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        let root = folder([("tokenizer.model", &whole[..length])]);
        // Cut between two pieces it is a smaller model.
        let _ = Tokenizer::from_folder(root.path());
    }
}

#[test]
fn the_configuration_files_say_what_ends_a_text() {
    let tokenizer_json = std::fs::read(golden("smollm2").join("tokenizer.json")).unwrap();
    let read = |files: &[(&str, serde_json::Value)]| {
        let files: Vec<_> = files
            .iter()
            .map(|(name, json)| (*name, json.to_string()))
            .collect();
        let all = files.iter().map(|(name, text)| (*name, text.as_bytes()));
        let root = folder(all.chain([("tokenizer.json", tokenizer_json.as_slice())]));
        let tokenizer = Tokenizer::from_folder(root.path()).unwrap();
        (
            tokenizer.eos(),
            tokenizer.ends().iter().copied().collect::<Vec<_>>(),
            tokenizer.chat_template().map(String::from),
        )
    };
    assert_eq!(read(&[]), (None, vec![], None));
    let eos = (
        "tokenizer_config.json",
        json!({"eos_token": {"content": "<|im_end|>"}, "chat_template": "one"}),
    );
    assert_eq!(
        read(std::slice::from_ref(&eos)),
        (Some(2), vec![2], Some("one".into()))
    );
    let generation = ("generation_config.json", json!({"eos_token_id": [0, 1]}));
    let config = ("config.json", json!({"eos_token_id": 1}));
    assert_eq!(
        read(&[eos.clone(), generation.clone(), config.clone()]).1,
        [0, 1, 2]
    );
    assert_eq!(read(&[eos, config.clone()]).1, [1, 2]);
    assert_eq!(read(&[config]).0, Some(1));
    assert_eq!(
        read(&[(
            "special_tokens_map.json",
            json!({"eos_token": "<|endoftext|>"})
        )])
        .0,
        Some(0)
    );
    let several =
        json!([{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]);
    assert_eq!(
        read(&[("tokenizer_config.json", json!({"chat_template": several}))]).2,
        Some("yes".into())
    );
}

#[test]
fn text_that_goes_on_gets_no_space_before_it() {
    let piece = |text: &str, target| Piece {
        text: text.into(),
        target,
    };
    for kind in ["llama2", "llama2_json"] {
        let tokenizer = Tokenizer::from_folder(&golden(kind)).unwrap();
        let template = Template::new(TemplateKind::MeLlama, &tokenizer).unwrap();
        let messages = [
            Message::new(Role::User, "Is it?"),
            Message::new(Role::Assistant, "yes"),
            Message::new(Role::User, "Is it?"),
            Message::new(Role::Assistant, "a</s>b"),
        ];
        let pieces = template.render(&messages, false).unwrap();
        let (ids, _) = tokenizer.encode_pieces(&pieces).unwrap();
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(
            ids,
            tokenizer.encode(&text, false).unwrap(),
            "{kind}: the same as the whole text"
        );
        let again = tokenizer
            .encode_pieces(&[piece("Assistant: \n", false), piece("yes", true)])
            .unwrap()
            .0;
        assert_eq!(
            tokenizer.decode(&again, false).unwrap(),
            "Assistant: \nyes",
            "{kind}"
        );
    }
}

/// A fingerprint changes with anything that changes ids or text.
#[test]
fn fingerprints_tell_tokenizers_apart() {
    let print = |change: &dyn Fn(&mut GgufVocab)| {
        let mut vocab = vocab();
        change(&mut vocab);
        Tokenizer::from_gguf(&vocab).unwrap().fingerprint().unwrap()
    };
    let prints = [
        print(&|_| {}),
        print(&|v| v.eos = Some(3)),
        print(&|v| v.pre = Some("smollm".into())),
        print(&|v| v.chat_template = Some("x".into())),
        print(&|v| v.merges.clear()),
    ];
    assert_eq!(std::collections::BTreeSet::from(prints).len(), 5);
    assert_eq!(print(&|_| {}), print(&|_| {}));
}

/// GGUF's `llama` kind: pieces with scores, bytes for what has no piece.
#[test]
fn a_gguf_sentencepiece_vocabulary_joins_by_score() {
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("<0xC3>", 0.0, 6),
        ("<0xA9>", 0.0, 6),
        ("bc", -1.0, 1),
        ("ab", -2.0, 1),
        ("▁a", -3.0, 1),
        ("▁", -4.0, 1),
        ("a", -5.0, 1),
        ("b", -6.0, 1),
        ("c", -7.0, 1),
    ];
    let vocab = GgufVocab {
        model: "llama".into(),
        pre: Some("default".into()),
        tokens: pieces.iter().map(|(text, ..)| text.to_string()).collect(),
        scores: pieces.iter().map(|&(_, score, _)| score).collect(),
        token_types: pieces.iter().map(|&(.., kind)| kind).collect(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    // bc before ab: the best score first, wherever it stands.
    assert_eq!(encode("abc"), [8, 6]);
    assert_eq!(encode("ab"), [9, 7], "ab before ▁a");
    assert_eq!(
        encode(" a"),
        [9, 8],
        "the text's own space and the one put before it"
    );
    assert_eq!(encode("é\n"), [9, 4, 5, 3]);
    assert_eq!(encode("a</s>a"), [8, 2, 8]);
    assert_eq!(
        tokenizer.encode("a", true).unwrap(),
        [1, 8],
        "BOS unless told otherwise"
    );
    assert_eq!(
        tokenizer.decode(&[8, 6, 9, 4, 5, 3], false).unwrap(),
        "abc é\n"
    );
    assert_eq!(tokenizer.encode_after(Some(3), "a").unwrap(), [10]);
    assert_eq!(tokenizer.encode_after(Some(2), "a").unwrap(), [8]);
    assert_eq!(
        tokenizer.encode_after(Some(3), "a</s>a").unwrap(),
        [10, 2, 8]
    );
    let without = GgufVocab {
        add_space_prefix: Some(false),
        ..vocab
    };
    assert_eq!(
        Tokenizer::from_gguf(&without)
            .unwrap()
            .encode("a", false)
            .unwrap(),
        [10]
    );
}
