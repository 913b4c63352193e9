//! HoC: every option that is a part of the text, case-sensitively; macro F1 over the options'
//! columns, as scikit-learn computes it on indicator matrices.

use super::super::multi_label_f1::{labels_of, mean_f1_of_all};
use super::super::{Answered, Metric, Needs, Tally};
use super::metric;

pub(in super::super) const MACRO_F1: Metric = metric(
    "paper_multi_label_f1",
    "as released (HoC): macro F1 over options, each searched in the text case-sensitively",
    Needs::Labels,
    mark,
    mean_f1_of_all,
);

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    item.options
        .iter()
        .enumerate()
        .map(|(index, option)| {
            let gold = labels_of(item.gold).any(|label| label == option);
            let answer = item.written.contains(option.as_str());
            let tally = [gold && answer, answer && !gold, gold && !answer].map(f64::from);
            (index.to_string(), tally)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::Marks;
    use super::*;

    #[test]
    fn a_capital_hides_a_label() {
        let options = ["cellular energetics", "resisting cell death"].map(String::from);
        let item = Answered {
            options: &options,
            gold: "cellular energetics; resisting cell death",
            written: "Cellular energetics; not resisting cell death",
            ..Answered::default()
        };
        assert_eq!(Marks::new(&MACRO_F1, [item].into_iter()).score(), 0.5);
    }
}
