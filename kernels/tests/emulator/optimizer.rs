//! AdamW in all its forms, bit for bit, and the global norm.

use super::*;
use kernels::cuda::launch::{self, Weights};
use kernels::{AdamW, Keep, Moments, RoundingKey, adamw_step};

const SETTINGS: AdamW = AdamW {
    learning_rate: 3e-3,
    beta1: 0.9,
    beta2: 0.97,
    epsilon: 1e-8,
    weight_decay: 0.1,
    gradient_scale: 0.37,
};

/// Odd counts, and more than the 16,384 elements that share a hash.
const COUNTS: [usize; 4] = [5, 123, 2048, 40_001];

/// Weights, how they are kept on both sides, and the weights' type.
fn forms(n: usize, step: u64) -> [(Tensor, Keep, Weights); 3] {
    let list = numbers(n, 1, Float::F32);
    let p = |dtype| tensor(&list, &[n], dtype);
    let key = RoundingKey {
        seed: 0x1234_5678_9abc,
        step,
        parameter: 77,
    };
    [
        (p(DType::F32), Keep::Exact, Weights::Exact),
        (p(DType::BF16), Keep::Master(p(DType::F32)), Weights::Master),
        (
            p(DType::BF16),
            Keep::Stochastic(key),
            Weights::Stochastic(key),
        ),
    ]
}

/// One step on the processor: what it began with, and what it came to.
struct Step {
    name: String,
    weights: Weights,
    g: Float,
    number: u64,
    /// Weights, master copy, gradient, moments.
    before: Vec<Buffer>,
    p: Tensor,
    master: Option<Tensor>,
    moments: Moments,
}

impl Step {
    /// Holds a kernel's buffers, in the order of `before`, to what the processor came to.
    fn check(&self, found: &[Result]) {
        same(&self.name, &found[0], &self.p);
        if let Some(master) = &self.master {
            same(&self.name, &found[1], master);
        }
        for (i, (what, t)) in self.moments.tensors().into_iter().enumerate() {
            same(&format!("{}, {what}", self.name), &found[3 + i], t);
        }
    }
}

/// Three steps of every form with gradients of every type; the gradient's scale is 0.37 · 0.25.
fn steps(n: usize, zero: impl Fn(&Tensor) -> Moments, check: impl Fn(&Step)) {
    for g_type in FLOATS {
        for (mut p, mut keep, mut weights) in forms(n, 1) {
            let mut moments = zero(&p);
            for step in 1..=3 {
                if let Keep::Stochastic(key) = &mut keep {
                    key.step = step;
                    weights = Weights::Stochastic(*key);
                }
                let scale = 0.01 * step as f64;
                let g = numbers(n, 100 + step, Float::F32);
                // A block has no gradient, and squares of another's are subnormal or 0.
                let of_block = |i: usize| match i / 256 {
                    2 => 0.0,
                    3 => 1e-19,
                    _ => 1.0,
                };
                let g: Vec<f64> = g
                    .iter()
                    .enumerate()
                    .map(|(i, x)| x * scale * of_block(i))
                    .collect();
                let g = tensor(&g, &[n], dtype(g_type));
                let master = match &keep {
                    Keep::Master(master) => Some(master.clone()),
                    _ => None,
                };
                let master_before = master.as_ref().map_or(Buffer::bytes(&[]), Buffer::tensor);
                let mut before = vec![Buffer::tensor(&p), master_before, Buffer::tensor(&g)];
                before.extend(moments.tensors().iter().map(|(_, t)| Buffer::tensor(t)));
                let settings = AdamW {
                    gradient_scale: f64::from(0.37f32 * 0.25),
                    ..SETTINGS
                };
                adamw_step(&mut p, &keep, &g, &mut moments, &settings, step).unwrap();
                check(&Step {
                    name: format!("{weights:?} {g_type:?} {n}, step {step}"),
                    weights,
                    g: g_type,
                    number: step,
                    before,
                    p: p.clone(),
                    master,
                    moments: moments.clone(),
                });
            }
        }
    }
}

#[test]
fn adamw() {
    for n in COUNTS {
        let zero = |p: &Tensor| Moments::plain(p, DType::F32).unwrap();
        steps(n, zero, |s| {
            let mut buffers = s.before.clone();
            buffers.push(Buffer::f32s(&[0.25]));
            let step = launch::adamw(s.weights, s.g, n, &SETTINGS, s.number, true);
            s.check(&run(step, &buffers));
        });
    }
}

