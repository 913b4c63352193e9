//! MEDIQA 2019 (Ben Abacha, Shivade and Demner-Fushman): task 3, answers ranked
//! for a consumer's question, and task 2, whether a frequently asked question
//! (FAQ) answers a consumer's (CHQ).

use serde_json::Value;

use super::Format;
use crate::xml::{Draft, Drafts, Element, Flaw, one, rows, tidy};

pub(super) const QA: Format = Format {
    name: "mediqa-qa",
    about: "MEDIQA 2019 task 3 XML, a row an answer: question, answer, question_id, answer_id, answer_url, system_rank, reference_rank, reference_score (numbers, null in test files)",
    splits: &[],
    read: |file, _, _| rows(file, &["Question"], question),
    sample: None,
};

pub(super) const RQE: Format = Format {
    name: "mediqa-rqe",
    about: "MEDIQA 2019 task 2 XML, a row a pair: chq, faq, label (true or false), pair_id",
    splits: &[],
    read: |file, _, _| rows(file, &["pair"], |element| one(pair(&element))),
    sample: None,
};

fn question(mut question: Element) -> Drafts {
    let id = question.attribute("QID").unwrap_or_default().to_string();
    let text = question.tidy_at(&["QuestionText"]);
    let answers = question.take(&["AnswerList"]).unwrap_or_default();
    Box::new(answers.into_children("Answer").map(move |answer| {
        let answer_id = answer.attribute("AID").unwrap_or_default();
        let number = |name: &str| match answer.attribute(name) {
            None => Ok(Value::Null),
            Some(value) => value.trim().parse::<u64>().map(Value::from).map_err(|_| {
                let problem = format!("{name} is not a whole number");
                Flaw::new(answer.line, answer_id, problem)
            }),
        };
        Ok(Draft::new(
            Some(answer_id.to_string()).filter(|id| !id.is_empty()),
            [
                ("question", text.clone().into()),
                ("answer", answer.tidy_at(&["AnswerText"]).into()),
                ("question_id", id.clone().into()),
                ("answer_id", answer_id.into()),
                ("answer_url", answer.line_at(&["AnswerURL"]).into()),
                ("system_rank", number("SystemRank")?),
                ("reference_rank", number("ReferenceRank")?),
                ("reference_score", number("ReferenceScore")?),
            ],
        ))
    }))
}

fn pair(pair: &Element) -> Result<Draft, Flaw> {
    let id = pair.attribute("pid").unwrap_or_default();
    let text = |name: &'static str| match pair.find(&[name]) {
        Some(element) => Ok(Value::from(tidy(&element.text()))),
        None => Err(Flaw::new(pair.line, id, format!("a pair without <{name}>"))),
    };
    let label = match pair.attribute("value") {
        Some("true") => true,
        Some("false") => false,
        _ => return Err(Flaw::new(pair.line, id, "its value is not true or false")),
    };
    Ok(Draft::new(
        Some(id.to_string()).filter(|id| !id.is_empty()),
        [
            ("chq", text("chq")?),
            ("faq", text("faq")?),
            ("label", label.into()),
            ("pair_id", id.into()),
        ],
    ))
}
