//! NF4 against bitsandbytes: codes and scales byte for byte, values bit for bit, and products that read them.

use candle_core::{DType, Device, Tensor};
use kernels::{Absmax, Bytes, Error, Matrix, NF4_CODE, Nf4, dynamic_map, linear, linear_dx};
use std::collections::HashMap;
use std::sync::Arc;

const CASES: [&str; 6] = ["odd", "one_block", "whole", "big", "extremes", "ties"];

/// See `scripts/golden/nf4.py`.
fn golden() -> HashMap<String, Tensor> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/nf4/tensors.safetensors"
    );
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn bytes(t: &Tensor) -> Vec<u8> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// f32 numbers by their bits: equal means equal, -0 is not 0.
fn bits(t: &Tensor) -> Vec<u32> {
    floats(t).iter().map(|x| x.to_bits()).collect()
}

fn floats(t: &Tensor) -> Vec<f32> {
    let t = t.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
    t.to_vec1().unwrap()
}

/// Numbers about normal, without a pattern.
fn numbers(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let list: Vec<f32> = (0..rows * cols)
        .map(|_| (uniform() + uniform() + uniform()) * 0.04 + 1e-6)
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

/// The golden's own codes and scales as a matrix.
fn stored(golden: &HashMap<String, Tensor>, name: &str) -> Matrix {
    let of = |part: &str| &golden[&format!("{name}.{part}")];
    let (rows, cols) = of("weight").dims2().unwrap();
    let map: [f32; 256] = floats(&golden["nested_quant_map"]).try_into().unwrap();
    let absmax = Absmax::Nested {
        codes: Bytes::from_vec(bytes(of("nested_codes"))),
        map: Arc::new(map),
        absmax: floats(of("nested_absmax")).into(),
        offset: floats(of("offset"))[0],
    };
    let nf4 = Nf4::new(Bytes::from_vec(bytes(of("codes"))), absmax, rows * cols).unwrap();
    Matrix::nf4(nf4, rows, cols).unwrap()
}

#[test]
fn the_tables_are_those_of_bitsandbytes() {
    let golden = golden();
    assert_eq!(
        NF4_CODE.map(f32::to_bits).to_vec(),
        bits(&golden["quant_map"])
    );
    assert_eq!(
        dynamic_map().map(f32::to_bits).to_vec(),
        bits(&golden["nested_quant_map"])
    );
}

#[test]
fn quantizing_gives_the_bytes_of_bitsandbytes() {
    let golden = golden();
    for name in CASES {
        let of = |part: &str| &golden[&format!("{name}.{part}")];
        let weight = Matrix::dense(of("weight").clone());
        let plain = Nf4::quantize(&weight, false).unwrap();
        assert_eq!(plain.codes().as_slice(), bytes(of("codes")), "{name}");
        let Absmax::Plain(absmax) = plain.absmax() else {
            panic!("no double quantization was asked for")
        };
        let absmax: Vec<u32> = absmax
            .as_slice()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        assert_eq!(absmax, bits(of("absmax")), "{name}");

        let nested = Nf4::quantize(&weight, true).unwrap();
        assert_eq!(nested.codes().as_slice(), bytes(of("codes")), "{name}");
        let Absmax::Nested {
            codes,
            absmax,
            offset,
            ..
        } = nested.absmax()
        else {
            panic!("double quantization was asked for")
        };
        assert_eq!(offset.to_bits(), bits(of("offset"))[0], "{name}");
        assert_eq!(codes.as_slice(), bytes(of("nested_codes")), "{name}");
        let absmax: Vec<u32> = absmax.iter().map(|x| x.to_bits()).collect();
        assert_eq!(absmax, bits(of("nested_absmax")), "{name}");
    }
}

#[test]
fn the_offset_is_torchs_mean_to_the_last_bit() {
    let golden = golden();
    for n in [1, 5, 8, 31, 257, 861, 4099, 20011usize] {
        // A block for each number, which is its largest.
        let mut weight = vec![0f32; 64 * n];
        for i in 0..n {
            weight[64 * i + 37 * i % 64] = -((i * 7919 % 1009) as f64 * 1e-4 + 1e-3) as f32;
        }
        let weight = Tensor::from_vec(weight, (n, 64), &Device::Cpu).unwrap();
        let nf4 = Nf4::quantize(&Matrix::dense(weight), true).unwrap();
        let Absmax::Nested { offset, .. } = nf4.absmax() else {
            panic!()
        };
        assert_eq!(
            offset.to_bits(),
            bits(&golden[&format!("mean.{n}")])[0],
            "{n}"
        );
    }
}

#[test]
fn dequantizing_gives_the_bits_of_bitsandbytes() {
    let golden = golden();
    for name in CASES {
        let matrix = stored(&golden, name);
        let whole = matrix.to_tensor(DType::F32).unwrap();
        if let Some(expected) = golden.get(&format!("{name}.dequantized")) {
            assert_eq!(bits(&whole), bits(expected), "{name}");
        }
        let rounded = matrix.to_tensor(DType::BF16).unwrap();
        let expected = &golden[&format!("{name}.dequantized_bf16")];
        assert_eq!(bits(&rounded), bits(expected), "{name}");
        let wide: Vec<f64> = matrix
            .to_tensor(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let narrow = floats(&whole);
        assert!(wide.iter().zip(&narrow).all(|(a, b)| *a == f64::from(*b)));
    }
}

#[test]
fn any_rows_are_those_of_the_whole() {
    let golden = golden();
    // Blocks that straddle rows, odd and even; rows within one block; rows of whole blocks.
    for name in ["odd", "one_block", "whole", "big"] {
        let matrix = stored(&golden, name);
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let whole = floats(&matrix.to_tensor(DType::F32).unwrap());
        for first in 0..rows {
            for count in [1, 2, 5, rows - first] {
                let count = count.min(rows - first);
                let mut out = vec![f32::NAN; count * cols];
                matrix
                    .read_rows_f32(first..first + count, &mut out)
                    .unwrap();
                assert_eq!(out, whole[first * cols..][..count * cols], "{name} {first}");
            }
        }
    }
}

#[test]
fn stored_floats_of_any_type_are_quantized_by_their_values() {
    let weight = numbers(33, 71, 5);
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let narrow = weight.to_dtype(dtype).unwrap();
        let values = Matrix::dense(narrow.to_dtype(DType::F32).unwrap());
        let (a, b) = (
            Nf4::quantize(&Matrix::dense(narrow), true).unwrap(),
            Nf4::quantize(&values, true).unwrap(),
        );
        assert_eq!(a.codes().as_slice(), b.codes().as_slice());
    }
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_threads() {
    for (rows, cols) in [(517, 321), (300, 448), (2100, 64), (3, 100_000)] {
        let weight = Matrix::dense(numbers(rows, cols, 7));
        let outcomes = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let nf4 = Nf4::quantize(&weight, true).unwrap();
                let codes = nf4.codes().as_slice().to_vec();
                let matrix = Matrix::nf4(nf4, rows, cols).unwrap();
                (codes, bits(&matrix.to_tensor(DType::F32).unwrap()))
            })
        });
        assert!(outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2]);
    }
}

