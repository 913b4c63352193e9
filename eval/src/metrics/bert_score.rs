//! BERTScore (Zhang et al. 2020): how well the answer's tokens match the gold text's by meaning.
//!
//! As the `bert_score` package computes it: tokens are matched greedily by cosine similarity of
//! their embeddings; precision is the mean over the answer's tokens of their best match in the gold
//! text, recall the same the other way round, and F1 their harmonic mean. Special tokens can be
//! matched but have no weight of their own. With inverse document frequencies a token weighs
//! ln((N + 1) / (n + 1)), where n of the N gold texts have it. Rescaling maps each value x to
//! (x - b) / (1 - b), b being what unrelated texts of the language score. A text without ordinary
//! tokens, or an answer that could not be extracted, scores 0 before rescaling.
//!
//! One difference: the package pads a batch with zeros that take part in the matching, so there a
//! token whose best similarity is negative may count as 0, depending on the batch. Not here.
//!
//! The frequencies need all gold texts, and embeddings another model, so [`BertScorer::score`] runs
//! over all items first and the metric marks its values; resamples keep the frequencies.

mod baseline;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Answered, Family, Metric, Needs, mean, one_value};
use crate::ModelError;

pub use baseline::{Baseline, BaselineProblem};

pub(super) const BERT_SCORE: Metric = Metric {
    name: "bert_score",
    about: "mean BERTScore F1: greedy matching of token embeddings with the gold text's",
    needs: Needs::Embeddings,
    family: Family::Corrected,
    higher_is_better: true,
    mark: |item| one_value(of(item).f1),
    score: mean,
};

pub(super) const BERT_SCORE_PRECISION: Metric = Metric {
    name: "bert_score_precision",
    about: "mean BERTScore precision: how well the answer's tokens are matched",
    mark: |item| one_value(of(item).precision),
    ..BERT_SCORE
};

pub(super) const BERT_SCORE_RECALL: Metric = Metric {
    name: "bert_score_recall",
    about: "mean BERTScore recall: how well the gold text's tokens are matched",
    mark: |item| one_value(of(item).recall),
    ..BERT_SCORE
};

fn of(item: &Answered<'_>) -> BertScore {
    item.bert_score.unwrap_or_default()
}

/// A text's tokens as an encoder sees them, at one of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEmbeddings {
    /// Vocabulary ids, special tokens included. (T)
    pub ids: Vec<u32>,
    /// Which of them the tokenizer added around the text (`[CLS]`, `[SEP]`). (T)
    pub special: Vec<bool>,
    /// Their vectors, row by row; any length but zero. (T, D)
    pub vectors: Vec<f32>,
    /// How many more tokens the text has, which did not fit.
    pub cut_tokens: usize,
}

/// An encoder for BERTScore.
pub trait Embedder {
    /// What to call it in reports: the model and the layer, as in `roberta-large_L17`.
    fn name(&self) -> &str;

    /// SHA-256 of what its vectors depend on.
    fn sha256(&self) -> &str;

    /// Most tokens of a text, special ones included.
    fn max_tokens(&self) -> usize;

    /// Embeds every text, in the order given. What doesn't fit the encoder is cut at its end, as
    /// the `bert_score` package does.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError>;

    /// The ids that [`embed`](Self::embed) would give, for counting frequencies. An implementer
    /// that can tokenize without embedding should.
    fn token_ids(&mut self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        let embedded = self.embed(texts)?;
        Ok(embedded.into_iter().map(|text| text.ids).collect())
    }
}

/// The three values of a pair of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BertScore {
    /// How well the answer's tokens are matched.
    pub precision: f64,
    /// How well the gold text's tokens are matched.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

/// The values of many pairs of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BertScores {
    /// Those of each pair.
    pub scores: Vec<BertScore>,
    /// How many gold texts were longer than the encoder reads, and were cut at their end.
    pub cut_gold: usize,
    /// How many answers were.
    pub cut_answers: usize,
}

