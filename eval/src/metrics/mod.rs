//! How answers are marked.
//!
//! Two families stand side by side. *Corrected* metrics read the extracted answer and are
//! scikit-learn's, SQuAD's, seqeval's, nervaluate's, rouge_score's and bert_score's definitions.
//! *Paper-compatible* metrics, all named `paper_..`, repeat what the released Me-LLaMA scorer does,
//! its own parser and defects included, on the raw text: they are for checking published numbers.
//! The golden files in `tests/golden/` hold both to their references; docs/metrics.md describes them.
//!
//! Every metric here is a function of sums over items: an item adds three numbers to each class
//! that it touches ([`Tally`]), and the score is computed from the classes' totals. That one shape
//! serves means, F1 in all its averages, pooled entity counts, calibration bins and perplexity, and
//! makes a bootstrap resample a matter of additions. What needs all items at once, such as
//! BERTScore's inverse document frequencies, is computed before and marked item by item.

mod accuracy;
mod altered_text;
pub mod bert_score;
mod calibration;
mod entity_f1;
mod entity_partial_f1;
mod exact_match;
mod f1;
mod markup;
mod mc2;
mod multi_label_f1;
mod number_match;
mod paper;
mod perplexity;
mod porter;
mod ranked;
mod rouge_l;
mod rouge_lsum;
mod rouge_n;
mod rouge_words;
mod token_f1;

pub(crate) use multi_label_f1::{join_labels, labels_of};
pub(crate) use ranked::candidates;

use crate::model::OptionScore;
use crate::registry::{self, Named};
use bert_score::BertScore;
use serde::{Deserialize, Serialize};

/// Three sums for one class: for F1 metrics true positives, false positives and false negatives;
/// for means the summed value, the count, and zero.
pub type Tally = [f64; 3];

/// An item with its answer, as a metric sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answered<'a> {
    /// The item's options, empty for a free answer.
    pub options: &'a [String],
    /// The right answer: an option's text, a `;`-separated list, marked-up or free text.
    pub gold: &'a str,
    /// The answer that was extracted; `None` where nothing could be. What corrected metrics read.
    pub answer: Option<&'a str>,
    /// What the model wrote, untouched; empty where options were scored. What paper-compatible
    /// metrics read.
    pub written: &'a str,
    /// How likely each option was, in the options' order; empty where text was generated.
    pub option_scores: &'a [OptionScore],
    /// The answer's BERTScore; `None` where it was not computed.
    pub bert_score: Option<BertScore>,
    /// What a judge said of each candidate of a ranked answer, best first, as far as it was asked;
    /// `None` where it gave no verdict.
    pub judged: &'a [Option<bool>],
}

impl Answered<'_> {
    fn option_index(&self, text: &str) -> Option<usize> {
        self.options.iter().position(|option| option == text)
    }
}

/// What a metric can be computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anything that has a gold answer.
    Text,
    /// A single choice among options.
    Choice,
    /// A free answer that names any number of the options.
    Labels,
    /// A gold text with `<span class="..">` mark-up and a free answer.
    Spans,
    /// How likely each option was.
    OptionScores,
    /// How likely each option was, any number of which is right: gold lists them between `;`.
    TrueOptions,
    /// How likely the gold answer was, whether or not it is one of several options.
    GoldScore,
    /// A generated answer, and embeddings of its tokens and the gold text's.
    Embeddings,
    /// A judge's verdicts on this many candidates of a generated answer.
    Verdicts(usize),
}

/// Whose definition a metric follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The field's definition, on the answer that the task's filter extracts.
    Corrected,
    /// What the released Me-LLaMA scorer computes, parser and defects included, on the raw text.
    PaperCompatible,
}

impl Family {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Family::Corrected => "corrected",
            Family::PaperCompatible => "paper-compatible",
        }
    }
}

/// One entry of the registry.
#[derive(Debug)]
pub struct Metric {
    /// Its name in task files and reports; `paper_..` if and only if it is paper-compatible.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What it can be computed on.
    pub needs: Needs,
    /// Whose definition it follows.
    pub family: Family,
    /// Whether a higher score is a better one; perplexity and errors are better low.
    pub higher_is_better: bool,
    /// What one item adds, by class.
    pub mark: fn(&Answered<'_>) -> Vec<(String, Tally)>,
    /// The score from the totals of all classes.
    pub score: fn(&[Tally]) -> f64,
}

impl Metric {
    /// Whether it can mark only what a model wrote, and no choice by log-likelihood.
    pub fn needs_generation(&self) -> bool {
        let by_need = matches!(
            self.needs,
            Needs::Labels | Needs::Spans | Needs::Embeddings | Needs::Verdicts(_)
        );
        by_need || self.family == Family::PaperCompatible
    }

