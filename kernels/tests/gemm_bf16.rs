//! Products of bf16 by pairs: every shape and stored form against the chain of operations that the
//! instruction's description gives, and against f64.
//!
//! The plain-code version runs on any machine and covers packing, blocks, tails and threads; the
//! instruction is compared with it where there is one.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use half::bf16;
use kernels::{Bf16Dot, Bytes, GgmlType, Matrix, linear, linear_cross_entropy, linear_dx_in};
use std::sync::Arc;

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Numbers of many magnitudes, exact in bf16.
fn numbers(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed;
    let list: Vec<bf16> = (0..rows * cols)
        .map(|_| {
            let x = (random(&mut state) % 4001) as f32 / 2000.0 - 1.0003;
            bf16::from_f32(x * [0.01, 1.0, 3.7][(random(&mut state) % 3) as usize])
        })
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

/// Small whole numbers, whose sums of products are exact in any order.
fn whole_numbers(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed;
    let list: Vec<bf16> = (0..rows * cols)
        .map(|_| bf16::from_f32((random(&mut state) % 15) as f32 - 7.0))
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

fn list(t: &Tensor) -> Vec<f32> {
    let t = t.to_dtype(DType::F32).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    list(t).iter().map(|x| x.to_bits()).collect()
}

/// Fails if a sum of products is further from the exact one than k roundings to nearest, each of
/// half a unit of what has been summed, can take it: k·u / (1 - k·u) · Σ |a b| with u = 2^-24.
fn within_bound(sum: f32, factors: impl ExactSizeIterator<Item = (f32, f32)>) {
    let (mut exact, mut size) = (0f64, 0f64);
    let ku = factors.len() as f64 * 2f64.powi(-24);
    for (a, b) in factors {
        let product = f64::from(a) * f64::from(b);
        exact += product;
        size += product.abs();
    }
    let (error, bound) = ((f64::from(sum) - exact).abs(), ku / (1.0 - ku) * size);
    assert!(error <= bound, "{sum} against {exact}: {error} > {bound}");
}

/// a (m, k) · b (k, n), each element by the documented chain.
fn chains(a: &[f32], b: impl Fn(usize, usize) -> f32, m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut out = vec![];
    for i in 0..m {
        let row = &a[i * k..][..k];
        for j in 0..n {
            let mut sum = 0f32;
            for at in (0..k).step_by(2) {
                if at + 1 < k {
                    sum = row[at + 1].mul_add(b(at + 1, j), sum);
                }
                sum = row[at].mul_add(b(at, j), sum);
            }
            out.push(sum);
        }
    }
    out
}

/// (T, N, K): tails of rows, columns and pairs, several tasks, panels, blocks of the depth and slabs.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (5, 7, 123),
    (6, 64, 2),
    (7, 65, 33),
    (49, 130, 5),
    (101, 63, 64),
    (3, 17, 2051),
    (13, 1, 48),
    (11, 70, 1025),
    (2, 1237, 1802),
];

#[test]
fn every_shape_is_the_documented_chain() {
    let dot = Bf16Dot::portable();
    for &(t, n, k) in SHAPES {
        let (x, w, dy) = (numbers(t, k, 3), numbers(n, k, 5), numbers(t, n, 7));
        let matrix = Matrix::dense(w.clone());
        let w = list(&w);
        let y = dot.linear(&x, &matrix).unwrap();
        assert_eq!((y.dims(), y.dtype()), (&[t, n][..], DType::F32));
        let expected = chains(&list(&x), |at, j| w[j * k + at], t, n, k);
        assert!(list(&y) == expected, "y of ({t}, {n}, {k})");
        let dx = dot.linear_dx(&dy, &matrix).unwrap();
        assert_eq!((dx.dims(), dx.dtype()), (&[t, k][..], DType::F32));
        let expected = chains(&list(&dy), |at, j| w[at * k + j], t, k, n);
        assert!(list(&dx) == expected, "dx of ({t}, {n}, {k})");
    }
}

#[test]
fn nothing_times_nothing_is_zero() {
    let dot = Bf16Dot::portable();
    for (t, n, k) in [(0, 70, 5), (7, 0, 5)] {
        let (x, w, dy) = (numbers(t, k, 3), numbers(n, k, 5), numbers(t, n, 7));
        let matrix = Matrix::dense(w);
        let y = dot.linear(&x, &matrix).unwrap();
        assert_eq!(list(&y), vec![0.0; t * n], "y of ({t}, {n}, {k})");
        let dx = dot.linear_dx(&dy, &matrix).unwrap();
        assert_eq!(list(&dx), vec![0.0; t * k], "dx of ({t}, {n}, {k})");
    }
}

/// The same bytes at an odd address.
fn misaligned(bytes: &[u8]) -> Bytes {
    let mut padded = vec![0u8; bytes.len() + 16];
    let start = (0..16)
        .find(|i| (padded.as_ptr() as usize + i) % 8 == 3)
        .unwrap();
    padded[start..start + bytes.len()].copy_from_slice(bytes);
    Bytes::new(Arc::new(padded), start..start + bytes.len()).unwrap()
}

#[test]
fn other_stored_forms_are_rounded_to_bf16() {
    let dot = Bf16Dot::portable();
    let (t, n, k) = (7, 72, 64);
    let (x, dy) = (numbers(t, k, 3), numbers(t, n, 7));
    let wide = (numbers(n, k, 5).to_dtype(DType::F32).unwrap() * 1.2345).unwrap();
    let quantized = QTensor::quantize(&wide, GgmlDType::Q8_0).unwrap();
    let quantized = quantized.data().unwrap().to_vec();
    let narrow = wide.to_dtype(DType::BF16).unwrap();
    let narrow = narrow.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
    let narrow: Vec<u8> = narrow.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mapped = |bytes| Matrix::mapped(bytes, DType::BF16, n, k).unwrap();
    let ggml = |heads| {
        Matrix::ggml(
            Bytes::from_vec(quantized.clone()),
            GgmlType::Q8_0,
            n,
            k,
            heads,
        )
    };
    for (how, matrix) in [
        ("f32", Matrix::dense(wide.clone())),
        ("f64", Matrix::dense(wide.to_dtype(DType::F64).unwrap())),
        ("f16", Matrix::dense(wide.to_dtype(DType::F16).unwrap())),
        ("mapped bf16", mapped(Bytes::from_vec(narrow.clone()))),
        ("misaligned bf16", mapped(misaligned(&narrow))),
        ("q8_0", ggml(None).unwrap()),
        ("q8_0 of heads", ggml(Some(3)).unwrap()),
    ] {
        let rounded = matrix.to_tensor(DType::F32).unwrap();
        let rounded = Matrix::dense(rounded.to_dtype(DType::BF16).unwrap());
        let y = dot.linear(&x, &matrix).unwrap();
        assert_eq!(bits(&y), bits(&dot.linear(&x, &rounded).unwrap()), "{how}");
        let dx = dot.linear_dx(&dy, &matrix).unwrap();
        let expected = dot.linear_dx(&dy, &rounded).unwrap();
        assert_eq!(bits(&dx), bits(&expected), "{how}");
    }
}

#[test]
fn the_bits_do_not_depend_on_threads_or_on_the_other_rows() {
    let dot = Bf16Dot::native().unwrap_or(Bf16Dot::portable());
    let (t, n, k) = (123, 201, 1100);
    let (x, dy) = (numbers(t, k, 3), numbers(t, n, 7));
    let matrix = Matrix::dense(numbers(n, k, 5));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let (y, dx) = (dot.linear(&x, &matrix), dot.linear_dx(&dy, &matrix));
            (bits(&y.unwrap()), bits(&dx.unwrap()))
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
    let some = dot.linear(&x.narrow(0, 31, 5).unwrap(), &matrix).unwrap();
    assert_eq!(bits(&some), one.0[31 * n..36 * n]);
}

#[test]
fn a_nan_or_infinity_stays_in_its_row_and_column() {
    for dot in [Some(Bf16Dot::portable()), Bf16Dot::native()]
        .into_iter()
        .flatten()
    {
        let (t, n, k) = (8, 67, 33);
        let (x, w) = (whole_numbers(t, k, 3), whole_numbers(n, k, 5));
        let clean = list(&dot.linear(&x, &Matrix::dense(w.clone())).unwrap());
        let (mut x, mut w) = (list(&x), list(&w));
        x[6 * k + 32] = f32::NAN;
        w[65 * k + 32] = f32::INFINITY;
        x[32] = 1.0;
        let tensor = |list, rows| {
            let t = Tensor::from_vec(list, (rows, k), &Device::Cpu).unwrap();
            t.to_dtype(DType::BF16).unwrap()
        };
        let y = list(
            &dot.linear(&tensor(x, t), &Matrix::dense(tensor(w, n)))
                .unwrap(),
        );
        for i in 1..t {
            for j in 0..n {
                let (y, clean) = (y[i * n + j], clean[i * n + j]);
                match (i == 6, j == 65) {
                    (true, _) => assert!(y.is_nan(), "({i}, {j}) is {y}"),
                    (_, true) => assert!(!y.is_finite(), "({i}, {j}) is {y}"),
                    _ => assert_eq!(y, clean, "({i}, {j})"),
                }
            }
        }
        assert_eq!(y[65], f32::INFINITY);
    }
}

#[test]
fn subnormal_numbers_count_as_zero() {
    for dot in [Some(Bf16Dot::portable()), Bf16Dot::native()]
        .into_iter()
        .flatten()
    {
        let tensor = |list: &[f32], shape| {
            let t = Tensor::from_slice(list, shape, &Device::Cpu).unwrap();
            t.to_dtype(DType::BF16).unwrap()
        };
        let subnormal = f32::from_bits(0x0040_0000);
        let small = 2f32.powi(-70);
        // A subnormal factor; a subnormal product; a normal one.
        let x = tensor(&[subnormal, 0.0, small, 0.0, small, 0.0], (3, 2));
        let w = Matrix::dense(tensor(
            &[2f32.powi(100), 1.0, small, 0.0, 2f32.powi(-40), 0.0],
            (3, 2),
        ));
        let y = list(&dot.linear(&x, &w).unwrap());
        assert_eq!(y[0], 0.0);
        assert_eq!(y[4], 0.0);
        assert_eq!(y[5], 2f32.powi(-110));
        assert_eq!(y[3], 2f32.powi(30));
    }
}

/// Every number has a place and a sign of its own, so that an exchanged row, column or pair shows;
/// the sums are exact, so that the bits say nothing of the processor's rounding. That is held by the
/// bound in `products_stay_within_the_bound`.
#[test]
fn the_instruction_gives_the_portable_bits() {
    let Some(native) = Bf16Dot::native() else {
        println!("skipped: this processor has no AVX-512 BF16");
        return;
    };
    let portable = Bf16Dot::portable();
    for &(t, n, k) in SHAPES {
        let (x, dy) = (whole_numbers(t, k, 3), whole_numbers(t, n, 7));
        let w = Matrix::dense(whole_numbers(n, k, 5));
        let y = bits(&native.linear(&x, &w).unwrap());
        assert!(
            y == bits(&portable.linear(&x, &w).unwrap()),
            "y of ({t}, {n}, {k})"
        );
        let dx = bits(&native.linear_dx(&dy, &w).unwrap());
        let expected = bits(&portable.linear_dx(&dy, &w).unwrap());
        assert!(dx == expected, "dx of ({t}, {n}, {k})");
    }
}

#[test]
fn products_stay_within_the_bound() {
    for dot in [Some(Bf16Dot::portable()), Bf16Dot::native()]
        .into_iter()
        .flatten()
    {
        for &(t, n, k) in SHAPES {
            let (x, w) = (numbers(t, k, 3), numbers(n, k, 5));
            let y = list(&dot.linear(&x, &Matrix::dense(w.clone())).unwrap());
            let (x, w) = (list(&x), list(&w));
            for (i, y) in y.into_iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                within_bound(y, x.iter().copied().zip(w.iter().copied()));
            }
        }
    }
}

