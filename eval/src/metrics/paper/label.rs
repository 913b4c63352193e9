//! PubMedQA, MedQA, MedMCQA, MTSample, BioNLI, MedNLI: the first option *of the list* that is a part
//! of the text, anywhere, even inside a word ("no" in "not known"), else "missing".
//!
//! Text and options are lower-cased, except where every option is a single letter (MedQA, MedMCQA),
//! which are looked for as capitals ("A" in "Answer"). F1 is scikit-learn's over the labels that
//! occur as gold.

use super::super::{Answered, Metric, Needs};
use super::{Parsed, mean, mean_f1_of_gold, metric, weighted_f1};

pub(in super::super) const ACCURACY: Metric = metric(
    "paper_accuracy",
    "as released: accuracy of the first option of the list that is a part of the text",
    Needs::Choice,
    |item| parse(item).accuracy(),
    mean,
);

pub(in super::super) const MACRO_F1: Metric = metric(
    "paper_macro_f1",
    "as released: macro F1 over gold labels, answers read as in paper_accuracy",
    Needs::Choice,
    |item| parse(item).counts(),
    mean_f1_of_gold,
);

pub(in super::super) const WEIGHTED_F1: Metric = metric(
    "paper_weighted_f1",
    "as released: weighted F1 over gold labels, answers read as in paper_accuracy",
    Needs::Choice,
    |item| parse(item).counts(),
    weighted_f1,
);

pub(in super::super) const MISSING: Metric = Metric {
    higher_is_better: false,
    ..metric(
        "paper_missing",
        "as released: share of texts that have none of the options in them; lower is better",
        Needs::Choice,
        |item| parse(item).missing(),
        mean,
    )
};

fn parse(item: &Answered<'_>) -> Parsed {
    let letters = item
        .options
        .iter()
        .all(|option| option.chars().count() == 1);
    let folded = |text: &str| match letters {
        true => text.to_owned(),
        false => text.to_lowercase(),
    };
    let text = folded(item.written);
    Parsed {
        gold: folded(item.gold),
        answer: item
            .options
            .iter()
            .map(|option| folded(option))
            .find(|option| text.contains(option))
            .unwrap_or_else(|| super::MISSING.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Marks;
    use super::*;

    fn accuracy(options: &[&str], gold: &str, written: &str) -> f64 {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let item = Answered {
            options: &options,
            gold,
            written,
            ..Answered::default()
        };
        Marks::new(&ACCURACY, [item].into_iter()).score()
    }

    #[test]
    fn the_list_breaks_ties_and_words_do_not_matter() {
        let options = ["yes", "no", "maybe"];
        assert_eq!(accuracy(&options, "yes", "No. Well, YES."), 1.0);
        assert_eq!(accuracy(&options, "no", "It is not known"), 1.0);
        assert_eq!(accuracy(&options, "no", "unclear"), 0.0);
    }

    #[test]
    fn letters_are_capitals_anywhere() {
        let options = ["A", "B", "C", "D"];
        assert_eq!(accuracy(&options, "A", "The Answer is B"), 1.0);
        assert_eq!(accuracy(&options, "B", "answer: B"), 1.0);
        assert_eq!(accuracy(&options, "A", "a"), 0.0);
    }
}
