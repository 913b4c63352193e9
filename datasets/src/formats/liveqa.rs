//! The medical task of TREC LiveQA 2017: questions as people sent them to the
//! National Library of Medicine, cut into sub-questions with answers.
//!
//! The publishers count question-answer pairs: 388 in Train-1 (several answers
//! a sub-question) and 246 in Train-2, 634 in all. A row is one such pair.

use super::Format;
use crate::xml::{Draft, Drafts, Element, Flaw, fold, rows, tidy};

pub(super) const TRAIN: Format = Format {
    name: "liveqa",
    about: "TREC-2017 LiveQA training XML, a row an answer: subject, message, focus, type, answer, question_id",
    splits: &[],
    read: |file, _, _| rows(file, &["NLM-QUESTION"], training_question),
    sample: None,
};

pub(super) const TEST: Format = Format {
    name: "liveqa-test",
    about: "TREC-2017 LiveQA test XML, a row a reference answer: subject, message, paraphrase, summary, focus, type, answer, answer_url, question_id",
    splits: &[],
    read: |file, _, _| rows(file, &["NLM-QUESTION"], test_question),
    sample: None,
};

/// Train-1 calls it `questionid`, Train-2 and the test set `qid`.
fn question_id(question: &Element) -> String {
    let id = question.attribute("questionid");
    id.or(question.attribute("qid"))
        .unwrap_or_default()
        .to_string()
}

/// The texts of the annotations called `name`: a question may have several.
fn annotations(of: &Element, name: &str) -> String {
    let of = of.find(&["ANNOTATIONS"]);
    let found = of.into_iter().flat_map(|of| of.children(name));
    let texts: Vec<String> = found.map(|element| fold(&element.text())).collect();
    texts.join("; ")
}

fn training_question(mut question: Element) -> Drafts {
    let id = question_id(&question);
    let (subject, message) = (
        question.tidy_at(&["SUBJECT"]),
        question.tidy_at(&["MESSAGE"]),
    );
    let parts = question.take(&["SUB-QUESTIONS"]).unwrap_or_default();
    let pairs = parts.into_children("SUB-QUESTION").flat_map(|mut part| {
        let (focus, kind) = (annotations(&part, "FOCUS"), annotations(&part, "TYPE"));
        let answers = part.take(&["ANSWERS"]).unwrap_or_default();
        let answers = answers.into_children("ANSWER");
        answers.map(move |answer| (focus.clone(), kind.clone(), tidy(&answer.text())))
    });
    Box::new(
        pairs
            .enumerate()
            .map(move |(number, (focus, kind, answer))| {
                Ok(Draft::new(
                    Some(format!("{id}-{}", number + 1)),
                    [
                        ("subject", subject.clone().into()),
                        ("message", message.clone().into()),
                        ("focus", focus.into()),
                        ("type", kind.into()),
                        ("answer", answer.into()),
                        ("question_id", id.clone().into()),
                    ],
                ))
            }),
    )
}

fn test_question(mut question: Element) -> Drafts {
    let id = question_id(&question);
    let original = |name| question.tidy_at(&["Original-Question", name]);
    let (subject, message) = (original("SUBJECT"), original("MESSAGE"));
    let paraphrase = question.tidy_at(&["NIST-PARAPHRASE"]);
    let summary = question.tidy_at(&["NLM-Summary"]);
    let (focus, kind) = (
        annotations(&question, "FOCUS"),
        annotations(&question, "TYPE"),
    );
    let answers = question.take(&["ReferenceAnswers"]).unwrap_or_default();
    let answers = answers.into_children("ReferenceAnswer").enumerate();
    Box::new(answers.map(move |(number, answer)| {
        if answer.find(&["ANSWER"]).is_none() {
            return Err(Flaw::new(
                answer.line,
                &id,
                "a ReferenceAnswer without an ANSWER",
            ));
        }
        Ok(Draft::new(
            Some(format!("{id}-{}", number + 1)),
            [
                ("subject", subject.clone().into()),
                ("message", message.clone().into()),
                ("paraphrase", paraphrase.clone().into()),
                ("summary", summary.clone().into()),
                ("focus", focus.clone().into()),
                ("type", kind.clone().into()),
                ("answer", answer.tidy_at(&["ANSWER"]).into()),
                ("answer_url", answer.line_at(&["AnswerURL"]).into()),
                ("question_id", id.clone().into()),
            ],
        ))
    }))
}
