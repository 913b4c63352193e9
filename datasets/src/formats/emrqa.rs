//! emrQA (Pampari et al. 2018): `data.json`, where a question is a list of
//! paraphrases and an answer is evidence with its lines; or Hugging Face's copies
//! in SQuAD's shape (`context`, `question`, `answers {text, answer_start}`).

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::Path;

use serde_json::{Map, Value};

use super::Format;
use super::fields::{each, empty_if_missing, text, wrong_field, wrong_value};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Names, Nested, Row, Rows, nested, records};

pub(super) const FORMAT: Format = Format {
    name: "emrqa",
    about: "title, note_id, context (lines joined by newlines), question (the first paraphrase), paraphrases (list), answer (the first), answers (list), evidence (list), answer_type; data.json or SQuAD-like records",
    splits: &[],
    read,
    sample: None,
};

const NAMES: Names = Names {
    groups: "data",
    title: "title",
    records: "paragraphs",
};

fn read(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    if !is_nested(file)? {
        let rows = records(file, source, &["context", "question", "answers"])?;
        return Ok(each(rows, file, from_squad));
    }
    let mut paragraphs = nested(file, NAMES)?;
    let name = file.name.clone();
    let mut questions = VecDeque::new();
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        while questions.is_empty() {
            match paragraphs.next()? {
                Ok(paragraph) => rows_of(paragraph, &name, &mut number, &mut questions),
                Err(error) => return Some(Err(error)),
            }
        }
        questions.pop_front()
    })))
}

/// Whether the file is one object whose records are inside `data`, as its first
/// key tells.
fn is_nested(file: &SourceFile) -> Result<bool> {
    let mut reader = file.open()?;
    let start = reader.fill_buf().map_err(|error| file.failed(1, error))?;
    let start = start.iter().filter(|byte| !byte.is_ascii_whitespace());
    let start: Vec<u8> = start.take(12).copied().collect();
    let keys: [&[u8]; 2] = [b"{\"data\":", b"{\"version\":"];
    Ok(keys.iter().any(|key| start.starts_with(key)))
}

/// One row a question. A paragraph whose context is none is one bad record, and
/// so is a question without paraphrases or answers.
fn rows_of(paragraph: Nested, file: &str, number: &mut u64, rows: &mut VecDeque<Result<Row>>) {
    let mut of_paragraph = Row {
        key: None,
        record: *number + 1,
        fields: paragraph.fields,
    };
    let context = context(&of_paragraph);
    let questions = match of_paragraph.fields.get_mut("qas") {
        Some(Value::Array(questions)) => std::mem::take(questions),
        _ => {
            *number += 1;
            let wanted = "a list of questions";
            rows.push_back(Err(wrong_field(&of_paragraph, file, "qas", wanted)));
            return;
        }
    };
    let Some(context) = context else {
        *number += 1;
        let wanted = "a text or a list of lines";
        rows.push_back(Err(wrong_field(&of_paragraph, file, "context", wanted)));
        return;
    };
    let title = paragraph.title.unwrap_or_default();
    let note = of_paragraph.fields.get("note_id").map(as_text);
    for question in questions {
        *number += 1;
        let mut fields = Map::new();
        fields.insert("title".into(), title.as_str().into());
        fields.insert("note_id".into(), note.clone().unwrap_or_default().into());
        fields.insert("context".into(), context.as_str().into());
        if let Value::Object(asked) = question {
            fields.extend(asked);
        }
        let row = Row {
            key: None,
            record: *number,
            fields,
        };
        rows.push_back(from_data(row, file));
    }
}

fn context(paragraph: &Row) -> Option<String> {
    match paragraph.fields.get("context")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => {
            let lines: Option<Vec<&str>> = lines.iter().map(Value::as_str).collect();
            // Some copies keep each line's end in the line.
            let bare = |line: &str| line.trim_end_matches('\n').to_string();
            let lines: Vec<String> = lines?.into_iter().map(bare).collect();
            Some(lines.join("\n"))
        }
        _ => None,
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The texts of a value that is a text, or (of a complex answer) a list of them.
fn flat(value: Option<&Value>, texts: &mut Vec<String>) {
    match value {
        Some(Value::Array(list)) => list.iter().for_each(|item| flat(Some(item), texts)),
        // Some questions ask only for the evidence: their answers' text is empty.
        Some(Value::Null) | None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(value) => texts.push(as_text(value)),
    }
}

/// `question` (list), `id` and `answers` of data.json.
fn from_data(mut row: Row, file: &str) -> Result<Row> {
    let mut paraphrases = Vec::new();
    flat(row.fields.get("question"), &mut paraphrases);
    let Some(question) = paraphrases.first().cloned() else {
        let (wanted, found) = ("one paraphrase or more", "none");
        return Err(wrong_value(&row, file, "question", wanted, found));
    };
    let Some(given) = row.fields.get("answers").and_then(Value::as_array) else {
        return Err(wrong_field(&row, file, "answers", "a list of answers"));
    };
    let (mut answers, mut evidence) = (Vec::new(), Vec::new());
    for answer in given {
        flat(answer.get("text"), &mut answers);
        flat(answer.get("evidence"), &mut evidence);
    }
    let kind = given.first().and_then(|a| a.get("answer_entity_type"));
    let kind = kind.map(as_text).unwrap_or_default();
    set(&mut row, question, paraphrases, answers, evidence, kind);
    // It holds every paraphrase's template again.
    row.fields.shift_remove("id");
    Ok(row)
}

/// `question` (text) and `answers {text, answer_start}` of SQuAD.
fn from_squad(mut row: Row, file: &str) -> Result<Row> {
    text(&row, file, "context")?;
    let question = text(&row, file, "question")?.to_string();
    let Some(given) = row.fields.get("answers").and_then(|a| a.get("text")) else {
        return Err(wrong_field(&row, file, "answers", "{text, answer_start}"));
    };
    let mut answers = Vec::new();
    flat(Some(given), &mut answers);
    set(
        &mut row,
        question.clone(),
        vec![question],
        answers,
        Vec::new(),
        String::new(),
    );
    empty_if_missing(&mut row, &["title", "note_id"]);
    Ok(row)
}

fn set(
    row: &mut Row,
    question: String,
    paraphrases: Vec<String>,
    answers: Vec<String>,
    evidence: Vec<String>,
    kind: String,
) {
    let answer = answers.first().cloned().unwrap_or_default();
    let fields: [(&str, Value); 6] = [
        ("question", question.into()),
        ("paraphrases", paraphrases.into()),
        ("answer", answer.into()),
        ("answers", answers.into()),
        ("evidence", evidence.into()),
        ("answer_type", kind.into()),
    ];
    for (name, value) in fields {
        row.fields.insert(name.to_string(), value);
    }
}
