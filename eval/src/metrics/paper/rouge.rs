//! PubMed summarization and MIMIC-CXR: ROUGE of the text as it stands, without stemming.
//!
//! The scorer reports the median of 1,000 unseeded bootstrap resamples (Hugging Face `evaluate`'s
//! aggregation), which differs from the mean given here by less than its own noise from run to run.

use super::super::rouge_l::rouge_l;
use super::super::rouge_n::rouge_n;
use super::super::rouge_words::plain;
use super::super::{Metric, Needs};
use super::{mean, metric, one_value};

pub(in super::super) const ROUGE_1: Metric = metric(
    "paper_rouge_1",
    "as released: rouge_1 of the raw text",
    Needs::Text,
    |item| one_value(rouge_n::<1>(item.gold, item.written, plain)),
    mean,
);

pub(in super::super) const ROUGE_2: Metric = metric(
    "paper_rouge_2",
    "as released: rouge_2 of the raw text",
    Needs::Text,
    |item| one_value(rouge_n::<2>(item.gold, item.written, plain)),
    mean,
);

pub(in super::super) const ROUGE_L: Metric = metric(
    "paper_rouge_l",
    "as released: rouge_l of the raw text",
    Needs::Text,
    |item| one_value(rouge_l(item.gold, item.written, plain)),
    mean,
);
