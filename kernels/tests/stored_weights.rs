//! Weights in every stored form: what they hold, and that products read them as they are.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use kernels::{
    Bytes, GgmlType, Matrix, embedding, linear, linear_cross_entropy, linear_dx,
    linear_token_scores,
};
use std::borrow::Cow;
use std::sync::Arc;

const KINDS: [(GgmlType, GgmlDType, u32); 11] = [
    (GgmlType::F32, GgmlDType::F32, 0),
    (GgmlType::F16, GgmlDType::F16, 1),
    (GgmlType::Q4_0, GgmlDType::Q4_0, 2),
    (GgmlType::Q4_1, GgmlDType::Q4_1, 3),
    (GgmlType::Q5_0, GgmlDType::Q5_0, 6),
    (GgmlType::Q5_1, GgmlDType::Q5_1, 7),
    (GgmlType::Q8_0, GgmlDType::Q8_0, 8),
    (GgmlType::Q4K, GgmlDType::Q4K, 12),
    (GgmlType::Q5K, GgmlDType::Q5K, 13),
    (GgmlType::Q6K, GgmlDType::Q6K, 14),
    (GgmlType::BF16, GgmlDType::BF16, 30),
];

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn numbers(rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed;
    let list: Vec<f32> = (0..rows * cols)
        .map(|_| (random(&mut state) % 4001) as f32 / 2000.0 - 1.0003)
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

fn list(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (list(a), list(b));
    let largest = b.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (x, y) in a.iter().zip(&b) {
        assert!((x - y).abs() <= tolerance * largest, "{x} against {y}");
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

fn stored_bytes(t: &Tensor, dtype: DType) -> Vec<u8> {
    let t = t.to_dtype(dtype).unwrap().flatten_all().unwrap();
    match dtype {
        DType::F32 => t
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::F64 => t
            .to_vec1::<f64>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::BF16 => t
            .to_vec1::<half::bf16>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        _ => t
            .to_vec1::<half::f16>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
    }
}

/// A weight in every stored form: dense, mapped (also misaligned), quantized (also permuted).
fn every_form(rows: usize, cols: usize) -> Vec<(String, Matrix)> {
    let w = numbers(rows, cols, 7);
    let mut forms = vec![];
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let bytes = stored_bytes(&w, dtype);
        let dense = Matrix::dense(w.to_dtype(dtype).unwrap());
        let aligned = Matrix::mapped(Bytes::from_vec(bytes.clone()), dtype, rows, cols).unwrap();
        let odd = Matrix::mapped(misaligned(&bytes), dtype, rows, cols).unwrap();
        for (how, matrix) in [("dense", dense), ("mapped", aligned), ("misaligned", odd)] {
            forms.push((format!("{how} {dtype:?}"), matrix));
        }
    }
    for (kind, theirs, _) in KINDS {
        if !cols.is_multiple_of(kind.block_size()) {
            continue;
        }
        let bytes = QTensor::quantize(&w, theirs)
            .unwrap()
            .data()
            .unwrap()
            .to_vec();
        for (how, bytes) in [
            ("", Bytes::from_vec(bytes.clone())),
            ("misaligned ", misaligned(&bytes)),
        ] {
            for heads in [None, Some(5)] {
                let matrix = Matrix::ggml(bytes.clone(), kind, rows, cols, heads).unwrap();
                forms.push((format!("{how}{} {heads:?}", kind.name()), matrix));
            }
        }
    }
    forms
}

#[test]
fn quantized_blocks_equal_candles() {
    let mut state = 5;
    for (kind, theirs, id) in KINDS {
        assert_eq!(GgmlType::from_id(id).unwrap(), kind);
        let values = 256 * 40;
        let mut bytes: Vec<u8> = (0..values / kind.block_size() * kind.block_bytes())
            .map(|_| random(&mut state) as u8)
            .collect();
        // Scales of a sane size: f16 fields with a small exponent.
        let fields: &[usize] = match kind {
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[1, 3],
            GgmlType::Q6K => &[209],
            _ => &[1],
        };
        for block in bytes.chunks_mut(kind.block_bytes().max(4)) {
            fields
                .iter()
                .for_each(|at| block[*at] = (block[*at] & 0x83) | 0x28);
        }
        let mut ours = vec![0f32; values];
        kind.dequantize(&bytes, &mut ours);
        let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, theirs).unwrap();
        let expected = QTensor::new(storage, values)
            .unwrap()
            .dequantize(&Device::Cpu)
            .unwrap();
        let expected = expected
            .to_dtype(DType::F32)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let mut distinct = expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(
            distinct.len() > values / 30,
            "{}: {} distinct values",
            kind.name(),
            distinct.len()
        );
        for (i, (x, y)) in ours.iter().zip(&expected).enumerate() {
            let both_nan = x.is_nan() && y.is_nan();
            assert!(
                (x - y).abs() <= 1e-6 * y.abs() || x == y || both_nan,
                "{} value {i}: {x} against {y}",
                kind.name()
            );
        }
    }
}

#[test]
fn llama_cpps_row_order_of_q_and_k_is_undone() {
    let (heads, head_dim, cols) = (3, 10, 7);
    let rows = heads * head_dim;
    let checkpoint = numbers(rows, cols, 3);
    // Its converter: w.reshape(heads, 2, head_dim / 2, in).swapaxes(1, 2).
    let written = checkpoint
        .reshape((heads, 2, head_dim / 2, cols))
        .unwrap()
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((rows, cols))
        .unwrap();
    let bytes = Bytes::from_vec(stored_bytes(&written, DType::F32));
    let matrix = Matrix::ggml(bytes.clone(), GgmlType::F32, rows, cols, Some(heads)).unwrap();
    assert_eq!(
        list(&matrix.to_tensor(DType::F32).unwrap()),
        list(&checkpoint)
    );
    let mut some = vec![0f32; 4 * cols];
    matrix.read_rows_f32(8..12, &mut some).unwrap();
    assert_eq!(
        some,
        checkpoint
            .narrow(0, 8, 4)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    );
    let plain = Matrix::ggml(bytes, GgmlType::F32, rows, cols, None).unwrap();
    assert_eq!(list(&plain.to_tensor(DType::F32).unwrap()), list(&written));
}

#[test]
fn products_read_every_form() {
    for (rows, cols) in [(30, 256), (1030, 512)] {
        for (name, matrix) in every_form(rows, cols) {
            let w = matrix.to_tensor(DType::F64).unwrap();
            close(
                &w.narrow(0, 0, 1).unwrap(),
                &w.narrow(0, 0, 1).unwrap(),
                0.0,
            );
            for t in [1, 4, 37] {
                for (dtype, tolerance) in
                    [(DType::F32, 2e-6), (DType::F64, 1e-13), (DType::BF16, 2e-6)]
                {
                    let x = numbers(t, cols, 11).to_dtype(dtype).unwrap();
                    let y = linear(&x, &matrix).unwrap_or_else(|e| panic!("{name}: {e}"));
                    let wide = x.to_dtype(DType::F64).unwrap();
                    close(&y, &wide.matmul(&w.t().unwrap()).unwrap(), tolerance);
                    let dy = numbers(t, rows, 12).to_dtype(dtype).unwrap();
                    let dx = linear_dx(&dy, &matrix).unwrap();
                    close(
                        &dx,
                        &dy.to_dtype(DType::F64).unwrap().matmul(&w).unwrap(),
                        tolerance,
                    );
                }
            }
        }
    }
}

#[test]
fn embeddings_read_every_form() {
    let ids = [3u32, 29, 0, 3, 17];
    for (name, matrix) in every_form(30, 256) {
        let w = matrix.to_tensor(DType::F32).unwrap();
        let expected = w
            .index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0)
            .unwrap();
        let rows = embedding(&matrix, &ids, DType::F32).unwrap();
        assert_eq!(list(&rows), list(&expected), "{name}");
        let rows = embedding(&matrix, &ids, DType::BF16).unwrap();
        assert_eq!(
            list(&rows),
            list(&expected.to_dtype(DType::BF16).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn threads_do_not_change_a_bit_for_any_form() {
    let x = numbers(37, 512, 1);
    let dy = numbers(37, 1030, 2);
    let targets: Vec<u32> = (0..37).map(|i| i * 27).collect();
    for (name, matrix) in every_form(1030, 512) {
        let outcomes = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let thin = linear(&x.narrow(0, 0, 3).unwrap(), &matrix).unwrap();
                let loss = linear_cross_entropy(&x, &matrix, &targets, 0.5, true, false).unwrap();
                let scores = linear_token_scores(&x, &matrix, &targets).unwrap();
                let lists = [
                    linear(&x, &matrix).unwrap(),
                    linear_dx(&dy, &matrix).unwrap(),
                    thin,
                    loss.dx.unwrap(),
                ];
                (
                    lists.map(|t| list(&t)),
                    loss.loss_sum.value().unwrap().to_bits(),
                    scores,
                )
            })
        });
        assert!(
            outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2],
            "{name}"
        );
    }
}

