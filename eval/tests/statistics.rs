//! Paired tests against scipy's and statsmodels' results. `scripts/golden/statistics.py` writes them.

use eval::{Bootstrap, EXACT_BELOW, McNemar, holm};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    mcnemar: Vec<McNemar>,
    holm: Vec<HolmCase>,
    bootstrap: Vec<BootstrapCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HolmCase {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BootstrapCase {
    seed: u64,
    resamples: usize,
    before: Vec<f64>,
    after: Vec<f64>,
    value: f64,
    interval: [f64; 2],
    p: f64,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/statistics.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-12 * expected.abs().max(1.0),
        "{found}, expected {expected}"
    );
}

#[test]
fn mcnemars_test_is_statsmodels() {
    let cases = golden().mcnemar;
    assert!(cases.iter().any(|case| case.exact) && cases.iter().any(|case| !case.exact));
    for case in &cases {
        let found = McNemar::new(case.only_before, case.only_after);
        assert_eq!(
            found.exact,
            case.only_before + case.only_after < EXACT_BELOW
        );
        assert_eq!(found.exact, case.exact);
        close(found.statistic, case.statistic);
        close(found.p, case.p);
    }
}

#[test]
fn holms_adjustment_is_statsmodels() {
    for case in golden().holm {
        let found = holm(&case.p);
        assert_eq!(found.len(), case.adjusted.len());
        for (found, expected) in found.iter().zip(&case.adjusted) {
            close(*found, *expected);
        }
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn the_paired_bootstrap_is_numpys_on_the_same_draws() {
    for case in golden().bootstrap {
        let bootstrap = Bootstrap {
            resamples: case.resamples,
            seed: case.seed,
        };
        let mean = |values: &[f64], items: &[usize]| {
            items.iter().map(|item| values[*item]).sum::<f64>() / items.len() as f64
        };
        let found = bootstrap
            .change_of(
                case.before.len(),
                |items| mean(&case.before, items),
                |items| mean(&case.after, items),
            )
            .unwrap();
        close(found.value, case.value);
        close(found.interval.low, case.interval[0]);
        close(found.interval.high, case.interval[1]);
        close(found.p, case.p);
    }
}
