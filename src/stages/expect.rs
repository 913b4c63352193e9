//! `[[expect]]`: what must hold at the end of a run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::evaluate::metric_names;
use crate::plan::{PlannedTask, Stage};
use crate::recipe::{Expect, Recipe};

/// What became of one `[[expect]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The metric.
    pub metric: String,
    /// What was measured; `None` where it was not.
    pub value: Option<f64>,
    /// The limits in words: "at least 0.5".
    pub limits: String,
    /// Whether all of them hold.
    pub met: bool,
}

impl Verdict {
    /// For programs.
    pub fn json(&self) -> Value {
        json!({"metric": self.metric, "value": self.value, "limits": self.limits, "met": self.met})
    }

    /// For people.
    pub fn line(&self) -> String {
        let value = self
            .value
            .map_or("not measured".to_owned(), |value| format!("{value:.4}"));
        let verdict = if self.met { "met    " } else { "NOT MET" };
        format!(
            "  {verdict}  {} = {value}, expected {}",
            self.metric, self.limits
        )
    }
}

/// Holds the expectations whose stage was run against what was measured.
pub fn verdicts(
    expected: &[Expect],
    metrics: &BTreeMap<String, f64>,
    until: Option<Stage>,
) -> Vec<Verdict> {
    let due = |expect: &&Expect| until.is_none_or(|until| stage_of(&expect.metric) <= until);
    expected
        .iter()
        .filter(due)
        .map(|expect| verdict(expect, metrics))
        .collect()
}

/// The stage that measures a metric.
fn stage_of(metric: &str) -> Stage {
    if metric.starts_with("train.") {
        Stage::Train
    } else {
        Stage::Eval
    }
}

fn verdict(expect: &Expect, metrics: &BTreeMap<String, f64>) -> Verdict {
    let value = metrics.get(&expect.metric).copied();
    let mut limits = Vec::new();
    // A metric that was not measured, and one that is no number, meets nothing.
    let mut met = value.is_some();
    let mut hold = |words: String, holds: Option<bool>| {
        limits.push(words);
        met &= holds == Some(true);
    };
    if let Some(least) = expect.at_least {
        hold(
            format!("at least {least}"),
            value.map(|value| value >= least),
        );
    }
    if let Some(most) = expect.at_most {
        hold(format!("at most {most}"), value.map(|value| value <= most));
    }
    for (other, word, wants_more) in [
        (&expect.above, "above", true),
        (&expect.below, "below", false),
    ] {
        let Some(other) = other else { continue };
        let limit = metrics.get(other).copied();
        let shown = limit.map_or("not measured".to_owned(), |limit| format!("{limit:.4}"));
        let holds = value.zip(limit).map(|(value, limit)| {
            if wants_more {
                value > limit
            } else {
                value < limit
            }
        });
        hold(format!("{word} {other} = {shown}"), holds);
    }
    Verdict {
        metric: expect.metric.clone(),
        value,
        limits: limits.join(" and "),
        met,
    }
}

/// Every metric that a recipe's run will measure, so that a misspelt one is found before hours of training.
pub fn known_metrics(
    recipe: &Recipe,
    tasks: &[PlannedTask],
    train_tasks: &[PlannedTask],
) -> Vec<String> {
    let mut known = Vec::new();
    if recipe.train.is_some() {
        known.extend(
            ["steps", "loss", "eval_loss", "trained_parameters"]
                .map(|name| format!("train.{name}")),
        );
        let asked = train_tasks.iter().flat_map(|planned| &planned.tasks);
        let names = asked.flat_map(finetune::score_names);
        known.extend(names.map(|name| format!("train.{name}")));
    }
    let Some(section) = &recipe.eval else {
        return known;
    };
    let tunes = recipe.train.is_some() || recipe.model.adapter.is_some();
    let names = |label: &str| {
        let both = ["tuned", "change"].contains(&label);
        let asked = tasks.iter().flat_map(|planned| &planned.tasks);
        let asked = asked.filter(|task| !both || section.asks_tuned(task.shots));
        let mut names: Vec<String> = asked.flat_map(|task| metric_names(task, section)).collect();
        if section.perplexity && recipe.data.is_some() {
            names.push("validation.perplexity".into());
        }
        names
    };
    let own = recipe.model.path.is_some() || recipe.model.init.is_some();
    let beside = section.model.iter().map(|model| model.name.as_str());
    let beside = beside.chain(section.endpoint.iter().map(|e| e.name.as_str()));
    let mut labels: Vec<&str> = Vec::new();
    labels.extend((own && (section.baseline || !tunes)).then_some("base"));
    labels.extend(beside);
    labels.extend((own && tunes).then_some("tuned"));
    if labels.len() > 1 {
        labels.push("change");
    }
    known.extend(labels.iter().flat_map(|label| {
        names(label)
            .into_iter()
            .map(move |name| format!("{label}.{name}"))
    }));
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(metric: &str) -> Expect {
        Expect {
            metric: metric.into(),
            at_least: None,
            at_most: None,
            above: None,
            below: None,
        }
    }

    #[test]
    fn limits_hold_or_not() {
        let metrics: BTreeMap<String, f64> = [
            ("tuned.qa.accuracy", 0.55),
            ("base.qa.accuracy", 0.33),
            ("tuned.odd", f64::NAN),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let all = [
            Expect {
                at_least: Some(0.5),
                above: Some("base.qa.accuracy".into()),
                ..expect("tuned.qa.accuracy")
            },
            Expect {
                at_most: Some(0.5),
                ..expect("tuned.qa.accuracy")
            },
            Expect {
                below: Some("tuned.qa.accuracy".into()),
                ..expect("base.qa.accuracy")
            },
            Expect {
                above: Some("base.qa.f1".into()),
                ..expect("tuned.qa.accuracy")
            },
            Expect {
                at_least: Some(0.0),
                ..expect("tuned.qa.f1")
            },
            Expect {
                at_least: Some(0.0),
                ..expect("tuned.odd")
            },
        ];
        let lines: Vec<_> = verdicts(&all, &metrics, None)
            .iter()
            .map(Verdict::line)
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        met      tuned.qa.accuracy = 0.5500, expected at least 0.5 and above base.qa.accuracy = 0.3300
        NOT MET  tuned.qa.accuracy = 0.5500, expected at most 0.5
        met      base.qa.accuracy = 0.3300, expected below tuned.qa.accuracy = 0.5500
        NOT MET  tuned.qa.accuracy = 0.5500, expected above base.qa.f1 = not measured
        NOT MET  tuned.qa.f1 = not measured, expected at least 0
        NOT MET  tuned.odd = NaN, expected at least 0
        ");
    }

    #[test]
    fn what_was_not_run_is_not_judged() {
        let all = [
            Expect {
                at_most: Some(1.0),
                ..expect("train.eval_loss")
            },
            Expect {
                at_least: Some(0.5),
                ..expect("tuned.qa.accuracy")
            },
        ];
        let metrics = BTreeMap::from([("train.eval_loss".to_owned(), 0.4)]);
        assert_eq!(verdicts(&all, &metrics, Some(Stage::Data)), []);
        let trained = verdicts(&all, &metrics, Some(Stage::Train));
        assert_eq!(
            trained
                .iter()
                .map(|verdict| verdict.met)
                .collect::<Vec<_>>(),
            [true]
        );
        assert_eq!(verdicts(&all, &metrics, None).len(), 2);
    }
}
