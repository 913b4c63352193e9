//! ROUGE-L (Lin 2004) as the `rouge_score` package computes it: F-measure of the longest common
//! subsequence of words, line breaks being ordinary white space.

use super::rouge_words::{Words, common_subsequence, f_measure, of_answer, plain, stemmed};
use super::{Answered, Family, Metric, Needs, mean};

pub(super) const ROUGE_L: Metric = Metric {
    name: "rouge_l",
    about: "mean F-measure of the longest common subsequence of words with the gold text",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item: &Answered<'_>| of_answer(item, plain, rouge_l),
    score: mean,
};

pub(super) const ROUGE_L_STEMMED: Metric = Metric {
    name: "rouge_l_stemmed",
    about: "rouge_l of word stems (Porter)",
    needs: Needs::Text,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item: &Answered<'_>| of_answer(item, stemmed, rouge_l),
    score: mean,
};

pub(super) fn rouge_l(gold: &str, answer: &str, words: Words) -> f64 {
    let (gold, answer) = (words(gold), words(answer));
    f_measure(common_subsequence(&gold, &answer), gold.len(), answer.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_order_of_words() {
        let score = |gold, answer| rouge_l(gold, answer, plain);
        // "the quick fox" within "the fox, quick": LCS 2 of 3 and 3.
        assert!((score("the quick fox", "The fox, QUICK") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(score("no acute disease", "no acute disease."), 1.0);
        assert_eq!(score("", "anything"), 0.0);
        assert_eq!(score("été", "--"), 0.0);
    }

    #[test]
    fn stems_are_compared_where_asked() {
        assert_eq!(
            rouge_l("effusions resolved", "effusion resolves", plain),
            0.0
        );
        assert_eq!(
            rouge_l("effusions resolved", "effusion resolves", stemmed),
            1.0
        );
    }
}
