//! AdamW in all its forms, many parameters in a launch, bit for bit; and the norms that gradients are clipped by.

use super::*;
use kernels::cuda::launch::{self, Addresses, Squared, Stepped, Weights};
use kernels::device_check::ADAMW;
use kernels::{AdamW, GradientScale, Keep, Moments, ParameterStep, RoundingKey, adamw_steps};

/// Odd counts, whole pieces, and more than the 16,384 elements that share a hash.
const COUNTS: [usize; 5] = [5, 123, 2048, 8192, 40_001];

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Exact,
    Master,
    Stochastic,
}

/// A parameter, on the processor.
struct Parameter {
    name: String,
    form: Form,
    p: Tensor,
    master: Option<Tensor>,
    moments: Moments,
    g: Float,
    settings: AdamW,
    /// In the device's memory.
    scale: Option<f32>,
    number: u64,
}

impl Parameter {
    fn key(&self, step: u64) -> RoundingKey {
        RoundingKey {
            seed: 0x1234_5678_9abc,
            step,
            parameter: self.number,
        }
    }

    /// A block has no gradient, and squares of another's are subnormal or 0.
    fn gradient(&self, step: u64) -> Tensor {
        let of_block = |i: usize| match i / 256 {
            2 => 0.0,
            3 => 1e-19,
            _ => 1.0,
        };
        let n = self.p.elem_count();
        let list = numbers(n, 100 * step + self.number, Float::F32);
        let list = list.iter().enumerate();
        let scaled: Vec<f64> = list
            .map(|(i, x)| x * 0.01 * step as f64 * of_block(i))
            .collect();
        tensor(&scaled, &[n], dtype(self.g))
    }

    fn tensors(&self) -> Vec<(&'static str, Tensor)> {
        let mut all = vec![("weights", self.p.clone())];
        all.extend(self.master.iter().map(|master| ("master", master.clone())));
        let moments = self.moments.tensors().into_iter();
        all.extend(moments.map(|(what, t)| (what, t.clone())));
        all
    }

    /// Its row, its numbers put behind the buffers.
    fn row(&self, step: u64, buffers: &mut Vec<Buffer>) -> Stepped {
        let mut put = |buffer: Buffer| {
            buffers.push(buffer);
            address_of(buffers.len() - 1)
        };
        let mut at = Addresses {
            p: put(Buffer::tensor(&self.p)),
            ..Addresses::default()
        };
        if let Some(master) = &self.master {
            at.master = put(Buffer::tensor(master));
        }
        for (what, t) in self.moments.tensors() {
            let place = match what {
                "first" | "first.codes" => &mut at.m,
                "first.absmax" => &mut at.m_absmax,
                "second" | "second.codes" => &mut at.v,
                _ => &mut at.v_absmax,
            };
            *place = put(Buffer::tensor(t));
        }
        at.g = put(Buffer::tensor(&self.gradient(step)));
        if let Some(scale) = self.scale {
            at.scale = put(Buffer::f32s(&[scale]));
        }
        Stepped {
            weights: match self.form {
                Form::Exact => Weights::Exact,
                Form::Master => Weights::Master,
                Form::Stochastic => Weights::Stochastic(self.key(step)),
            },
            g: self.g,
            n: self.p.elem_count(),
            settings: self.settings,
            at,
        }
    }

    /// What the processor takes: a scale in the device's memory is multiplied in f32 there.
    fn here(&mut self, step: u64) -> ParameterStep<'_> {
        let scale = self.settings.gradient_scale as f32 * self.scale.unwrap_or(1.0);
        ParameterStep {
            keep: match (&self.master, self.form) {
                (Some(master), _) => Keep::Master(master.clone()),
                (None, Form::Stochastic) => Keep::Stochastic(self.key(step)),
                (None, _) => Keep::Exact,
            },
            g: self.gradient(step),
            settings: AdamW {
                gradient_scale: f64::from(scale),
                ..self.settings
            },
            p: &mut self.p,
            moments: &mut self.moments,
            scale: GradientScale::Here(1.0),
        }
    }
}

