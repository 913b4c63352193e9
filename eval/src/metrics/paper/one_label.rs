//! DDI: the option that is a part of the text, if exactly one is; "missing" if none or several are.
//! Case counts. F1 is scikit-learn's over the labels that occur as gold.

use super::super::{Answered, Metric, Needs};
use super::{Parsed, mean, mean_f1_of_gold, metric, weighted_f1};

pub(in super::super) const ACCURACY: Metric = metric(
    "paper_one_label_accuracy",
    "as released (DDI): accuracy of the option in the text, where exactly one is",
    Needs::Choice,
    |item| parse(item).accuracy(),
    mean,
);

pub(in super::super) const MACRO_F1: Metric = metric(
    "paper_one_label_macro_f1",
    "as released (DDI): macro F1 over gold labels, where exactly one option is in the text",
    Needs::Choice,
    |item| parse(item).counts(),
    mean_f1_of_gold,
);

pub(in super::super) const WEIGHTED_F1: Metric = metric(
    "paper_one_label_weighted_f1",
    "as released (DDI): weighted F1 over gold labels, where exactly one option is in the text",
    Needs::Choice,
    |item| parse(item).counts(),
    weighted_f1,
);

pub(in super::super) const MISSING: Metric = Metric {
    higher_is_better: false,
    ..metric(
        "paper_one_label_missing",
        "as released (DDI): share of texts with none or several of the options; lower is better",
        Needs::Choice,
        |item| parse(item).missing(),
        mean,
    )
};

fn parse(item: &Answered<'_>) -> Parsed {
    let mut found = item
        .options
        .iter()
        .filter(|option| item.written.contains(option.as_str()));
    let answer = match (found.next(), found.next()) {
        (Some(only), None) => only,
        _ => super::MISSING,
    };
    Parsed {
        gold: item.gold.to_owned(),
        answer: answer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Marks;
    use super::*;

    #[test]
    fn several_labels_are_none() {
        let options = ["DDI-effect", "DDI-int"].map(String::from);
        let missing = |written| {
            let item = Answered {
                options: &options,
                gold: "DDI-int",
                written,
                ..Answered::default()
            };
            Marks::new(&MISSING, [item].into_iter()).score()
        };
        assert_eq!(missing("It is DDI-int."), 0.0);
        assert_eq!(missing("DDI-int, not DDI-effect"), 1.0);
        assert_eq!(missing("ddi-int"), 1.0);
    }
}
