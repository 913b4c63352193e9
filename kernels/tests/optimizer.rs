//! AdamW against the paper's equations in f64, and the in-place operations around it.

use candle_core::{DType, Device, Tensor};
use kernels::{AdamW, Keep, Moments, Op, adamw_step, gemm, sum_of_squares};

const SETTINGS: AdamW = AdamW {
    learning_rate: 0.02,
    beta1: 0.85,
    beta2: 0.97,
    epsilon: 1e-6,
    weight_decay: 0.1,
    gradient_scale: 0.75,
};

fn number(i: usize, salt: usize) -> f64 {
    ((i * 7_919 + salt * 104_729) % 2_003) as f64 / 1_001.0 - 0.9987
}

fn list(n: usize, salt: usize) -> Vec<f64> {
    (0..n).map(|i| number(i, salt)).collect()
}

fn plain(p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], step: i32) {
    let s = SETTINGS;
    let g: Vec<f64> = g.iter().map(|g| g * s.gradient_scale).collect();
    for i in 0..p.len() {
        p[i] -= s.learning_rate * s.weight_decay * p[i];
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g[i];
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g[i] * g[i];
        let (mean, square) = (
            m[i] / (1.0 - s.beta1.powi(step)),
            v[i] / (1.0 - s.beta2.powi(step)),
        );
        p[i] -= s.learning_rate * mean / (square.sqrt() + s.epsilon);
    }
}

#[test]
fn twenty_steps_follow_the_equations() {
    // More than one task's share of elements, and a remainder.
    let n = 40_003;
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-13)] {
        let tensor = |x: &[f64]| {
            Tensor::new(x, &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        };
        let (mut p, mut m, mut v) = (list(n, 1), vec![0.0; n], vec![0.0; n]);
        let mut tp = tensor(&p);
        let mut moments = Moments::plain(&tp, dtype).unwrap();
        let seen_elsewhere = tp.clone();
        for step in 1..=20 {
            let g = list(n, 1 + step as usize);
            plain(&mut p, &g, &mut m, &mut v, step);
            adamw_step(
                &mut tp,
                &Keep::Exact,
                &tensor(&g),
                &mut moments,
                &SETTINGS,
                step as u64,
            )
            .unwrap();
        }
        let [(_, tm), (_, tv)] = moments.tensors()[..] else {
            unreachable!()
        };
        for (ours, theirs) in [(&seen_elsewhere, &p), (tm, &m), (tv, &v)] {
            let ours = ours.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < tolerance, "{a} against {b}");
            }
        }
    }
}

#[test]
fn the_gradient_norm_is_summed_in_f64() {
    let x = list(100_001, 3);
    let expected: f64 = x.iter().map(|x| (*x as f32) as f64).map(|x| x * x).sum();
    let t = Tensor::new(&*x, &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap();
    let sums = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| sum_of_squares(&t).unwrap())
    });
    assert_eq!(sums[0].to_bits(), sums[1].to_bits());
    assert!((sums[0] - expected).abs() < 1e-9 * expected);
}

#[test]
fn a_product_with_beta_zero_does_not_read_its_output() {
    for (m, n, k) in [
        (5, 7, 123),
        (1, 9, 33),
        (9, 1, 33),
        (40, 50, 2),
        (3, 4, 0),
        (130, 140, 150),
    ] {
        let a = Tensor::new(&*list(m * k, 1), &Device::Cpu)
            .unwrap()
            .reshape((m, k))
            .unwrap();
        let b = Tensor::new(&*list(n * k, 2), &Device::Cpu)
            .unwrap()
            .reshape((n, k))
            .unwrap();
        let mut out = Tensor::full(f64::NAN, (m, n), &Device::Cpu).unwrap();
        gemm(&mut out, 0.0, 2.0, &a, Op::Plain, &b, Op::Transposed).unwrap();
        let (a, b) = (list(m * k, 1), list(n * k, 2));
        for (i, row) in out.to_vec2::<f64>().unwrap().iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                let expected: f64 = (0..k).map(|l| 2.0 * a[i * k + l] * b[j * k + l]).sum();
                assert!(
                    (x - expected).abs() < 1e-12,
                    "({m}, {n}, {k}) at {i}, {j}: {x} against {expected}"
                );
            }
        }
    }
}

#[test]
fn a_product_goes_into_columns_of_a_wider_tensor() {
    let (m, n, k) = (6, 5, 11);
    let a = Tensor::new(&*list(m * k, 1), &Device::Cpu)
        .unwrap()
        .reshape((m, k))
        .unwrap();
    let b = Tensor::new(&*list(n * k, 2), &Device::Cpu)
        .unwrap()
        .reshape((k, n))
        .unwrap();
    let wide = Tensor::new(&*list(m * 13, 3), &Device::Cpu)
        .unwrap()
        .reshape((m, 13))
        .unwrap();
    let before = wide.to_vec2::<f64>().unwrap();
    let mut columns = wide.narrow(1, 4, n).unwrap();
    gemm(&mut columns, 1.0, -0.5, &a, Op::Plain, &b, Op::Plain).unwrap();
    let product = a.matmul(&b).unwrap().to_vec2::<f64>().unwrap();
    for (i, row) in wide.to_vec2::<f64>().unwrap().iter().enumerate() {
        for (j, x) in row.iter().enumerate() {
            let added = if (4..4 + n).contains(&j) {
                -0.5 * product[i][j - 4]
            } else {
                0.0
            };
            assert!((x - before[i][j] - added).abs() < 1e-13);
        }
    }
}