/// Every count with every form and every type of gradient; decay, rate and scale change from one to the next.
fn parameters(eight_bits: bool) -> Vec<Parameter> {
    let mut all = Vec::new();
    for n in COUNTS {
        for g in FLOATS {
            for form in [Form::Exact, Form::Master, Form::Stochastic] {
                let i = all.len();
                let list = numbers(n, i as u64, Float::F32);
                let p = |dtype| tensor(&list, &[n], dtype);
                let stored = if form == Form::Exact {
                    DType::F32
                } else {
                    DType::BF16
                };
                let moments = match eight_bits {
                    true => Moments::blockwise(n, &Device::Cpu),
                    false => Moments::plain(&p(stored), DType::F32),
                };
                all.push(Parameter {
                    name: format!("{form:?} {g:?} {n}"),
                    form,
                    p: p(stored),
                    master: (form == Form::Master).then(|| p(DType::F32)),
                    moments: moments.unwrap(),
                    g,
                    settings: AdamW {
                        weight_decay: [0.1, 0.0][i % 2],
                        learning_rate: ADAMW.learning_rate * (1 + i % 4) as f64,
                        ..ADAMW
                    },
                    scale: [None, Some(0.25), Some(0.81)][i % 3],
                    number: i as u64,
                });
            }
        }
    }
    all
}

/// What a launch over all of them makes of each parameter's buffers, in the order of [`Parameter::tensors`].
fn on_device(parameters: &[Parameter], step: u64, eight_bits: bool) -> Vec<Vec<Result>> {
    let mut buffers = vec![
        Buffer::bytes(&[]),
        Buffer::f32s(&launch::eight_bit_tables()),
    ];
    let (mut rows, mut first) = (Vec::new(), Vec::new());
    for parameter in parameters {
        first.push(buffers.len());
        rows.push(parameter.row(step, &mut buffers));
    }
    let (table, launch) = match eight_bits {
        true => launch::adamw_8bit(&rows, step),
        false => launch::adamw(&rows, step),
    };
    buffers[0] = Buffer::u64s(&table);
    let mut found: Vec<Option<Result>> = run(launch, &buffers).into_iter().map(Some).collect();
    let of = parameters.iter().zip(first).map(|(parameter, first)| {
        let tensors = first..first + parameter.tensors().len();
        tensors.map(|i| found[i].take().unwrap()).collect()
    });
    of.collect()
}

fn check(parameter: &Parameter, step: u64, found: &[Result], expected: &[(&str, Tensor)]) {
    for (found, (what, expected)) in found.iter().zip(expected) {
        let name = format!("{}, step {step}, {what}", parameter.name);
        same(&name, found, expected);
    }
}

#[test]
fn adamw_of_many_parameters() {
    for eight_bits in [false, true] {
        let mut parameters = parameters(eight_bits);
        for step in 1..=3 {
            let found = on_device(&parameters, step, eight_bits);
            adamw_steps(parameters.iter_mut().map(|p| p.here(step)).collect(), step).unwrap();
            for (parameter, found) in parameters.iter().zip(found) {
                check(parameter, step, &found, &parameter.tensors());
            }
        }
    }
}

#[test]
fn adamw_of_one_parameter() {
    for eight_bits in [false, true] {
        for mut parameter in parameters(eight_bits).into_iter().step_by(7) {
            let one = std::slice::from_ref(&parameter);
            let found = on_device(one, 9, eight_bits).remove(0);
            adamw_steps(vec![parameter.here(9)], 9).unwrap();
            check(&parameter, 9, &found, &parameter.tensors());
        }
    }
}

/// Those beside it are stepped.
#[test]
fn a_scale_that_is_no_number_leaves_its_parameter_as_it_is() {
    for eight_bits in [false, true] {
        let mut parameters = parameters(eight_bits);
        let without = |i: usize| i % 5 < 2;
        for parameter in parameters.iter_mut().step_by(5) {
            parameter.scale = Some(f32::NAN);
        }
        for parameter in parameters.iter_mut().skip(1).step_by(5) {
            parameter.scale = Some(-f32::NAN);
        }
        let found = on_device(&parameters, 1, eight_bits);
        let mut stepped = 0;
        for ((i, parameter), found) in parameters.iter_mut().enumerate().zip(found) {
            let before = parameter.tensors();
            if without(i) {
                check(parameter, 1, &found, &before);
                continue;
            }
            assert_ne!(found[0].0, bytes_of(&before[0].1), "{}", parameter.name);
            adamw_steps(vec![parameter.here(1)], 1).unwrap();
            check(parameter, 1, &found, &parameter.tensors());
            stepped += 1;
        }
        assert_eq!(stepped, 18);
    }
}