#[test]
fn scores_and_loss_are_those_of_the_whole_logits() {
    let (x, w) = (numbers(19, 256, 4), numbers(30, 256, 5));
    let targets: Vec<u32> = (0..19).map(|i| (i * 11) % 30).collect();
    let logits = x
        .to_dtype(DType::F64)
        .unwrap()
        .matmul(&w.to_dtype(DType::F64).unwrap().t().unwrap())
        .unwrap();
    let logits = logits.to_vec2::<f64>().unwrap();
    let matrix = Matrix::dense(w);
    let scores = linear_token_scores(&x, &matrix, &targets).unwrap();
    let mut loss = 0.0;
    let mut greedy = 0;
    for ((logits, target), score) in logits.iter().zip(&targets).zip(&scores) {
        let sum: f64 = logits.iter().map(|z| z.exp()).sum();
        let expected = logits[*target as usize] - sum.ln();
        assert!(
            (score.log_prob - expected).abs() < 1e-5,
            "{} against {expected}",
            score.log_prob
        );
        let best = logits
            .iter()
            .enumerate()
            .fold(0, |b, (i, z)| if *z > logits[b] { i } else { b });
        assert_eq!(score.greedy, best == *target as usize);
        greedy += usize::from(score.greedy);
        loss -= expected;
    }
    let best: Vec<u32> = logits
        .iter()
        .map(|z| {
            z.iter()
                .enumerate()
                .fold(0, |b, (i, x)| if *x > z[b] { i } else { b }) as u32
        })
        .collect();
    assert!(
        linear_token_scores(&x, &matrix, &best)
            .unwrap()
            .iter()
            .all(|s| s.greedy)
    );
    assert!(greedy < 19);
    let ours = linear_cross_entropy(&x, &matrix, &targets, 1.0, false, false).unwrap();
    assert!(
        (ours.loss_sum.value().unwrap() - loss).abs() < 1e-4
            && ours.dx.is_none()
            && ours.dweight.is_none()
    );
}

#[test]
fn a_dense_weight_shows_later_updates() {
    let mut weight = numbers(6, 4, 1);
    let matrix = Matrix::dense(weight.clone());
    let x = numbers(2, 4, 2);
    let before = linear(&x, &matrix).unwrap();
    kernels::scale_assign(&mut weight, -2.0).unwrap();
    close(
        &linear(&x, &matrix).unwrap(),
        &(before * -2.0).unwrap(),
        1e-6,
    );
}
