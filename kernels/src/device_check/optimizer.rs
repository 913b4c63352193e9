//! AdamW in all its forms: the same bits as on the processor.

use super::{Allowed, Case, FLOATS, Output, Side, Size};
use crate::{AdamW, DType, Keep, Moments, Result, RoundingKey, adamw_step};

/// Odd counts, and more than the 16,384 elements that share a hash of stochastic rounding.
const COUNTS: [usize; 5] = [5, 123, 2048, 40_001, 1_000_003];

/// What AdamW is checked with, here and in the emulator: no two of its numbers are alike.
pub const ADAMW: AdamW = AdamW {
    learning_rate: 3e-3,
    beta1: 0.9,
    beta2: 0.97,
    epsilon: 1e-8,
    weight_decay: 0.1,
    gradient_scale: 0.37,
};

/// How weights are kept.
#[derive(Clone, Copy, Debug)]
enum Form {
    F32,
    Master,
    Stochastic,
}

pub(super) fn cases(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &n in size.of(2, &COUNTS) {
        for g in FLOATS {
            for form in [Form::F32, Form::Master, Form::Stochastic] {
                for (op, eight_bits) in [("adamw", false), ("adamw_8bit", true)] {
                    let label = format!("{form:?} {} {n}", g.as_str());
                    let run = move |side: &Side| steps(side, n, g, form, eight_bits);
                    cases.push(Case::new(op, label, run).exact());
                }
            }
        }
    }
    cases
}

/// What three steps make of weights, master copy and moments.
fn steps(side: &Side, n: usize, g: DType, form: Form, eight_bits: bool) -> Result<Vec<Output>> {
    let stored = match form {
        Form::F32 => DType::F32,
        Form::Master | Form::Stochastic => DType::BF16,
    };
    let mut p = side.numbers(1, &[n], stored)?;
    let master = side.numbers(1, &[n], DType::F32)?;
    let mut moments = match eight_bits {
        true => Moments::blockwise(n, side.place())?,
        false => Moments::Plain {
            first: side.zeros(&[n], DType::F32)?,
            second: side.zeros(&[n], DType::F32)?,
        },
    };
    for step in 1..=3 {
        let keep = match form {
            Form::F32 => Keep::Exact,
            Form::Master => Keep::Master(master.clone()),
            Form::Stochastic => Keep::Stochastic(RoundingKey {
                seed: 0x1234_5678_9abc,
                step,
                parameter: 77,
            }),
        };
        let gradient = side.scaled(100 + step, &[n], g, 0.01 * step as f64)?;
        adamw_step(&mut p, &keep, &gradient, &mut moments, &ADAMW, step)?;
    }
    let mut outputs = vec![Output::new("weights", p, Allowed::none())];
    if matches!(form, Form::Master) {
        outputs.push(Output::new("master", master, Allowed::none()));
    }
    let tensors = moments.tensors().into_iter();
    outputs.extend(tensors.map(|(what, t)| Output::new(what, t.clone(), Allowed::none())));
    Ok(outputs)
}