/// How a task's BERTScore was computed: values of different signatures don't compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BertScoreNote {
    /// See [`BertScorer::signature`].
    pub signature: String,
    /// SHA-256 of the encoder.
    pub encoder_sha256: String,
    /// What values were rescaled by, which the signature doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Most tokens of a text that the encoder reads.
    pub max_tokens: usize,
    /// How many gold texts are longer, and were cut at their end.
    pub cut_gold: usize,
    /// How many answers are.
    pub cut_answers: usize,
}

/// An encoder with the options of BERTScore.
pub struct BertScorer<'e> {
    /// Embeds the texts.
    pub embedder: &'e mut dyn Embedder,
    /// Whether tokens weigh by their inverse document frequency in the gold texts.
    pub idf: bool,
    /// What values are rescaled by, if they are.
    pub baseline: Option<Baseline>,
}

/// How many pairs are embedded at a time.
const BATCH: usize = 32;

impl BertScorer<'_> {
    /// Encoder, layer and options, as the package's hash has them: `roberta-large_L17_no-idf`,
    /// `roberta-large_L17_idf_rescaled`.
    pub fn signature(&self) -> String {
        let idf = if self.idf { "idf" } else { "no-idf" };
        let rescaled = self.baseline.map_or("", |_| "_rescaled");
        format!("{}_{idf}{rescaled}", self.embedder.name())
    }

    /// What a report says of the scores.
    pub fn note(&self, scores: &BertScores) -> BertScoreNote {
        BertScoreNote {
            signature: self.signature(),
            encoder_sha256: self.embedder.sha256().to_owned(),
            baseline: self.baseline,
            max_tokens: self.embedder.max_tokens(),
            cut_gold: scores.cut_gold,
            cut_answers: scores.cut_answers,
        }
    }

    /// Scores each (gold, answer). An answer of `None` counts as an empty text.
    ///
    /// # Errors
    /// The embedder's, and its output where ids, flags and vectors don't go together.
    pub fn score(&mut self, pairs: &[(&str, Option<&str>)]) -> Result<BertScores, ModelError> {
        let weights = match self.idf {
            true => Some(self.frequencies(pairs)?),
            false => None,
        };
        let mut all = BertScores::default();
        for batch in pairs.chunks(BATCH) {
            let gold: Vec<&str> = batch.iter().map(|(gold, _)| *gold).collect();
            let answers: Vec<&str> = batch.iter().filter_map(|(_, answer)| *answer).collect();
            let gold = self.embedded(&gold)?;
            let answers = self.embedded(&answers)?;
            all.cut_gold += gold.iter().filter(|text| text.cut).count();
            all.cut_answers += answers.iter().filter(|text| text.cut).count();
            let mut answers = answers.into_iter();
            for ((_, answer), gold) in batch.iter().zip(gold) {
                let answer = answer.and_then(|_| answers.next());
                let score = answer.map_or(BertScore::default(), |answer| {
                    matched(&gold, &answer, weights.as_ref())
                });
                all.scores.push(self.rescaled(score));
            }
        }
        Ok(all)
    }

    fn frequencies(&mut self, pairs: &[(&str, Option<&str>)]) -> Result<Weights, ModelError> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for batch in pairs.chunks(BATCH) {
            let gold: Vec<&str> = batch.iter().map(|(gold, _)| *gold).collect();
            let texts = self.embedder.token_ids(&gold)?;
            check(gold.len(), texts.len(), "texts")?;
            for ids in texts {
                for id in ids.into_iter().collect::<BTreeSet<u32>>() {
                    *counts.entry(id).or_default() += 1;
                }
            }
        }
        Ok(Weights {
            counts,
            texts: pairs.len(),
        })
    }

    /// Embeds texts, with vectors of length 1.
    fn embedded(&mut self, texts: &[&str]) -> Result<Vec<Embedded>, ModelError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let embedded = self.embedder.embed(texts)?;
        check(texts.len(), embedded.len(), "texts")?;
        embedded.into_iter().map(Embedded::new).collect()
    }

    fn rescaled(&self, score: BertScore) -> BertScore {
        let Some(baseline) = self.baseline else {
            return score;
        };
        let rescale = |value: f64, baseline: f64| (value - baseline) / (1.0 - baseline);
        BertScore {
            precision: rescale(score.precision, baseline.precision),
            recall: rescale(score.recall, baseline.recall),
            f1: rescale(score.f1, baseline.f1),
        }
    }
}

