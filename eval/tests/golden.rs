//! Every metric against the package that the field computes it with, on made-up and awkward
//! answers. `scripts/golden/metrics.py`, `ranked.py` and `mc2.py` write the expected scores.

use std::collections::{BTreeMap, BTreeSet};

use eval::metrics::{Answered, Family, METRICS, Marks, MetricName};
use eval::{Baseline, BertScore, BertScorer, Embedder, ModelError, OptionScore, TokenEmbeddings};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    options: Vec<String>,
    items: Vec<(String, Option<String>)>,
    #[serde(default)]
    log_probs: Vec<Vec<f64>>,
    #[serde(default)]
    tokens: Vec<Vec<usize>>,
    scores: BTreeMap<String, f64>,
}

fn text(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
    std::fs::read_to_string(format!("{folder}{name}")).unwrap()
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&text(name)).unwrap()
}

impl Case {
    fn option_scores(&self) -> Vec<Vec<OptionScore>> {
        let mut scores: Vec<Vec<OptionScore>> = vec![Vec::new(); self.items.len()];
        for (item, (log_probs, tokens)) in self.log_probs.iter().zip(&self.tokens).enumerate() {
            for (index, (log_prob, tokens)) in log_probs.iter().zip(tokens).enumerate() {
                scores[item].push(OptionScore {
                    log_prob: *log_prob,
                    tokens: *tokens,
                    bytes: self.options[index].len(),
                    greedy: false,
                });
            }
        }
        scores
    }

    fn score(&self, metric: &MetricName) -> f64 {
        let option_scores = self.option_scores();
        let items = self.items.iter().zip(&option_scores);
        let answered = items.map(|((gold, answer), option_scores)| Answered {
            options: &self.options,
            gold,
            // Each family sees its own text only: none can pass by reading the other's.
            answer: answer
                .as_deref()
                .filter(|_| metric.family == Family::Corrected),
            written: match metric.family {
                Family::PaperCompatible => answer.as_deref().unwrap_or_default(),
                Family::Corrected => "yes no maybe A <span class=\"test\">unread</span>",
            },
            option_scores,
            bert_score: None,
            judged: &[],
        });
        Marks::new(metric, answered).score()
    }
}

#[test]
fn scores_are_those_of_the_reference_packages() {
    let mut cases: Vec<Case> = json("metrics.json");
    for file in ["ranked.json", "mc2.json"] {
        cases.extend(json::<Vec<Case>>(file));
    }
    let mut compared = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in &cases {
        for (name, expected) in &case.scores {
            let metric = MetricName::find(name).unwrap();
            let score = case.score(&metric);
            // Perplexities can be large, so their error is relative.
            if (score - expected).abs() > 1e-9 * expected.abs().max(1.0) {
                wrong.push(format!(
                    "{}, {name}: {score}, expected {expected}",
                    case.name
                ));
            }
            compared.insert(metric.name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // BERTScore needs an embedder and has its own file.
    compared.extend(["bert_score", "bert_score_precision", "bert_score_recall"]);
    // No package has a judge's verdicts.
    compared.extend(["judged_top_1", "judged_top_3", "judged_top_5"]);
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(compared, all, "every metric has a golden case");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BertFile {
    texts: BTreeMap<String, BertText>,
    pairs: Vec<(String, String)>,
    baseline: [f64; 3],
    plain: Vec<[f64; 3]>,
    idf: Vec<[f64; 3]>,
    idf_rescaled: Vec<[f64; 3]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BertText {
    ids: Vec<u32>,
    vectors: Vec<f32>,
}

struct Recorded(BTreeMap<String, BertText>);

impl Embedder for Recorded {
    fn name(&self) -> &str {
        "recorded"
    }

    fn sha256(&self) -> &str {
        ""
    }

    fn max_tokens(&self) -> usize {
        usize::MAX
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<TokenEmbeddings>, ModelError> {
        let embed = |text: &&str| {
            let BertText { ids, vectors } = &self.0[*text];
            TokenEmbeddings {
                ids: ids.clone(),
                special: ids.iter().map(|id| *id > 100).collect(),
                vectors: vectors.clone(),
                cut_tokens: 0,
            }
        };
        Ok(texts.iter().map(embed).collect())
    }
}

#[test]
fn bert_score_is_the_packages() {
    let file: BertFile = json("bert_score.json");
    let mut embedder = Recorded(file.texts);
    let [precision, recall, f1] = file.baseline;
    let baseline = Baseline {
        precision,
        recall,
        f1,
    };
    let pairs: Vec<(&str, Option<&str>)> = file
        .pairs
        .iter()
        .map(|(gold, answer)| (gold.as_str(), Some(answer.as_str())))
        .collect();
    for (idf, baseline, expected) in [
        (false, None, &file.plain),
        (true, None, &file.idf),
        (true, Some(baseline), &file.idf_rescaled),
    ] {
        let mut scorer = BertScorer {
            embedder: &mut embedder,
            idf,
            baseline,
        };
        let scores = scorer.score(&pairs).unwrap().scores;
        assert_eq!(scores.len(), expected.len());
        for (index, (score, expected)) in scores.iter().zip(expected).enumerate() {
            let BertScore {
                precision,
                recall,
                f1,
            } = *score;
            for (value, expected) in [precision, recall, f1].into_iter().zip(expected) {
                // Vectors are f32.
                assert!(
                    (value - expected).abs() < 1e-6,
                    "pair {index}, idf {idf}: {value}, expected {expected}"
                );
            }
        }
    }
}