#[test]
fn an_address_of_nothing_is_found() {
    let mut parameter = parameters(false).remove(0);
    parameter.scale = None;
    let mut buffers = vec![Buffer::bytes(&[])];
    let mut row = parameter.row(1, &mut buffers);
    row.at.m = address_of(buffers.len());
    let (table, launch) = launch::adamw(&[row], 1);
    buffers[0] = Buffer::u64s(&table);
    let said = try_run(launch, &buffers).err().unwrap();
    assert!(said.contains("is no buffer's address"), "{said}");
}

#[test]
fn squares_of_many_tensors_are_summed() {
    let counts = [5, 40_001, 0, 1 << 15, 123, 3 << 15];
    let mut buffers = vec![Buffer::bytes(&[]); 2];
    buffers.push(Buffer::poison(2 * counts.len(), 8));
    let (mut rows, mut expected) = (Vec::new(), Vec::new());
    for (i, n) in counts.into_iter().chain(counts).enumerate() {
        let float = FLOATS[i % 2];
        let list = numbers(n, i as u64, float);
        buffers.push(Buffer::floats(&list, float));
        rows.push(Squared {
            address: address_of(buffers.len() - 1),
            n,
            float,
        });
        expected.push(kernels::sum_of_squares(&tensor(&list, &[n], DType::F64)).unwrap());
    }
    let (table, parts, launches) = launch::sums_of_squares(&rows);
    buffers[0] = Buffer::u64s(&table);
    buffers[1] = Buffer::poison(parts, 8);
    let found = run(launches, &buffers)[2].f64s();
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= 1e-12 * expected,
            "{found} {expected}"
        );
    }
}

#[test]
fn gradients_are_clipped_together_or_each_on_its_own() {
    // More than a block has threads.
    let squares: Vec<f64> = numbers(300, 7, Float::F32).iter().map(|x| x * x).collect();
    let norm = squares.iter().sum::<f64>().sqrt();
    let scales = |numbers: &[f64], limit: f64, own: bool| {
        let behind = numbers.len() - squares.len();
        let launch = launch::clip_scales(squares.len(), behind, limit, own);
        let out = if own { squares.len() } else { 1 };
        run(launch, &[Buffer::f64s(numbers), Buffer::poison(out, 4)])[1].f32s()
    };
    let to = |limit: f64, norm: f64| (limit / (norm + 1e-6)).min(1.0) as f32;
    let with = |at: usize, number: f64| {
        let mut all = squares.clone();
        all.extend([3.5, -0.25]);
        all[at] = number;
        all
    };
    let fine = with(0, squares[0]);
    let together = scales(&fine, 1.5, false);
    assert!((together[0] - to(1.5, norm)).abs() <= 1e-7, "{together:?}");
    let own: Vec<f32> = squares.iter().map(|s| to(0.7, s.sqrt())).collect();
    assert_eq!(scales(&fine, 0.7, true), own);
    assert_eq!(scales(&fine, 1e9, false), [1.0]);
    assert_eq!(scales(&fine, 0.0, true), vec![1.0; squares.len()]);
    // Of a sum, of all sums together, or of a loss behind them.
    let faults = [
        (0, f64::NAN),
        (299, f64::INFINITY),
        (300, f64::NAN),
        (301, f64::NEG_INFINITY),
    ];
    for (at, number) in faults {
        for (limit, own) in [(1.5, false), (1.5, true), (0.0, false), (0.0, true)] {
            let found = scales(&with(at, number), limit, own);
            assert!(
                found.iter().all(|s| s.is_nan()),
                "{at} {number} {limit} {own}"
            );
        }
    }
    let overflows: Vec<f64> = vec![1e308; 300];
    assert!(scales(&overflows, 1.5, false)[0].is_nan());
}
