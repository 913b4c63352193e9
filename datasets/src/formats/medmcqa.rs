//! MedMCQA (Pal et al. 2022): the authors' fields, whose `cop` is the number of
//! the right option, counted from 1 in the authors' JSON and from 0 in Hugging
//! Face's copy (`first_option` says which; it is never guessed); and the reduced
//! lines `{question, choices: ["A. ..", ..], answer: 0 to 3}`.

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::choices::{lettered, set_choices};
use super::fields::{each, empty_if_missing, number, text, texts, wrong_field, wrong_value};
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, records};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format {
    name: "medmcqa",
    about: "question, options (list of {key, value}), options_text, answer_idx (letter), answer, exp, subject_name, topic_name, id; first_option = 0 or 1 says how `cop` counts",
    splits: &[],
    read,
    sample: None,
};

const OPTIONS: [&str; 4] = ["opa", "opb", "opc", "opd"];

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(
        file,
        source,
        &["question", "cop", "opa", "opb", "opc", "opd"],
    )?;
    let first = FirstOption {
        source_name: source.name.clone(),
        given: source.first_option,
    };
    Ok(each(rows, file, move |row, file| {
        named_fields(row, file, &first)
    }))
}

/// What the recipe says of `cop`.
struct FirstOption {
    source_name: String,
    given: Option<u8>,
}

fn named_fields(mut row: Row, file: &str, first: &FirstOption) -> Result<Row> {
    text(&row, file, "question")?;
    let (field, texts, right) = if row.fields.contains_key("choices") {
        let right = number(&row, file, "answer")?;
        (
            "answer",
            unlettered(&row, file)?,
            in_range(&row, file, "answer", right, 0)?,
        )
    } else {
        let Some(first @ (0 | 1)) = first.given else {
            return Err(Error::FirstOption {
                source_name: first.source_name.clone(),
                given: first.given,
            });
        };
        let mut options = Vec::new();
        for option in OPTIONS {
            options.push(text_or_number(&row, file, option)?);
        }
        let right = number(&row, file, "cop")?;
        (
            "cop",
            options,
            in_range(&row, file, "cop", right, i64::from(first))?,
        )
    };
    let choices = lettered(texts);
    let letter = choices[right].0.clone();
    set_choices(&mut row, file, field, &choices, &letter)?;
    empty_if_missing(&mut row, &["exp", "subject_name", "topic_name", "id"]);
    Ok(row)
}

/// The option's index, 0 to 3.
fn in_range(row: &Row, file: &str, field: &str, right: i64, first: i64) -> Result<usize> {
    let index = usize::try_from(right - first).ok();
    index.filter(|&index| index < OPTIONS.len()).ok_or_else(|| {
        let wanted = format!("from {first} to {}", first + 3);
        wrong_value(row, file, field, wanted, right.to_string())
    })
}

/// Some options are numbers, and some readers make numbers of them.
fn text_or_number(row: &Row, file: &str, field: &str) -> Result<String> {
    match row.fields.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(wrong_field(row, file, field, "a string")),
    }
}

/// The reduced lines' choices without the letters they begin with.
fn unlettered(row: &Row, file: &str) -> Result<Vec<String>> {
    let choices = texts(row, file, "choices")?;
    let begun = ["A. ", "B. ", "C. ", "D. "];
    let plain = |(choice, begin): (&&str, &str)| {
        let text = choice.strip_prefix(begin);
        text.or_else(|| (*choice == begin.trim_end()).then_some(""))
            .map(str::to_string)
    };
    let texts: Option<Vec<String>> = choices.iter().zip(begun).map(plain).collect();
    match texts {
        Some(texts) if choices.len() == OPTIONS.len() => Ok(texts),
        _ => {
            let wanted = "four choices that begin with \"A. \" to \"D. \"";
            let found = format!("{} choices that do not", choices.len());
            Err(wrong_value(row, file, "choices", wanted, found))
        }
    }
}
