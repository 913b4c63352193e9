//! Multiple choice: the fields that every such format gives, so that one
//! template fits all.

use serde_json::{Value, json};

use super::fields::{shown_word, wrong_field, wrong_value};
use crate::Result;
use crate::rows::Row;

/// An option's letter and text.
pub(super) type Choice = (String, String);

/// Options with the letters A, B, C, ...
pub(super) fn lettered(texts: impl IntoIterator<Item = String>) -> Vec<Choice> {
    let letters = ('A'..='Z').map(String::from);
    letters.zip(texts).collect()
}

/// Options as sets write them: a list of `{key, value}`, or an object of letters.
pub(super) fn choices(
    row: &Row,
    file: &str,
    field: &str,
    value: Option<&Value>,
) -> Result<Vec<Choice>> {
    let text = |value: &Value| value.as_str().map(str::to_string);
    let found: Option<Vec<Choice>> = match value {
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| Some((text(item.get("key")?)?, text(item.get("value")?)?)))
            .collect(),
        // Some copies have a fifth option in the schema and null in the data.
        Some(Value::Object(options)) => options
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect(),
        _ => None,
    };
    match found {
        Some(choices) if !choices.is_empty() => Ok(choices),
        _ => Err(wrong_field(
            row,
            file,
            field,
            "a list or an object of options",
        )),
    }
}

/// Sets `options` (a list of `{key, value}`), `options_text` (`A. ..`, a line
/// each), `answer_idx` (the letter) and `answer` (its text). `field` is where the
/// letter came from.
pub(super) fn set_choices(
    row: &mut Row,
    file: &str,
    field: &str,
    choices: &[Choice],
    letter: &str,
) -> Result<()> {
    let Some((_, answer)) = choices.iter().find(|(key, _)| key == letter) else {
        let letters: Vec<&str> = choices.iter().map(|(key, _)| key.as_str()).collect();
        let wanted = format!("one of the options {}", letters.join(", "));
        return Err(wrong_value(row, file, field, wanted, shown_word(letter)));
    };
    let lines: Vec<String> = choices.iter().map(|(k, v)| format!("{k}. {v}")).collect();
    let options = choices.iter().map(|(k, v)| json!({"key": k, "value": v}));
    let fields = [
        ("options", options.collect()),
        ("options_text", lines.join("\n").into()),
        ("answer_idx", letter.into()),
        ("answer", answer.as_str().into()),
    ];
    for (name, value) in fields {
        row.fields.insert(name.to_string(), value);
    }
    Ok(())
}