#[test]
fn adamw_8bit() {
    let tables = launch::eight_bit_tables();
    for n in COUNTS {
        let zero = |p: &Tensor| Moments::blockwise(p.elem_count(), p.device()).unwrap();
        steps(n, zero, |s| {
            let mut buffers = s.before.clone();
            buffers.extend([Buffer::f32s(&tables), Buffer::f32s(&[0.25])]);
            let step = launch::adamw_8bit(s.weights, s.g, n, &SETTINGS, s.number, true);
            s.check(&run(step, &buffers));
        });
    }
}

#[test]
fn a_scale_that_is_no_number_changes_nothing() {
    let tables = launch::eight_bit_tables();
    for n in COUNTS {
        let unchanged = |s: &Step, found: &[Result]| {
            for (i, buffer) in s.before.iter().enumerate() {
                assert_eq!(found[i].0, buffer.bytes, "{}, buffer {i}", s.name);
            }
        };
        steps(
            n,
            |p| Moments::plain(p, DType::F32).unwrap(),
            |s| {
                let mut buffers = s.before.clone();
                buffers.push(Buffer::f32s(&[f32::NAN]));
                let step = launch::adamw(s.weights, s.g, n, &SETTINGS, s.number, true);
                unchanged(s, &run(step, &buffers));
            },
        );
        let zero = |p: &Tensor| Moments::blockwise(p.elem_count(), p.device()).unwrap();
        steps(n, zero, |s| {
            let mut buffers = s.before.clone();
            buffers.extend([Buffer::f32s(&tables), Buffer::f32s(&[f32::NAN])]);
            let step = launch::adamw_8bit(s.weights, s.g, n, &SETTINGS, s.number, true);
            unchanged(s, &run(step, &buffers));
        });
    }
}

#[test]
fn the_scale_may_come_from_the_host_alone() {
    let n = 123;
    let mut p = tensor(&numbers(n, 1, Float::F32), &[n], DType::F32);
    let g = tensor(&numbers(n, 2, Float::F32), &[n], DType::F32);
    let zeros = Buffer::f32s(&vec![0.0; n]);
    let buffers = [
        Buffer::tensor(&p),
        Buffer::bytes(&[]),
        Buffer::tensor(&g),
        zeros.clone(),
        zeros,
    ];
    let mut moments = Moments::plain(&p, DType::F32).unwrap();
    let step = launch::adamw(Weights::Exact, Float::F32, n, &SETTINGS, 9, false);
    let found = run(step, &buffers);
    adamw_step(&mut p, &Keep::Exact, &g, &mut moments, &SETTINGS, 9).unwrap();
    same("adamw", &found[0], &p);
}

#[test]
fn the_norm_of_several_tensors_clips() {
    let counts = [5, 40_001, 1 << 15, 123];
    for float in FLOATS {
        let lists: Vec<Vec<f64>> = (0..)
            .zip(counts)
            .map(|(i, n)| numbers(n, i, float))
            .collect();
        let mut partials = Vec::new();
        for list in &lists {
            let parts = list.len().div_ceil(launch::SQUARES_PER_PARTIAL);
            let buffers = [Buffer::floats(list, float), Buffer::poison(parts, 8)];
            partials.extend(run(launch::sum_of_squares(float, list.len()), &buffers)[1].f64s());
        }
        let buffers = [Buffer::f64s(&partials), Buffer::poison(1, 8)];
        let squares = run(launch::sum_partials(partials.len()), &buffers)[1].f64s()[0];
        let shape = |n: usize| [n];
        let expected: f64 = lists
            .iter()
            .map(|l| kernels::sum_of_squares(&tensor(l, &shape(l.len()), DType::F64)).unwrap())
            .sum();
        assert!(
            (squares - expected).abs() < 1e-12 * expected,
            "{squares} {expected}"
        );
        let scale = |squares: f64, limit: f64| {
            run(
                launch::clip_scale(limit),
                &[Buffer::f64s(&[squares]), Buffer::poison(1, 4)],
            )[1]
            .f32s()[0]
        };
        assert_eq!(scale(squares, 1.5), (1.5 / (squares.sqrt() + 1e-6)) as f32);
        assert_eq!(scale(squares, 1e9), 1.0);
        assert_eq!(scale(squares, 0.0), 1.0);
        assert!(scale(f64::INFINITY, 1.0).is_nan() && scale(f64::NAN, 0.0).is_nan());
    }
}