#[test]
fn the_heads_loss_and_gradients_follow_f32() {
    let (t, d, v) = (23, 40, 301);
    let (x, w) = (numbers(t, d, 3), numbers(v, d, 5));
    let targets: Vec<u32> = (0..t as u32).map(|i| i * 13 % v as u32).collect();
    let head = Matrix::dense(w);
    let wide = x.to_dtype(DType::F32).unwrap();
    let exact = linear_cross_entropy(&wide, &head, &targets, 0.37, true, true).unwrap();
    for dot in [Some(Bf16Dot::portable()), Bf16Dot::native()]
        .into_iter()
        .flatten()
    {
        let loss = dot
            .linear_cross_entropy(&x, &head, &targets, 0.37, true, true)
            .unwrap();
        let difference = (loss.loss_sum.value().unwrap() - exact.loss_sum.value().unwrap()).abs()
            / exact.loss_sum.value().unwrap();
        assert!(difference < 1e-6, "loss differs by {difference}");
        // dz is rounded to 8 bits: half a unit of each, added up in dx at its size.
        let largest = |t: &Tensor| list(t).iter().fold(0f32, |m, x| m.max(x.abs()));
        for (ours, exact, tolerance) in [
            (&loss.dx, &exact.dx, 4e-3),
            (&loss.dweight, &exact.dweight, 1e-5),
        ] {
            let (ours, exact) = (ours.as_ref().unwrap(), exact.as_ref().unwrap());
            let difference = largest(&(ours - exact).unwrap()) / largest(exact);
            assert!(difference < tolerance, "{difference} of the largest");
        }
        let plain = dot
            .linear_cross_entropy(&x, &head, &targets, 0.37, false, false)
            .unwrap();
        assert_eq!(
            plain.loss_sum.value().unwrap(),
            loss.loss_sum.value().unwrap()
        );
    }
}

#[test]
fn products_choose_the_instruction_where_it_is() {
    let (t, n, k) = (9, 70, 65);
    let (x, dy) = (numbers(t, k, 3), numbers(t, n, 7));
    let w = Matrix::dense(numbers(n, k, 5));
    let dy = (dy.to_dtype(DType::F32).unwrap() * 1.2345).unwrap();
    let wide = linear_dx_in(&dy, &w, DType::F32).unwrap();
    assert_eq!(bits(&wide), bits(&kernels::linear_dx(&dy, &w).unwrap()));
    let (y, dx) = (
        linear(&x, &w).unwrap(),
        linear_dx_in(&dy, &w, DType::BF16).unwrap(),
    );
    match Bf16Dot::native() {
        Some(dot) => {
            assert_eq!(bits(&y), bits(&dot.linear(&x, &w).unwrap()));
            assert_eq!(bits(&dx), bits(&dot.linear_dx(&dy, &w).unwrap()));
        }
        None => {
            let x = x.to_dtype(DType::F32).unwrap();
            assert_eq!(bits(&y), bits(&linear(&x, &w).unwrap()));
            assert_eq!(bits(&dx), bits(&wide));
        }
    }
}