fn check(expected: usize, given: usize, what: &str) -> Result<(), ModelError> {
    if expected == given {
        return Ok(());
    }
    let message = format!("the embedder gave {given} {what} where {expected} were expected");
    Err(ModelError::new(message))
}

/// How much tokens weigh.
struct Weights {
    /// How many of the gold texts have a token.
    counts: BTreeMap<u32, usize>,
    /// How many gold texts there are.
    texts: usize,
}

impl Weights {
    fn of(&self, id: u32) -> f64 {
        let count = self.counts.get(&id).copied().unwrap_or(0);
        ((self.texts + 1) as f64 / (count + 1) as f64).ln()
    }
}

/// A text with vectors of length 1.
struct Embedded {
    ids: Vec<u32>,
    special: Vec<bool>,
    vectors: Vec<f32>,
    width: usize,
    cut: bool,
}

impl Embedded {
    fn new(text: TokenEmbeddings) -> Result<Self, ModelError> {
        let TokenEmbeddings {
            ids,
            special,
            mut vectors,
            cut_tokens,
        } = text;
        check(ids.len(), special.len(), "special-token flags")?;
        let width = vectors.len().checked_div(ids.len()).unwrap_or(0);
        check(ids.len() * width, vectors.len(), "vector elements")?;
        if width > 0 {
            for vector in vectors.chunks_exact_mut(width) {
                let squares: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
                if !squares.is_finite() {
                    return Err(ModelError::new(
                        "the embedder gave a vector that is no number",
                    ));
                }
                // A vector of zeros is similar to nothing.
                let length = if squares > 0.0 { squares.sqrt() } else { 1.0 };
                vector
                    .iter_mut()
                    .for_each(|x| *x = (f64::from(*x) / length) as f32);
            }
        }
        Ok(Embedded {
            ids,
            special,
            vectors,
            width,
            cut: cut_tokens > 0,
        })
    }

    fn weights(&self, weights: Option<&Weights>) -> Vec<f64> {
        let weight = |(id, special): (&u32, &bool)| match (special, weights) {
            (true, _) => 0.0,
            (false, None) => 1.0,
            (false, Some(weights)) => weights.of(*id),
        };
        self.ids.iter().zip(&self.special).map(weight).collect()
    }
}

fn matched(gold: &Embedded, answer: &Embedded, weights: Option<&Weights>) -> BertScore {
    let ordinary = |text: &Embedded| text.special.iter().any(|special| !special);
    if !ordinary(gold) || !ordinary(answer) || gold.width == 0 {
        return BertScore::default();
    }
    let mut best_of_gold = vec![f32::NEG_INFINITY; gold.ids.len()];
    let mut best_of_answer = vec![f32::NEG_INFINITY; answer.ids.len()];
    for (a, best) in answer
        .vectors
        .chunks_exact(answer.width)
        .zip(&mut best_of_answer)
    {
        for (g, best_gold) in gold.vectors.chunks_exact(gold.width).zip(&mut best_of_gold) {
            let similarity = dot(a, g);
            *best = best.max(similarity);
            *best_gold = best_gold.max(similarity);
        }
    }
    let precision = weighted_mean(&best_of_answer, &answer.weights(weights));
    let recall = weighted_mean(&best_of_gold, &gold.weights(weights));
    let sum = precision + recall;
    BertScore {
        precision,
        recall,
        f1: if sum == 0.0 {
            0.0
        } else {
            2.0 * precision * recall / sum
        },
    }
}

/// Zero where nothing weighs anything: every token is in every gold text.
fn weighted_mean(values: &[f32], weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let weighted = values.iter().zip(weights);
    weighted
        .map(|(value, weight)| f64::from(*value) * weight)
        .sum::<f64>()
        / total
}

