//! Every operation beside the processor's.

use std::collections::BTreeMap;

use anyhow::Result;
use kernels::device_check::{Case, Size, cases};

use super::Check;
use super::record::{Figure, StageRecord};
use crate::terminal::note;

/// Failures that are told one by one.
const TOLD: usize = 25;
/// Refusals in a row after which a device is not asked again: an error in a kernel makes every later call fail.
const MOST_REFUSALS: usize = 5;

/// What the cases of one operation came to.
#[derive(Default)]
struct OfOp {
    cases: usize,
    worst: f64,
    worst_case: String,
}

pub(super) fn ops(check: &Check) -> Result<StageRecord> {
    let size = match check.tiny {
        true => Size::Tiny,
        false => Size::Whole,
    };
    let (mut ops, mut failures, mut refusals) = (BTreeMap::<&str, OfOp>::new(), Vec::new(), 0);
    let mut last = "";
    let mut cases = cases(size);
    cases.retain(|case| case.runs_on(check.place()));
    cases.sort_by_key(|case| case.op);
    for case in &cases {
        if case.op != last {
            note(&format!("  {}", case.op));
            last = case.op;
        }
        match case.check(check.place(), check.seed) {
            Ok(verdicts) => {
                refusals = 0;
                let of_op = ops.entry(case.op).or_default();
                of_op.cases += 1;
                for verdict in &verdicts {
                    if of_op.worst_case.is_empty() || verdict.worst > of_op.worst {
                        of_op.worst = verdict.worst;
                        of_op.worst_case = format!("{}: {}", case.label, verdict.what);
                    }
                    if !verdict.holds() {
                        failures.push(format!("{}: {verdict}", name(case)));
                    }
                }
            }
            Err(error) => {
                failures.push(format!("{}: {error}", name(case)));
                refusals += 1;
                if refusals == MOST_REFUSALS {
                    failures.push("the device refuses everything now: the rest was not run".into());
                    break;
                }
            }
        }
    }
    let figures = ops.into_iter().map(|(op, found)| {
        let note = format!("{} cases; worst in {}", found.cases, found.worst_case);
        Figure::new(op, found.worst, "of what is allowed").note(note)
    });
    let figures = figures.collect();
    let more = failures.len().saturating_sub(TOLD);
    failures.truncate(TOLD);
    if more > 0 {
        failures.push(format!("and {more} more"));
    }
    Ok(StageRecord::proof("ops", figures, failures))
}

fn name(case: &Case) -> String {
    format!("{} {}", case.op, case.label)
}
