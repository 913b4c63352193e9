//! Scores that other papers report, to stand beside a run's own.
//!
//! They are data (`data/published.toml`), never computed with, and shown only where a task's items
//! are the published set's, all of them asked: a score on other items is another score.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The published set that a task's items are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedSet {
    /// The dataset, as papers call it.
    pub dataset: String,
    /// Which of its splits: `test`, or `validation` where that is what papers test on.
    pub split: String,
    /// How many items the published split has. With fewer asked, no published score stands beside
    /// the run's.
    pub items: usize,
}

/// One score that somebody else reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Published {
    /// The dataset.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// The metric, as the paper calls it.
    pub metric: String,
    /// The model.
    pub model: String,
    /// The score, from 0 to 1.
    pub value: f64,
    /// `zero-shot`, `few-shot` or `supervised`.
    pub setting: String,
    /// Where it is printed.
    pub source: String,
    /// Who measured it.
    pub by: String,
}

/// The scores that others report on this split of this dataset under what a metric here measures:
/// `published("PubMedQA", "accuracy", "test")`. In the order of the file.
pub fn published(dataset: &str, metric: &str, split: &str) -> Vec<Published> {
    let mut found = Vec::new();
    for table in &FILE.table {
        let same = |row: &&Row| {
            row.dataset == dataset && row.split == split && row.beside.iter().any(|m| m == metric)
        };
        for row in table.row.iter().filter(same) {
            for (model, &value) in table.models.iter().zip(&row.values) {
                if value.is_nan() {
                    continue;
                }
                found.push(Published {
                    dataset: row.dataset.clone(),
                    split: row.split.clone(),
                    metric: row.metric.clone(),
                    model: model.clone(),
                    value,
                    setting: table.setting.clone(),
                    source: table.source.clone(),
                    by: table.by.clone(),
                });
            }
        }
    }
    found
}

impl PublishedSet {
    /// The published scores that may stand beside a task's, of which `asked` items were asked.
    pub fn scores(&self, metric: &str, asked: usize) -> Vec<Published> {
        match asked == self.items {
            true => published(&self.dataset, metric, &self.split),
            false => Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    table: Vec<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    source: String,
    by: String,
    setting: String,
    models: Vec<String>,
    row: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    dataset: String,
    split: String,
    metric: String,
    beside: Vec<String>,
    values: Vec<f64>,
}

static FILE: LazyLock<File> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/published.toml")).expect("data/published.toml is right")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_value_for_each_model() {
        for table in &FILE.table {
            for row in &table.row {
                assert_eq!(
                    row.values.len(),
                    table.models.len(),
                    "{} {}",
                    row.dataset,
                    row.metric
                );
                assert!(
                    row.values
                        .iter()
                        .all(|v| v.is_nan() || (0.0..=1.0).contains(v)),
                    "{} {}",
                    row.dataset,
                    row.metric
                );
            }
        }
        let rows: usize = FILE.table.iter().map(|table| table.row.len()).sum();
        assert_eq!(rows, 18 + 7);
    }

    #[test]
    fn scores_are_found_by_dataset_metric_and_split() {
        let value = |dataset, metric, split, model: &str| {
            let rows = published(dataset, metric, split);
            rows.into_iter()
                .find(|row| row.model == model)
                .map(|row| row.value)
        };
        let chat = "Me-LLaMA-70B-chat";
        assert_eq!(value("PubMedQA", "accuracy", "test", chat), Some(0.768));
        assert_eq!(
            value("PubMedQA", "paper_macro_f1", "test", chat),
            Some(0.557)
        );
        assert_eq!(value("HoC", "multi_label_f1", "test", "GPT-4"), Some(0.602));
        assert_eq!(
            value("MedMCQA", "accuracy", "validation", "GPT-3.5-turbo-1106"),
            None
        );
        assert_eq!(value("MedMCQA", "accuracy", "test", chat), None);
        assert_eq!(value("PubMedQA", "rouge_l", "test", chat), None);
    }

    #[test]
    fn a_part_of_a_set_is_another_set() {
        let set = PublishedSet {
            dataset: "PubMedQA".into(),
            split: "test".into(),
            items: 500,
        };
        assert_eq!(set.scores("accuracy", 500).len(), 8 + 9);
        assert_eq!(set.scores("accuracy", 100), []);
    }
}
