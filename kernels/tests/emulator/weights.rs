//! Quantized and random weights, bit for bit.

use super::*;
use kernels::cuda::launch;
use kernels::{Absmax, Bytes, GgmlType, LowRankUpdate, Matrix, Nf4, RowSquares, Uniform};

fn noise(n: usize, seed: u64) -> Vec<u8> {
    numbers(n, seed, Float::F32)
        .iter()
        .map(|x| (x * 1e6) as i64 as u8)
        .collect()
}

/// Rows of a matrix, in a type.
fn rows_of(matrix: &Matrix, float: Float) -> Tensor {
    let ids: Vec<u32> = (0..matrix.rows() as u32).collect();
    kernels::embedding(matrix, &ids, dtype(float)).unwrap()
}

#[test]
fn nf4() {
    // Whole blocks, odd ends, and more blocks than one nested absmax serves.
    for (rows, cols) in [(5, 123), (7, 64), (300, 65), (1, 1)] {
        let weight = Matrix::dense(tensor(
            &numbers(rows * cols, 3, Float::F32),
            &[rows, cols],
            DType::F32,
        ));
        for double in [false, true] {
            let nf4 = Nf4::quantize(&weight, double).unwrap();
            let matrix = Matrix::nf4(nf4.clone(), rows, cols).unwrap();
            for out in FLOATS {
                let name = format!("nf4 ({rows}, {cols}) {double} {out:?}");
                let expected = rows_of(&matrix, out);
                let n = rows * cols;
                // The whole, and from the second block on.
                for start in [0, 64].into_iter().filter(|s| *s < n) {
                    let mut buffers = vec![Buffer::bytes(nf4.codes().as_slice())];
                    let mut offset = None;
                    match nf4.absmax() {
                        Absmax::Plain(absmax) => {
                            buffers.push(Buffer {
                                shift: 4,
                                ..Buffer::bytes(absmax.as_slice())
                            });
                            buffers.push(Buffer::poison(n - start, out.size()));
                        }
                        Absmax::Nested {
                            codes,
                            map,
                            absmax,
                            offset: mean,
                        } => {
                            offset = Some(*mean);
                            buffers.push(Buffer::bytes(codes.as_slice()));
                            buffers.push(Buffer::poison(n - start, out.size()));
                            buffers.extend([Buffer::f32s(&map[..]), Buffer::f32s(absmax)]);
                        }
                    }
                    let found = run(
                        launch::nf4_dequantize(out, start, n - start, offset),
                        &buffers,
                    );
                    let expected = expected
                        .flatten_all()
                        .unwrap()
                        .narrow(0, start, n - start)
                        .unwrap();
                    same(&name, &found[2], &expected);
                }
            }
        }
    }
}

#[test]
fn ggml() {
    use GgmlType::*;
    for kind in [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K] {
        for (rows, blocks, head_rows) in [(3, 1, None), (12, 2, Some(6)), (12, 3, None)] {
            let cols = match kind.block_size() {
                1 => 41 * blocks,
                n => n * blocks,
            };
            let mut bytes = noise(rows * cols / kind.block_size() * kind.block_bytes(), 9);
            // Scales of every exponent but the one of infinities: a NaN's bits may differ.
            let scales: &[usize] = match kind {
                F32 => &[2],
                F16 | BF16 => &[0],
                Q6K => &[208],
                Q8_0 | Q4_0 | Q5_0 => &[0],
                _ => &[0, 2],
            };
            for block in bytes.chunks_mut(kind.block_bytes()) {
                for at in scales {
                    block[at + 1] &= 0xbb;
                }
            }
            let matrix = Matrix::ggml(
                Bytes::from_vec(bytes.clone()),
                kind,
                rows,
                cols,
                head_rows.map(|n| rows / n),
            );
            let matrix = matrix.unwrap();
            for out in FLOATS {
                let name = format!("{} ({rows}, {cols}) {head_rows:?} {out:?}", kind.name());
                let buffers = [
                    Buffer::bytes(&bytes),
                    Buffer::poison(rows * cols, out.size()),
                ];
                let found = run(
                    launch::ggml_dequantize(kind, out, rows, cols, head_rows),
                    &buffers,
                );
                same(&name, &found[1], &rows_of(&matrix, out));
            }
        }
    }
}