/// Inner product in eight running sums, so that it vectorises and its order is fixed.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a_runs, b_runs) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_runs
        .remainder()
        .iter()
        .zip(b_runs.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a_runs.zip(b_runs) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a letter between two special ones; a letter's vector is its own axis.
    struct Letters;

    impl Embedder for Letters {
        fn name(&self) -> &str {
            "letters"
        }

        fn sha256(&self) -> &str {
            "1e77e6"
        }

        fn max_tokens(&self) -> usize {
            8
        }

        fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError> {
            let embed = |text: &&str| {
                let read: String = text.chars().take(6).collect();
                let ids: Vec<u32> = format!("^{read}$").chars().map(u32::from).collect();
                let special = ids.iter().map(|id| [94, 36].contains(id)).collect();
                let axis = |id: &u32| {
                    let id = *id;
                    (0..29u32).map(move |axis| f32::from(u8::from(id % 29 == axis)) * 3.0)
                };
                let vectors = ids.iter().flat_map(axis).collect();
                TokenEmbeddings {
                    ids,
                    special,
                    vectors,
                    cut_tokens: text.chars().count().saturating_sub(6),
                }
            };
            Ok(texts.iter().map(embed).collect())
        }
    }

    fn score(pairs: &[(&str, Option<&str>)], idf: bool, baseline: Option<Baseline>) -> Vec<f64> {
        let mut scorer = BertScorer {
            embedder: &mut Letters,
            idf,
            baseline,
        };
        let scores = scorer.score(pairs).unwrap().scores;
        scores.into_iter().map(|score| score.f1).collect()
    }

    #[test]
    fn what_is_cut_is_counted_by_side() {
        let mut scorer = BertScorer {
            embedder: &mut Letters,
            idf: true,
            baseline: None,
        };
        let pairs = [
            ("abcdefg", Some("abcdef")),
            ("abcdefgh", Some("abcdefg")),
            ("abcdefgh", None),
        ];
        let scores = scorer.score(&pairs).unwrap();
        let note = scorer.note(&scores);
        assert_eq!((note.cut_gold, note.cut_answers), (3, 1));
        assert_eq!(
            (note.max_tokens, note.encoder_sha256.as_str()),
            (8, "1e77e6")
        );
        assert_eq!(note.signature, "letters_idf");
    }

    #[test]
    fn matches_tokens_whatever_their_order() {
        let scores = score(
            &[
                ("abc", Some("cab")),
                ("abcd", Some("ab")),
                ("abc", Some("")),
                ("abc", None),
            ],
            false,
            None,
        );
        assert!((scores[0] - 1.0).abs() < 1e-6);
        // Precision 1, recall 1/2.
        assert!((scores[1] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(scores[2..], [0.0, 0.0]);
    }

    #[test]
    fn rare_tokens_weigh_more() {
        let pairs = [("ab", Some("b")), ("a", Some("a")), ("a", Some("a"))];
        let scores = score(&pairs, true, None);
        // `a` is in all three gold texts and weighs ln(4/4), `b` in one and weighs ln(4/2).
        assert!((scores[0] - 1.0).abs() < 1e-6);
        assert_eq!(scores[1..], [0.0, 0.0]);
    }

    #[test]
    fn rescaling_maps_the_baseline_to_zero() {
        let baseline = Baseline {
            precision: 0.5,
            recall: 0.5,
            f1: 0.5,
        };
        let scores = score(&[("ab", Some("ab")), ("ab", None)], false, Some(baseline));
        assert!((scores[0] - 1.0).abs() < 1e-6);
        assert_eq!(scores[1], -1.0);
    }

    #[test]
    fn an_embedder_that_breaks_its_contract_is_named() {
        struct Broken;
        impl Embedder for Broken {
            fn name(&self) -> &str {
                "broken"
            }
            fn sha256(&self) -> &str {
                ""
            }
            fn max_tokens(&self) -> usize {
                2
            }
            fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError> {
                let text = TokenEmbeddings {
                    ids: vec![1, 2],
                    special: vec![true, false],
                    vectors: vec![f32::NAN; 5],
                    cut_tokens: 0,
                };
                Ok(vec![text; texts.len()])
            }
        }
        let mut scorer = BertScorer {
            embedder: &mut Broken,
            idf: false,
            baseline: None,
        };
        let error = scorer.score(&[("a", Some("b"))]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the embedder gave 5 vector elements where 4 were expected"
        );
    }
}
