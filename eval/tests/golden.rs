//! Every metric against the package that the field computes it with, on made-up and awkward
//! answers. `scripts/golden/metrics.py` and `ranked.py` write the expected scores.

use std::collections::{BTreeMap, BTreeSet};

use eval::metrics::{Answered, METRICS, Marks, MetricName};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    options: Vec<String>,
    items: Vec<(String, Option<String>)>,
    scores: BTreeMap<String, f64>,
}

#[test]
fn scores_are_those_of_the_reference_packages() {
    let mut cases: Vec<Case> = Vec::new();
    for file in ["metrics.json", "ranked.json"] {
        let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        cases.extend(serde_json::from_str::<Vec<Case>>(&text).unwrap());
    }
    let mut compared = BTreeSet::new();
    for case in &cases {
        for (name, expected) in &case.scores {
            let metric = MetricName::find(name).unwrap();
            let answered = case.items.iter().map(|(gold, answer)| Answered {
                options: &case.options,
                gold,
                answer: answer.as_deref(),
            });
            let score = Marks::new(&metric, answered).score();
            let case = &case.name;
            assert!(
                (score - expected).abs() < 1e-9,
                "{case}, {name}: {score}, expected {expected}"
            );
            compared.insert(metric.name);
        }
    }
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(compared, all, "every metric has a golden case");
}