/// Odd shapes, more rows than a block's, more columns than a block takes at once, and rows that the update nearly takes
/// away.
#[test]
fn row_norms() {
    for w_type in FLOATS {
        for (n, k, r) in [(5, 123, 7), (8, 64, 3), (19, 1500, 1), (3, 2056, 16)] {
            for left in [1.0, 1e-3] {
                let name = format!("row_norms {w_type:?} ({n}, {k}, {r}), {left} of it left");
                let (a, b) = (numbers(r * k, 1, Float::F32), numbers(n * r, 2, Float::F32));
                let scaling = 0.37;
                let own = numbers(n * k, 3, w_type);
                let update = |i: usize| -> f64 {
                    let (row, column) = (i / k, i % k);
                    let terms = (0..r).map(|l| b[row * r + l] * a[l * k + column]);
                    -scaling * terms.sum::<f64>()
                };
                let whole = |i: usize| match (left, w_type) {
                    (1.0, _) => own[i],
                    (left, Float::F32) => f64::from((update(i) + left * own[i]) as f32),
                    (left, Float::Bf16) => {
                        f64::from(bf16::from_f64(update(i) + left * own[i]).to_f32())
                    }
                };
                let w: Vec<f64> = (0..n * k).map(whole).collect();
                let matrix = Matrix::dense(tensor(&w, &[n, k], dtype(w_type)));
                let (a64, b64) = (
                    tensor(&a, &[r, k], DType::F64),
                    tensor(&b, &[n, r], DType::F64),
                );
                let update = LowRankUpdate {
                    a: &a64,
                    b: &b64,
                    scaling: f64::from(scaling as f32),
                };
                let squares = RowSquares::of(&matrix).unwrap();
                let expected = kernels::row_norms(&matrix, &squares, update).unwrap();
                let found = run(
                    launch::row_norms(w_type, n, k, r, scaling),
                    &[
                        Buffer::floats(&w, w_type),
                        Buffer::floats(&a, Float::F32),
                        Buffer::floats(&b, Float::F32),
                        Buffer::poison(n, 4),
                    ],
                );
                // Roundings of each element of the update, which average out over a row; the squares are added in f64.
                let largest = list(&expected).iter().fold(0f64, |m, x| m.max(*x));
                let update_is = 2.25 * scaling * (r as f64) * (k as f64).sqrt();
                let steps = 4.0 + r as f64 * (update_is / largest).max(1.0);
                close(
                    &name,
                    &found[3].floats(Float::F32),
                    &list(&expected),
                    Float::F32,
                    steps,
                );
            }
        }
    }
}

#[test]
fn random() {
    for float in FLOATS {
        // Within a chunk, over one's border in the middle of a pack, over several; from far out, and round the end.
        for (n, offset) in [
            (5, 0),
            (123, 16_384 - 61),
            (40_001, 7),
            (9, u64::MAX - 4),
            (2_048, 70_000_000_000 - 1),
        ] {
            let uniform = Uniform {
                seed: 0x1234_5678_9abc,
                offset,
                scale: 0.02,
            };
            let mut expected = tensor(&vec![f64::NAN; n], &[n], dtype(float));
            kernels::fill_uniform(&mut expected, uniform).unwrap();
            let buffers = [Buffer::poison(n, float.size())];
            let found = run(launch::random_uniform(float, n, uniform), &buffers);
            same(
                &format!("{float:?} {n} from {offset}"),
                &found[0],
                &expected,
            );
        }
    }
}
