//! Share of marked-up answers whose text is not the source's.
//!
//! Marking up must not change the text. Words and signs are compared, so white space is free; an
//! answer that could not be extracted is not counted here. Entity metrics align what was altered,
//! and this says how often they had to.

use super::markup::parse;
use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};

pub(super) const ALTERED_TEXT: Metric = Metric {
    name: "altered_text",
    about: "share of marked-up answers whose words are not the source text's; lower is better",
    needs: Needs::Spans,
    family: Family::Corrected,
    higher_is_better: false,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let altered = |answer| f64::from(parse(answer).words != parse(item.gold).words);
    item.answer
        .map_or(Vec::new(), |answer| one_value(altered(answer)))
}

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;

    #[test]
    fn markup_and_white_space_are_free() {
        let gold = r#"On <span class="treatment">aspirin</span>."#;
        let answers = [
            Some("On  aspirin ."),
            Some(r#"<span class="test">On</span> aspirin."#),
            Some("On aspirin"),
            None,
        ];
        let items = answers.map(|answer| Answered {
            gold,
            answer,
            ..Answered::default()
        });
        assert_eq!(
            Marks::new(&ALTERED_TEXT, items.into_iter()).score(),
            1.0 / 3.0
        );
    }
}
