//! The space that some vocabularies put before a text.

use serde_json::{Value, json};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::encoder::Encoder;

/// A vocabulary for text that goes on.
pub(super) struct GoingOn {
    /// Puts no space before a text.
    pub encoder: Encoder,
    /// Whether the vocabulary itself puts a space before the text after every
    /// special token, or only before a text's first.
    pub after_special: bool,
}

/// The same vocabulary without the space before a text: SentencePiece's
/// `Prepend`, `Metaspace`'s scheme, byte-level's `add_prefix_space`.
pub(super) fn without_prefix_space(
    full: &tokenizers::Tokenizer,
) -> tokenizers::Result<Option<GoingOn>> {
    let mut found = Found::default();
    let normalizer = serde_json::to_value(full.get_normalizer())?;
    let normalizer = edited(normalizer, &mut found);
    let pre_tokenizer = serde_json::to_value(full.get_pre_tokenizer())?;
    let pre_tokenizer = edited(pre_tokenizer, &mut found);
    if !found.everywhere && !found.first {
        return Ok(None);
    }
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(normalizer)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = serde_json::from_value(pre_tokenizer)?;
    let mut tokenizer = full.clone();
    tokenizer.with_normalizer(normalizer)?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    Ok(Some(GoingOn {
        encoder: Encoder::new(tokenizer),
        after_special: found.everywhere,
    }))
}

#[derive(Default)]
struct Found {
    /// A space before every run of text.
    everywhere: bool,
    /// A space before the first run of text only.
    first: bool,
}

fn edited(component: Value, found: &mut Found) -> Value {
    let Value::Object(mut component) = component else {
        return component;
    };
    match component.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            for list in ["normalizers", "pretokenizers"] {
                if let Some(Value::Array(items)) = component.get_mut(list) {
                    let all = std::mem::take(items)
                        .into_iter()
                        .map(|item| edited(item, found));
                    *items = all.filter(|item| !item.is_null()).collect();
                }
            }
        }
        Some("Prepend") => {
            found.everywhere = true;
            return Value::Null;
        }
        Some("Metaspace") => {
            match component.get("prepend_scheme").and_then(Value::as_str) {
                Some("first") => found.first = true,
                Some("never") => {}
                _ => found.everywhere = true,
            }
            component.insert("prepend_scheme".into(), json!("never"));
        }
        Some("ByteLevel") if component.get("add_prefix_space") == Some(&Value::Bool(true)) => {
            found.everywhere = true;
            component.insert("add_prefix_space".into(), json!(false));
        }
        _ => {}
    }
    Value::Object(component)
}
