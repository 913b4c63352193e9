//! What every operation of the registry owes: candle's plain composition gives the same numbers,
//! candle's tape and finite differences give the same gradients, in every type, for views as for
//! dense inputs, and with any number of threads to the bit.

use candle_core::{DType, Device, Tensor, Var};
use kernels::{OPS, OpCase};

/// Numbers in (-1.5, 1.5), never zero.
fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let list: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
            let value = 3.0 * unit - 1.5;
            if value.abs() < 0.01 { 0.5 } else { value }
        })
        .collect();
    Tensor::from_vec(list, shape, &Device::Cpu).unwrap()
}

fn list(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest difference, as a share of the largest number.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (list(a), list(b));
    let largest = b.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(&b).fold(0f64, |m, (x, y)| {
        assert!(x.is_finite() && y.is_finite(), "{x} against {y}");
        m.max((x - y).abs())
    });
    worst / largest
}

struct Trial {
    name: String,
    case: OpCase,
    inputs: Vec<Tensor>,
    dy: Tensor,
}

/// Every case on every choice of shapes, in f64.
fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in OPS {
        for shapes in case.shapes {
            let inputs: Vec<Tensor> = shapes
                .iter()
                .enumerate()
                .map(|(i, s)| numbers(s, 10 + i as u64))
                .collect();
            let (y, _) = (case.run)(&inputs, None).unwrap();
            let dy = numbers(y.dims(), 99);
            trials.push(Trial {
                name: format!("{} {shapes:?}", case.name),
                case: *case,
                inputs,
                dy,
            });
        }
    }
    trials
}

impl Trial {
    fn in_type(&self, dtype: DType) -> (Vec<Tensor>, Tensor) {
        let to = |t: &Tensor| t.to_dtype(dtype).unwrap();
        (self.inputs.iter().map(to).collect(), to(&self.dy))
    }

    /// y and the gradients by candle's tape, in f64.
    fn referee(&self, inputs: &[Tensor], dy: &Tensor) -> (Tensor, Vec<Tensor>) {
        let to = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let vars: Vec<Var> = inputs
            .iter()
            .map(|t| Var::from_tensor(&to(t)).unwrap())
            .collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = (self.case.reference)(&tensors).unwrap();
        let grads = (&y * &to(dy))
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let grads = vars
            .iter()
            .map(|v| grads.get(v).expect("the tape reaches it").clone())
            .collect();
        (y.detach(), grads)
    }

    fn compare(&self, dtype: DType, tolerance: f64) {
        let (inputs, dy) = self.in_type(dtype);
        let (y, grads) = (self.case.run)(&inputs, Some(&dy)).unwrap();
        let (expected, expected_grads) = self.referee(&inputs, &dy);
        let off = difference(&y, &expected);
        assert!(
            off < tolerance,
            "{} {dtype:?}: y is off by {off}",
            self.name
        );
        assert_eq!(grads.len(), inputs.len(), "{}", self.name);
        for (i, (ours, theirs)) in grads.iter().zip(&expected_grads).enumerate() {
            let off = difference(ours, theirs);
            assert!(
                off < tolerance,
                "{} {dtype:?}: gradient {i} is off by {off}",
                self.name
            );
            assert!(
                list(ours).iter().any(|x| *x != 0.0),
                "{}: gradient {i} is zero",
                self.name
            );
        }
    }
}

#[test]
fn equals_the_plain_composition_and_its_tape_in_f64() {
    trials().iter().for_each(|t| t.compare(DType::F64, 1e-12));
}

#[test]
fn equals_the_plain_composition_and_its_tape_in_f32() {
    trials().iter().for_each(|t| t.compare(DType::F32, 2e-6));
}

#[test]
fn equals_the_plain_composition_and_its_tape_in_bf16() {
    trials().iter().for_each(|t| t.compare(DType::BF16, 1.2e-2));
}

#[test]
fn gradients_equal_finite_differences() {
    for trial in trials() {
        let (_, grads) = (trial.case.run)(&trial.inputs, Some(&trial.dy)).unwrap();
        let value = |inputs: &[Tensor]| -> f64 {
            let (y, _) = (trial.case.run)(inputs, None).unwrap();
            list(&y)
                .iter()
                .zip(list(&trial.dy))
                .map(|(y, d)| y * d)
                .sum()
        };
        for (i, grad) in grads.iter().enumerate() {
            let grad = list(grad);
            let largest = grad.iter().fold(0f64, |m, x| m.max(x.abs()));
            let numbers = list(&trial.inputs[i]);
            // Thirteen elements, spread so that they meet every row and column remainder.
            for at in (0..13).map(|k| (k * 7_919 + 3) % numbers.len()) {
                let step = 1e-5;
                let shifted = |by: f64| {
                    let mut moved = numbers.clone();
                    moved[at] += by;
                    let mut inputs = trial.inputs.clone();
                    inputs[i] =
                        Tensor::from_vec(moved, trial.inputs[i].shape(), &Device::Cpu).unwrap();
                    value(&inputs)
                };
                let slope = (shifted(step) - shifted(-step)) / (2.0 * step);
                let off = (slope - grad[at]).abs() / largest;
                assert!(
                    off < 1e-7,
                    "{} input {i} element {at}: {slope} against {}",
                    trial.name,
                    grad[at]
                );
            }
        }
    }
}

/// y and gradients as bits.
fn bits(outcome: &(Tensor, Vec<Tensor>)) -> Vec<Vec<u64>> {
    let (y, grads) = outcome;
    std::iter::once(y)
        .chain(grads)
        .map(|t| list(t).iter().map(|x| x.to_bits()).collect())
        .collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    for trial in trials() {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let (inputs, dy) = trial.in_type(dtype);
            let outcomes = [1, 2, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                bits(&pool.install(|| (trial.case.run)(&inputs, Some(&dy)).unwrap()))
            });
            assert!(
                outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2],
                "{} {dtype:?}",
                trial.name
            );
        }
    }
}

#[test]
fn views_give_the_same_bits_as_dense_inputs() {
    let strided = |t: &Tensor| match t.rank() {
        2 => t.t().unwrap().contiguous().unwrap().t().unwrap(),
        _ => t.clone(),
    };
    for trial in trials() {
        let (inputs, dy) = trial.in_type(DType::F32);
        let views: Vec<Tensor> = inputs.iter().map(strided).collect();
        let dense = (trial.case.run)(&inputs, Some(&dy)).unwrap();
        let view = (trial.case.run)(&views, Some(&strided(&dy))).unwrap();
        // The matrix product reads a view in place, and its order of sums may differ by its strides.
        if trial.case.name == "gemm" {
            assert!(difference(&view.0, &dense.0) < 1e-6);
        } else {
            assert!(bits(&dense) == bits(&view), "{}", trial.name);
        }
    }
}
