//! The worked examples of docs/metrics.md.

use eval::filters::FilterName;
use eval::metrics::{Answered, Marks, MetricName};

/// Marks texts and checks every score to the three digits that the documentation gives.
fn check(filter: &str, options: &[&str], items: &[(&str, &str)], expected: &[(&str, f64)]) {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let filter = FilterName::find(filter).unwrap();
    let extracted: Vec<Option<String>> = items
        .iter()
        .map(|(_, written)| (filter.extract)(written, &options))
        .collect();
    for (name, expected) in expected {
        let metric = MetricName::find(name).unwrap();
        let answered = items
            .iter()
            .zip(&extracted)
            .map(|((gold, written), answer)| Answered {
                options: &options,
                gold,
                answer: answer.as_deref(),
                written,
                ..Answered::default()
            });
        let score = Marks::new(&metric, answered).score();
        assert!(
            (score - expected).abs() < 0.0005,
            "{name}: {score}, documented {expected}"
        );
    }
}

#[test]
fn one_of_several_labels() {
    let items = [
        ("yes", "Yes, it is."),
        ("no", "It is not known."),
        ("maybe", "Maybe; no firm data."),
        ("no", "No."),
    ];
    let expected = [
        ("accuracy", 0.75),
        ("macro_f1", 0.889),
        ("weighted_f1", 0.833),
        ("micro_f1", 0.857),
        ("paper_accuracy", 0.75),
        ("paper_macro_f1", 0.6),
        ("paper_weighted_f1", 0.65),
        ("paper_missing", 0.0),
    ];
    check("label", &["yes", "no", "maybe"], &items, &expected);
}

#[test]
fn a_letter() {
    let options = ["A", "B", "C", "D"];
    let items = [("B", "The Answer is B."), ("A", "Could be anything.")];
    let expected = [
        ("accuracy", 0.5),
        ("paper_accuracy", 0.0),
        ("paper_missing", 0.0),
    ];
    check("letter", &options, &items, &expected);
}

#[test]
fn a_label_that_must_stand_alone() {
    let options = [
        "DDI-effect",
        "DDI-mechanism",
        "DDI-advise",
        "DDI-false",
        "DDI-int",
    ];
    let items = [
        ("DDI-effect", "DDI-effect"),
        ("DDI-int", "DDI-int, not DDI-effect"),
        ("DDI-false", "ddi-false"),
    ];
    let expected = [
        ("accuracy", 1.0),
        ("macro_f1", 1.0),
        ("paper_one_label_accuracy", 0.333),
        ("paper_one_label_macro_f1", 0.333),
        ("paper_one_label_weighted_f1", 0.333),
        ("paper_one_label_missing", 0.667),
    ];
    check("label", &options, &items, &expected);
}

#[test]
fn several_labels() {
    let options = [
        "cellular energetics",
        "resisting cell death",
        "inducing angiogenesis",
    ];
    let items = [(
        "cellular energetics; resisting cell death",
        "Cellular energetics; resisting cell death",
    )];
    let expected = [
        ("multi_label_f1", 0.667),
        ("multi_label_micro_f1", 1.0),
        ("multi_label_example_f1", 1.0),
        ("paper_multi_label_f1", 0.333),
    ];
    check("labels", &options, &items, &expected);
}

#[test]
fn a_span_of_the_text() {
    let items = [("Aspirin 81 mg daily", "aspirin 81 mg")];
    let expected = [
        ("exact_match", 0.0),
        ("token_f1", 0.857),
        ("paper_emrqa_exact_match", 0.0),
        ("paper_emrqa_f1", 0.741),
    ];
    check("strip", &[], &items, &expected);
    let expected = [("token_f1", 1.0), ("paper_emrqa_f1", 0.857)];
    check("strip", &[], &[("aspirin", "aspirin")], &expected);
}

#[test]
fn a_number() {
    let items = [("9 + 9 = 18\n#### 18", "That makes $18.00.")];
    check("number", &[], &items, &[("number_match", 1.0)]);
}

#[test]
fn entities() {
    let gold = r#"Denies <span class="problem">severe chest pain</span>; on <span class="treatment">aspirin</span>."#;
    let answer = r#"Patient denies severe <span class="problem">chest pain</span>; on <span class="treatment">aspirin</span>."#;
    let expected = [
        ("entity_f1", 0.5),
        ("entity_macro_f1", 0.5),
        ("entity_partial_f1", 0.75),
        ("entity_partial_macro_f1", 0.75),
        ("altered_text", 1.0),
        ("paper_ner_f1", 0.0),
    ];
    check("spans", &[], &[(gold, answer)], &expected);
}

#[test]
fn a_summary() {
    let items = [(
        "No acute effusions.\nHeart size is normal.",
        "heart size normal\nno acute effusion",
    )];
    let expected = [
        ("rouge_1", 0.769),
        ("rouge_2", 0.364),
        ("rouge_l", 0.462),
        ("rouge_lsum", 0.769),
        ("rouge_1_stemmed", 0.923),
        ("rouge_2_stemmed", 0.545),
        ("rouge_l_stemmed", 0.462),
        ("rouge_lsum_stemmed", 0.923),
        ("paper_rouge_1", 0.769),
        ("paper_rouge_2", 0.364),
        ("paper_rouge_l", 0.462),
    ];
    check("strip", &[], &items, &expected);
}
