//! MedQuAD (Ben Abacha and Demner-Fushman 2019): one document a file, with
//! questions and answers about its focus. The answers of folders 10, 11 and 12
//! were removed by the publishers; their rows have an empty `answer`. A few files
//! have another root (`<DiseaseFile>`) or the names of an earlier markup (`<doc>`,
//! `<pair>`, `<semanticType>`).

use serde_json::{Map, Value};

use super::Format;
use crate::xml::{Draft, Drafts, Element, Flaw, fold, rows};

pub(super) const FORMAT: Format = Format {
    name: "medquad",
    about: "MedQuAD XML, a row a QAPair: question, answer (may be empty), focus, qtype, document_id, source, url, semantic_types (list), cuis (list)",
    splits: &[],
    read: |file, _, _| rows(file, &["Document", "doc", "DiseaseFile"], document),
    sample: None,
};

/// The names of elements and attributes, now and in the earlier markup.
struct Names {
    id: &'static str,
    source: &'static str,
    focus: &'static str,
    semantic_type: &'static str,
    cui: &'static str,
    pairs: [&'static str; 2],
    question: &'static str,
    answer: &'static str,
}

const NAMES: Names = Names {
    id: "id",
    source: "source",
    focus: "Focus",
    semantic_type: "SemanticType",
    cui: "CUI",
    pairs: ["QAPairs", "QAPair"],
    question: "Question",
    answer: "Answer",
};

const EARLIER: Names = Names {
    id: "docid",
    source: "corpus",
    focus: "doctitle-focus",
    semantic_type: "semanticType",
    cui: "cui",
    pairs: ["qaPairs", "pair"],
    question: "question",
    answer: "answer",
};

fn document(mut document: Element) -> Drafts {
    let names = if document.name == "doc" {
        EARLIER
    } else {
        NAMES
    };
    let text = |name: &str| Value::from(document.attribute(name).unwrap_or_default());
    let list = |name: &str| -> Value {
        let found = document.descendants(name).into_iter();
        let texts = found.map(|element| fold(&element.text()));
        texts.filter(|text| !text.is_empty()).collect()
    };
    let about = Map::from_iter([
        ("focus".to_string(), document.line_at(&[names.focus]).into()),
        ("document_id".to_string(), text(names.id)),
        ("source".to_string(), text(names.source)),
        ("url".to_string(), text("url")),
        ("semantic_types".to_string(), list(names.semantic_type)),
        ("cuis".to_string(), list(names.cui)),
    ]);
    let id = document.attribute(names.id).unwrap_or_default().to_string();
    let [pairs, pair] = names.pairs;
    let pairs = document.take(&[pairs]).unwrap_or_default();
    Box::new(pairs.into_children(pair).map(move |pair| {
        let Some(question) = pair.find(&[names.question]) else {
            return Err(Flaw::new(pair.line, &id, "a QAPair without a Question"));
        };
        let kind = question.attribute("qtype").unwrap_or_default();
        let mut draft = Draft::new(
            question.attribute("qid").map(str::to_string),
            [
                ("question", fold(&question.text()).into()),
                ("answer", pair.tidy_at(&[names.answer]).into()),
                ("qtype", kind.into()),
            ],
        );
        draft.fields.extend(about.clone());
        Ok(draft)
    }))
}
