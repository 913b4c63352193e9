//! The cases that hold a GPU to the processor: on the processor itself all of them pass, and none passes with a wrong number.

use kernels::device_check::{Case, Size, Verdict, cases};
use kernels::{Device, Result};
use std::collections::BTreeSet;

fn checked(change: impl Fn(usize, &mut Vec<f64>) + Copy, each: impl Fn(&Case, &[Verdict])) {
    for case in cases(Size::Tiny) {
        if case.runs_on(&Device::Cpu) {
            let verdicts = case.check_changed(&Device::Cpu, 7, change);
            each(
                &case,
                &verdicts.unwrap_or_else(|e| panic!("{} {}: {e}", case.op, case.label)),
            );
        }
    }
}

#[test]
fn the_processor_agrees_with_itself() {
    checked(
        |_, _| {},
        |case, verdicts| {
            for verdict in verdicts {
                assert!(verdict.holds(), "{} {}: {verdict}", case.op, case.label);
            }
        },
    );
}

/// A number that is off by a twentieth of the largest, or of one, in whichever result.
#[test]
fn a_wrong_number_is_found() {
    let largest = |list: &[f64]| {
        let key = |at: &usize| list[*at].abs();
        (0..list.len()).max_by(|a, b| key(a).total_cmp(&key(b)))
    };
    checked(
        |_, list| {
            if let Some(at) = largest(list) {
                list[at] += 0.05 * list[at].abs().max(1.0);
            }
        },
        |case, verdicts| {
            for verdict in verdicts {
                assert!(!verdict.holds(), "{} {}: {verdict}", case.op, case.label);
            }
        },
    );
}

#[test]
fn a_number_that_was_not_written_is_found() {
    checked(
        |_, list| {
            let last = list.len() - 1;
            list[last] = f64::NAN;
        },
        |case, verdicts| {
            for verdict in verdicts {
                assert!(verdict.worst.is_infinite(), "{} {}", case.op, case.label);
            }
        },
    );
}

#[test]
fn another_seed_gives_other_numbers() -> Result<()> {
    let case = &cases(Size::Tiny)[0];
    let found = |seed| -> Result<Vec<f64>> {
        Ok(case
            .check(&Device::Cpu, seed)?
            .iter()
            .map(|v| v.expected)
            .collect())
    };
    assert_eq!(found(1)?, found(1)?);
    assert_ne!(found(1)?, found(2)?);
    Ok(())
}

/// No two cases have one name, and tiny ones are among the whole.
#[test]
fn cases_are_told_apart() {
    let names = |size| -> Vec<(&str, String)> {
        cases(size)
            .into_iter()
            .map(|case| (case.op, case.label))
            .collect()
    };
    let whole = names(Size::Whole);
    let all: BTreeSet<_> = whole.iter().cloned().collect();
    assert_eq!(all.len(), whole.len());
    assert!(names(Size::Tiny).iter().all(|name| all.contains(name)));
    assert!(whole.len() > 2 * names(Size::Tiny).len());
}