    /// Whether it can mark only a choice by log-likelihood.
    pub fn needs_option_scores(&self) -> bool {
        matches!(
            self.needs,
            Needs::OptionScores | Needs::TrueOptions | Needs::GoldScore
        )
    }

    /// Whether it reads a judge's verdicts.
    pub fn is_judged(&self) -> bool {
        self.judged_candidates().is_some()
    }

    /// Of how many candidates of an answer; `None` for metrics that need no judge.
    pub fn judged_candidates(&self) -> Option<usize> {
        match self.needs {
            Needs::Verdicts(first) => Some(first),
            _ => None,
        }
    }
}

/// Every metric that a task can name. The order is that of the documentation.
pub const METRICS: &[Metric] = &[
    accuracy::ACCURACY,
    f1::MACRO_F1,
    f1::WEIGHTED_F1,
    f1::MICRO_F1,
    multi_label_f1::MULTI_LABEL_F1,
    multi_label_f1::MULTI_LABEL_MICRO_F1,
    multi_label_f1::MULTI_LABEL_EXAMPLE_F1,
    exact_match::EXACT_MATCH,
    token_f1::TOKEN_F1,
    number_match::NUMBER_MATCH,
    entity_f1::ENTITY_F1,
    entity_f1::ENTITY_MACRO_F1,
    entity_partial_f1::ENTITY_PARTIAL_F1,
    entity_partial_f1::ENTITY_PARTIAL_MACRO_F1,
    altered_text::ALTERED_TEXT,
    rouge_n::ROUGE_1,
    rouge_n::ROUGE_2,
    rouge_l::ROUGE_L,
    rouge_lsum::ROUGE_LSUM,
    rouge_n::ROUGE_1_STEMMED,
    rouge_n::ROUGE_2_STEMMED,
    rouge_l::ROUGE_L_STEMMED,
    rouge_lsum::ROUGE_LSUM_STEMMED,
    bert_score::BERT_SCORE,
    bert_score::BERT_SCORE_PRECISION,
    bert_score::BERT_SCORE_RECALL,
    perplexity::TOKEN_PERPLEXITY,
    perplexity::WORD_PERPLEXITY,
    perplexity::BYTE_PERPLEXITY,
    calibration::ECE_10,
    calibration::ECE_15,
    calibration::BRIER,
    mc2::MC2,
    paper::label::ACCURACY,
    paper::label::MACRO_F1,
    paper::label::WEIGHTED_F1,
    paper::label::MISSING,
    paper::one_label::ACCURACY,
    paper::one_label::MACRO_F1,
    paper::one_label::WEIGHTED_F1,
    paper::one_label::MISSING,
    paper::multi_label::MACRO_F1,
    paper::emrqa::EXACT_MATCH,
    paper::emrqa::F1,
    paper::ner::F1,
    paper::rouge::ROUGE_1,
    paper::rouge::ROUGE_2,
    paper::rouge::ROUGE_L,
    ranked::TOP_1,
    ranked::TOP_3,
    ranked::TOP_5,
    ranked::JUDGED_TOP_1,
    ranked::JUDGED_TOP_3,
    ranked::JUDGED_TOP_5,
];

/// What every task with marked-up answers reports beside its scores.
pub(crate) const ALTERED_TEXT: &Metric = &altered_text::ALTERED_TEXT;

impl Named for Metric {
    const KIND: &'static str = "metric";
    const ALL: &'static [Metric] = METRICS;
    fn name(&self) -> &'static str {
        self.name
    }
}

/// A metric named in a task file.
pub type MetricName = registry::Name<Metric>;

/// Marks of all items of a task under one metric, with class names replaced by numbers.
#[derive(Debug, Clone)]
pub struct Marks {
    /// Class names, in the order in which they were first met.
    pub classes: Vec<String>,
    /// For each item, what it adds to which class.
    pub items: Vec<Vec<(usize, Tally)>>,
    score: fn(&[Tally]) -> f64,
}

