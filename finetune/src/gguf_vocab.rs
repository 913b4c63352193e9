//! The vocabulary of a GGUF file: plain values from its metadata, as the tokenizer's reader takes them.

use adapters::{GgufMetadata, GgufValue};
use datasets::GgufVocab;

/// Reads `tokenizer.*`. Which keys must be there is the tokenizer's to say.
pub(crate) fn gguf_vocab(metadata: &GgufMetadata) -> GgufVocab {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let text = |name: &str| metadata.string(&key(name)).map(str::to_owned);
    let id = |name: &str| {
        metadata
            .integer(&key(name))
            .and_then(|n| u32::try_from(n).ok())
    };
    let flag = |name: &str| metadata.boolean(&key(name));
    let texts = |name: &str| {
        metadata
            .strings(&key(name))
            .map(<[String]>::to_vec)
            .unwrap_or_default()
    };
    GgufVocab {
        model: text("model").unwrap_or_default(),
        pre: text("pre"),
        tokens: texts("tokens"),
        token_types: match metadata.get(&key("token_type")) {
            // Types are 1 to 6; whatever does not fit is as unknown as 0.
            Some(GgufValue::Ints(types)) => types
                .iter()
                .map(|t| i32::try_from(*t).unwrap_or(0))
                .collect(),
            _ => Vec::new(),
        },
        scores: match metadata.get(&key("scores")) {
            Some(GgufValue::Floats(scores)) => scores.clone(),
            _ => Vec::new(),
        },
        merges: texts("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        chat_template: metadata
            .string("tokenizer.chat_template")
            .map(str::to_owned),
    }
}

/// `tokenizer.*`: the inverse of [`gguf_vocab`].
pub(crate) fn gguf_metadata(vocab: GgufVocab) -> GgufMetadata {
    let mut metadata = GgufMetadata::default();
    let mut set = |name: &str, value: Option<GgufValue>| {
        if let Some(value) = value {
            metadata.set(format!("tokenizer.ggml.{name}"), value);
        }
    };
    let id = |id: Option<u32>| id.map(|id| GgufValue::Int(id.into()));
    let types = vocab.token_types.into_iter().map(i64::from).collect();
    set("model", Some(GgufValue::String(vocab.model)));
    set("pre", vocab.pre.map(GgufValue::String));
    set("tokens", Some(GgufValue::Strings(vocab.tokens)));
    set("token_type", Some(GgufValue::Ints(types)));
    // A vocabulary has one or the other.
    if !vocab.scores.is_empty() {
        set("scores", Some(GgufValue::Floats(vocab.scores)));
    }
    if !vocab.merges.is_empty() {
        set("merges", Some(GgufValue::Strings(vocab.merges)));
    }
    set("bos_token_id", id(vocab.bos));
    set("eos_token_id", id(vocab.eos));
    set("eot_token_id", id(vocab.eot));
    set("unknown_token_id", id(vocab.unk));
    set("padding_token_id", id(vocab.pad));
    set("add_bos_token", vocab.add_bos.map(GgufValue::Bool));
    set("add_eos_token", vocab.add_eos.map(GgufValue::Bool));
    set(
        "add_space_prefix",
        vocab.add_space_prefix.map(GgufValue::Bool),
    );
    if let Some(template) = vocab.chat_template {
        metadata.set("tokenizer.chat_template", GgufValue::String(template));
    }
    metadata
}
