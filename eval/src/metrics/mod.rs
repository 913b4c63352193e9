//! How answers are marked.
//!
//! Every metric here is a function of sums over items: an item adds three numbers to each class
//! that it touches ([`Tally`]), and the score is computed from the classes' totals. That one shape
//! serves means, F1 in all its averages and pooled entity counts, and makes a bootstrap resample a
//! matter of additions. Definitions are scikit-learn's, SQuAD's, seqeval's and rouge_score's, held
//! to theirs by the golden files in `tests/golden/`.

mod accuracy;
mod entity_f1;
mod exact_match;
mod f1;
mod multi_label_f1;
mod ranked;
mod rouge_l;
mod token_f1;

pub(crate) use multi_label_f1::{join_labels, labels_of};

use crate::registry::{self, Named};

/// Three sums for one class: for F1 metrics true positives, false positives and false negatives;
/// for means the summed value, the count, and zero.
pub type Tally = [f64; 3];

/// An item with its answer, as a metric sees it.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The item's options, empty for a free answer.
    pub options: &'a [String],
    /// The right answer: an option's text, a `;`-separated list, marked-up or free text.
    pub gold: &'a str,
    /// The answer that was extracted; `None` where nothing could be.
    pub answer: Option<&'a str>,
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
}

/// One entry of the registry.
#[derive(Debug)]
pub struct Metric {
    /// Its name in task files and reports.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What it can be computed on.
    pub needs: Needs,
    /// What one item adds, by class.
    pub mark: fn(&Answered<'_>) -> Vec<(String, Tally)>,
    /// The score from the totals of all classes; higher is better for all of them.
    pub score: fn(&[Tally]) -> f64,
}

/// Every metric that a task can name. The order is that of the documentation.
pub const METRICS: &[Metric] = &[
    accuracy::ACCURACY,
    f1::MACRO_F1,
    f1::WEIGHTED_F1,
    f1::MICRO_F1,
    multi_label_f1::MULTI_LABEL_F1,
    exact_match::EXACT_MATCH,
    token_f1::TOKEN_F1,
    entity_f1::ENTITY_F1,
    entity_f1::ENTITY_MACRO_F1,
    rouge_l::ROUGE_L,
    ranked::TOP_1,
    ranked::TOP_3,
    ranked::TOP_5,
];

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

    /// The marks of the items with these indices.
    pub fn of_items(&self, items: &[usize]) -> Marks {
        Marks {
            classes: self.classes.clone(),
            items: items.iter().map(|&item| self.items[item].clone()).collect(),
            score: self.score,
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
