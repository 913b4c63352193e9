//! Quantized weights, bit for bit.

use super::*;
use kernels::cuda::launch;
use kernels::{Absmax, Bytes, GgmlType, Matrix, Nf4};

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