#[test]
fn what_was_quantized_is_near_what_it_was() {
    let weight = numbers(123, 7 * 64, 9);
    let nf4 = Nf4::quantize(&Matrix::dense(weight.clone()), true).unwrap();
    assert_eq!(nf4.size_bytes(), 123 * 7 * 32 + 861 + 4 * 4 + 4);
    assert_eq!(nf4.size_bytes(), Nf4::size_of(123 * 448, true));
    assert_eq!(Nf4::size_of(615, false), 308 + 4 * 10);
    let matrix = Matrix::nf4(nf4, 123, 448).unwrap();
    assert_eq!(matrix.size_bytes(), Nf4::size_of(123 * 448, true));
    let (a, b) = (
        floats(&weight),
        floats(&matrix.to_tensor(DType::F32).unwrap()),
    );
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let error = norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied());
    // Four bits leave about a tenth of a normal weight's norm.
    assert!((0.05..0.12).contains(&error), "{error}");
}

#[test]
fn products_are_those_of_the_dequantized_weight() {
    for (rows, cols) in [(7, 123), (123, 448), (2100, 131)] {
        let nf4 = Nf4::quantize(&Matrix::dense(numbers(rows, cols, 3)), true).unwrap();
        let matrix = Matrix::nf4(nf4, rows, cols).unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14), (DType::BF16, 1e-6)] {
            let dense = Matrix::dense(matrix.to_tensor(DType::F32).unwrap());
            for tokens in [1, 3, 5, 130] {
                let x = numbers(tokens, cols, 11).to_dtype(dtype).unwrap();
                let dy = numbers(tokens, rows, 12).to_dtype(dtype).unwrap();
                close(
                    &linear(&x, &matrix).unwrap(),
                    &linear(&x, &dense).unwrap(),
                    tolerance,
                );
                close(
                    &linear_dx(&dy, &matrix).unwrap(),
                    &linear_dx(&dy, &dense).unwrap(),
                    tolerance,
                );
            }
        }
    }
}

fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let list = |t: &Tensor| -> Vec<f64> {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    };
    let (a, b) = (list(a), list(b));
    let largest = b.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= tolerance * largest, "{a} against {b}");
    }
}

fn said<T>(result: kernels::Result<T>) -> String {
    let error: Error = result.err().expect("the call is refused");
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

#[test]
fn parts_that_are_not_there_are_named() {
    let zeros = |n: usize| Bytes::from_vec(vec![0; n]);
    let nested = |codes: usize, absmax: usize| Absmax::Nested {
        codes: zeros(codes),
        map: dynamic_map(),
        absmax: vec![0.5; absmax].into(),
        offset: 0.1,
    };
    insta::assert_snapshot!(said(Nf4::new(zeros(307), nested(10, 1), 615)), @r"
    NF4 of 615 numbers takes 308 bytes of codes, but 307 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    insta::assert_snapshot!(said(Nf4::new(zeros(308), nested(9, 1), 615)), @r"
    NF4 of 615 numbers takes 10 absmax codes, but 9 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    insta::assert_snapshot!(said(Nf4::new(zeros(308), nested(10, 2), 615)), @r"
    NF4 of 615 numbers takes 1 nested absmax values, but 2 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    insta::assert_snapshot!(said(Nf4::new(zeros(308), Absmax::Plain(zeros(36)), 615)), @r"
    NF4 of 615 numbers takes 40 bytes of absmax, but 36 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    let nf4 = Nf4::new(zeros(308), nested(10, 1), 615).unwrap();
    insta::assert_snapshot!(said(Matrix::nf4(nf4, 5, 122)), @r"
    NF4 of 610 numbers takes 610 numbers, but 615 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_their_place() {
    for (value, at) in [
        (f32::NAN, 5000),
        (f32::NEG_INFINITY, 77),
        (f32::NAN, 40 * 321 - 1),
    ] {
        let mut list = floats(&numbers(40, 321, 2));
        list[at] = value;
        list[40 * 321 - 1] = value;
        let weight = Tensor::from_vec(list, (40, 321), &Device::Cpu).unwrap();
        let found = Nf4::quantize(&Matrix::dense(weight), true);
        assert!(matches!(found, Err(Error::NotFinite { element, .. }) if element == at));
    }
    let weight = Tensor::full(f32::INFINITY, (3, 7), &Device::Cpu).unwrap();
    insta::assert_snapshot!(said(Nf4::quantize(&Matrix::dense(weight), true)), @r"
    NF4: number 0 of the weight is not finite
    hint: the run that wrote the weight diverged: use an earlier checkpoint
    ");
}