impl Marks {
    /// Marks every item.
    pub fn new<'a>(metric: &Metric, answered: impl Iterator<Item = Answered<'a>>) -> Marks {
        let mut classes: Vec<String> = Vec::new();
        let mut items = Vec::new();
        for item in answered {
            let mut marks = Vec::new();
            for (class, tally) in (metric.mark)(&item) {
                let index = classes
                    .iter()
                    .position(|known| *known == class)
                    .unwrap_or_else(|| {
                        classes.push(class);
                        classes.len() - 1
                    });
                marks.push((index, tally));
            }
            items.push(marks);
        }
        Marks {
            classes,
            items,
            score: metric.score,
        }
    }

    /// The score over the items with these indices, which may repeat.
    pub fn score_of(&self, items: impl Iterator<Item = usize>) -> f64 {
        (self.score)(&self.totals_of(items))
    }

    /// The score over all items.
    pub fn score(&self) -> f64 {
        self.score_of(0..self.items.len())
    }

    fn totals_of(&self, items: impl Iterator<Item = usize>) -> Vec<Tally> {
        let mut totals = vec![[0.0; 3]; self.classes.len()];
        for item in items {
            for (class, tally) in &self.items[item] {
                for (total, value) in totals[*class].iter_mut().zip(tally) {
                    *total += value;
                }
            }
        }
        totals
    }
}

/// One class whose tally is a value to average.
fn one_value(value: f64) -> Vec<(String, Tally)> {
    vec![(String::new(), [value, 1.0, 0.0])]
}

/// Mean of the values; zero where there are none.
fn mean(totals: &[Tally]) -> f64 {
    let sum: f64 = totals.iter().map(|t| t[0]).sum();
    let count: f64 = totals.iter().map(|t| t[1]).sum();
    if count == 0.0 { 0.0 } else { sum / count }
}

/// 2 tp / (2 tp + fp + fn), zero where that is 0/0 (scikit-learn's `zero_division=0`).
fn f1(tally: &Tally) -> f64 {
    let [tp, fp, fn_] = *tally;
    let denominator = 2.0 * tp + fp + fn_;
    if denominator == 0.0 {
        0.0
    } else {
        2.0 * tp / denominator
    }
}

/// F1 of the pooled counts.
fn pooled_f1(totals: &[Tally]) -> f64 {
    let mut sum = [0.0; 3];
    for tally in totals {
        for (total, value) in sum.iter_mut().zip(tally) {
            *total += value;
        }
    }
    f1(&sum)
}

/// Mean of F1 over the classes, each weighted by how often it is gold.
fn weighted_f1(totals: &[Tally]) -> f64 {
    let support = |t: &Tally| t[0] + t[2];
    let all: f64 = totals.iter().map(support).sum();
    if all == 0.0 {
        return 0.0;
    }
    totals.iter().map(|t| f1(t) * support(t)).sum::<f64>() / all
}

/// Unweighted mean of F1 over the classes that occur: as gold, or as an extracted answer.
///
/// scikit-learn's default label set. A class that is neither asked for nor answered says nothing
/// about the model, so it must not pull the mean to zero; a class that is only ever answered
/// wrongly does say something and counts as zero.
fn mean_f1_of_seen(totals: &[Tally]) -> f64 {
    let seen: Vec<f64> = totals
        .iter()
        .filter(|t| t.iter().any(|count| *count > 0.0))
        .map(f1)
        .collect();
    if seen.is_empty() {
        0.0
    } else {
        seen.iter().sum::<f64>() / seen.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tell_the_family() {
        for (index, metric) in METRICS.iter().enumerate() {
            let paper = metric.family == Family::PaperCompatible;
            assert_eq!(metric.name.starts_with("paper_"), paper, "{}", metric.name);
            let earlier = &METRICS[..index];
            assert!(
                earlier.iter().all(|m| m.name != metric.name),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn no_items_and_empty_items_give_a_number_or_infinity() {
        for metric in METRICS {
            let none = Marks::new(metric, std::iter::empty()).score();
            let empty = Marks::new(metric, [Answered::default()].into_iter()).score();
            assert!(!none.is_nan() && !empty.is_nan(), "{}", metric.name);
        }
    }
}
