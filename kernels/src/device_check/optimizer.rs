//! AdamW in all its forms: the same bits as on the processor.

use super::{Allowed, Case, FLOATS, Output, Side, Size};
use crate::{
    AdamW, Clip, DType, Keep, Moments, ParameterStep, Result, RoundingKey, SquareSums, Tensor,
    adamw_step, adamw_steps,
};

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
    for (label, limit) in [("six at once", 0.0), ("six at once, clipped", 1e-2)] {
        let run = move |side: &Side| together(side, limit);
        cases.push(Case::new("adamw", label.to_owned(), run).exact());
    }
    cases
}

/// A parameter and what its optimizer keeps.
struct Parameter {
    form: Form,
    number: u64,
    p: Tensor,
    master: Tensor,
    moments: Moments,
}

impl Parameter {
    fn new(side: &Side, number: u64, n: usize, form: Form, eight_bits: bool) -> Result<Self> {
        let stored = match form {
            Form::F32 => DType::F32,
            Form::Master | Form::Stochastic => DType::BF16,
        };
        let moments = match eight_bits {
            true => Moments::blockwise(n, side.place())?,
            false => Moments::Plain {
                first: side.zeros(&[n], DType::F32)?,
                second: side.zeros(&[n], DType::F32)?,
            },
        };
        Ok(Self {
            form,
            number,
            p: side.numbers(number, &[n], stored)?,
            master: side.numbers(number, &[n], DType::F32)?,
            moments,
        })
    }

    fn keep(&self, step: u64) -> Keep {
        match self.form {
            Form::F32 => Keep::Exact,
            Form::Master => Keep::Master(self.master.clone()),
            Form::Stochastic => Keep::Stochastic(RoundingKey {
                seed: 0x1234_5678_9abc,
                step,
                parameter: 76 + self.number,
            }),
        }
    }

    fn outputs(self) -> Vec<Output> {
        let mut outputs = vec![Output::new("weights", self.p, Allowed::none())];
        if matches!(self.form, Form::Master) {
            outputs.push(Output::new("master", self.master, Allowed::none()));
        }
        let tensors = self.moments.tensors().into_iter();
        outputs.extend(tensors.map(|(what, t)| Output::new(what, t.clone(), Allowed::none())));
        outputs
    }
}

/// What three steps make of weights, master copy and moments.
fn steps(side: &Side, n: usize, g: DType, form: Form, eight_bits: bool) -> Result<Vec<Output>> {
    let mut of = Parameter::new(side, 1, n, form, eight_bits)?;
    for step in 1..=3 {
        let keep = of.keep(step);
        let gradient = side.scaled(100 + step, &[n], g, 0.01 * step as f64)?;
        adamw_step(&mut of.p, &keep, &gradient, &mut of.moments, &ADAMW, step)?;
    }
    Ok(of.outputs())
}

/// Parameters of one model: elements, form, type of the gradient, whether moments take eight bits.
const TOGETHER: [(usize, Form, DType, bool); 6] = [
    (5, Form::F32, DType::F32, false),
    (8_193, Form::Stochastic, DType::BF16, true),
    (123, Form::Master, DType::F32, true),
    (40_001, Form::F32, DType::BF16, true),
    (1, Form::Stochastic, DType::F32, false),
    (16_387, Form::Master, DType::BF16, false),
];

/// What one step makes of all of them, clipped to this norm, or not where it is 0. Norms are summed in f64: in another order
/// they give another scale in f32 once in some hundred million times.
fn together(side: &Side, limit: f64) -> Result<Vec<Output>> {
    let (mut all, mut gradients) = (Vec::new(), Vec::new());
    for (number, &(n, form, g, eight_bits)) in (1..).zip(&TOGETHER) {
        all.push(Parameter::new(side, number, n, form, eight_bits)?);
        gradients.push(side.scaled(100 + number, &[n], g, 0.1)?);
    }
    let mut sums = SquareSums::new(all.len(), side.place())?;
    sums.put_all(&gradients.iter().collect::<Vec<_>>())?;
    let scales = sums.scales(Clip::Together(limit))?.into_iter();
    let operands = all.iter_mut().zip(gradients.into_iter().zip(scales));
    let steps = operands.map(|(of, (g, scale))| ParameterStep {
        keep: of.keep(1),
        settings: AdamW {
            weight_decay: 0.1 * (of.number % 2) as f64,
            ..ADAMW
        },
        p: &mut of.p,
        g,
        moments: &mut of.moments,
        scale,
    });
    adamw_steps(steps.collect(), 1)?;
    Ok(all.into_iter().flat_map(Parameter::outputs).collect())
}
