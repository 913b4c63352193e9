//! Share of answers that are the gold number (GSM8K).
//!
//! Both texts are read as the [`number`](crate::filters) filter reads one: the number after `####`
//! if there is one, else the last; `$` and thousands separators don't count, and neither do zeros
//! after the last digit of a fraction. So GSM8K's own worked solution can be the gold answer.

use super::{Answered, Family, Metric, Needs, Tally, mean, one_value};
use crate::filters::number_in;

pub(super) const NUMBER_MATCH: Metric = Metric {
    name: "number_match",
    about: "share of answers whose final number is the gold answer's",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark,
    score: mean,
};

fn mark(item: &Answered<'_>) -> Vec<(String, Tally)> {
    let answer = item.answer.and_then(number_in);
    let same = answer.is_some() && answer == number_in(item.gold);
    one_value(f64::from(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_values_not_writing() {
        let same = |gold, answer| {
            mark(&Answered {
                gold,
                answer,
                ..Answered::default()
            })[0]
                .1[0]
        };
        assert_eq!(same("2 + 2 = 4\n#### 1,004", Some("$1004.00")), 1.0);
        assert_eq!(same("55", Some("5.5")), 0.0);
        assert_eq!(same("none", Some("none")), 0.0);
        assert_eq!(same("5", None), 0.0);
    }
}
