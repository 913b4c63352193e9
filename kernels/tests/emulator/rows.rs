//! Normalisation, rotary embedding, SwiGLU, and everything elementwise.

use super::*;
use kernels::cuda::launch;
use kernels::{Direction, DropoutKey, Matrix, RopeTable, RowIds};

/// Rows and columns: short rows (a warp's), long ones (a block's), odd and whole ones.
const SHAPES: [(usize, usize); 5] = [(5, 123), (9, 8), (70, 40), (3, 1500), (2, 4096)];

/// The name of a case in a message.
fn name(op: &str, floats: &[Float], shape: (usize, usize)) -> String {
    format!("{op} {floats:?} {shape:?}")
}

/// A bf16 or f32 tensor, and the same numbers in f64.
fn both(values: &[f64], shape: &[usize], float: Float) -> (Tensor, Tensor) {
    (
        tensor(values, shape, dtype(float)),
        tensor(values, shape, DType::F64),
    )
}

#[test]
fn rms_norm() {
    for (x_type, w_type) in PAIRS {
        for (rows, d) in SHAPES {
            let name = name("rms_norm", &[x_type, w_type], (rows, d));
            let (x, w) = (numbers(rows * d, 1, x_type), numbers(d, 2, w_type));
            let (_, x64) = both(&x, &[rows, d], x_type);
            let (_, w64) = both(&w, &[d], w_type);
            let (y, _) = kernels::rms_norm(&x64, &w64, 1e-5).unwrap();
            let found = run(
                launch::rms_norm(x_type, w_type, rows, d, 1e-5, false),
                &[
                    Buffer::floats(&x, x_type),
                    Buffer::floats(&w, w_type),
                    Buffer::poison(rows * d, x_type.size()),
                    Buffer::poison(rows, 4),
                ],
            );
            // A thread's squares one after another, the tree over threads, and the division, root, inverse and products.
            let steps = (d as f64 / 32.0).min(16.0 + d as f64 / 256.0) + 16.0;
            close(&name, &found[2].floats(x_type), &list(&y), x_type, steps);

            let reciprocal = found[3].f32s();
            for dy_type in FLOATS {
                if x_type == Float::F32 && dy_type == Float::Bf16 {
                    continue;
                }
                let name = format!("{name}, backward {dy_type:?}");
                let dy = numbers(rows * d, 3, dy_type);
                let dy64 = tensor(&dy, &[rows, d], DType::F64);
                let (dx, dw) = kernels::rms_norm_backward(
                    kernels::rms_norm(&x64, &w64, 1e-5).unwrap().1,
                    &dy64,
                    true,
                )
                .unwrap();
                let inputs = [
                    Buffer::floats(&x, x_type),
                    Buffer::floats(&w, w_type),
                    Buffer::f32s(&reciprocal),
                    Buffer::floats(&dy, dy_type),
                ];
                let mut buffers = inputs.to_vec();
                buffers.push(Buffer::poison(rows * d, dy_type.size()));
                let step = launch::rms_norm_backward(x_type, w_type, dy_type, rows, d, false);
                let found = run(step, &buffers);
                close(
                    &name,
                    &found[4].floats(dy_type),
                    &list(&dx),
                    dy_type,
                    4.0 * steps,
                );
                let before = numbers(rows * d, 4, dy_type);
                buffers[4] = Buffer::floats(&before, dy_type);
                let step = launch::rms_norm_backward(x_type, w_type, dy_type, rows, d, true);
                let sum: Vec<f64> = list(&dx).iter().zip(&before).map(|(a, b)| a + b).collect();
                let found = run(step, &buffers);
                close(
                    &format!("{name}, onto"),
                    &found[4].floats(dy_type),
                    &sum,
                    dy_type,
                    4.0 * steps,
                );
                let found = run(
                    launch::rms_norm_backward_weight(x_type, dy_type, rows, d),
                    &[
                        inputs[0].clone(),
                        inputs[2].clone(),
                        inputs[3].clone(),
                        Buffer::poison(d, 4),
                    ],
                );
                let steps = rows as f64 + steps;
                close(
                    &format!("{name}, weight"),
                    &found[3].floats(Float::F32),
                    &list(&dw.unwrap()),
                    Float::F32,
                    steps,
                );
            }
        }
    }
}

#[test]
fn rms_norm_of_a_sum_is_that_of_the_stored_sum() {
    for (x_type, w_type) in PAIRS {
        for (rows, d) in SHAPES {
            let name = name("rms_norm, residual", &[x_type, w_type], (rows, d));
            let (x, w) = (numbers(rows * d, 1, x_type), numbers(d, 2, w_type));
            let before = numbers(rows * d, 3, x_type);
            let mut sum = tensor(&before, &[rows, d], dtype(x_type));
            kernels::add_assign(&mut sum, &tensor(&x, &[rows, d], dtype(x_type))).unwrap();
            let fused = run(
                launch::rms_norm(x_type, w_type, rows, d, 1e-6, true),
                &[
                    Buffer::floats(&x, x_type),
                    Buffer::floats(&w, w_type),
                    Buffer::poison(rows * d, x_type.size()),
                    Buffer::poison(rows, 4),
                    Buffer::floats(&before, x_type),
                ],
            );
            same(&name, &fused[4], &sum);
            let apart = run(
                launch::rms_norm(x_type, w_type, rows, d, 1e-6, false),
                &[
                    Buffer::tensor(&sum),
                    Buffer::floats(&w, w_type),
                    Buffer::poison(rows * d, x_type.size()),
                    Buffer::poison(rows, 4),
                ],
            );
            assert!(
                apart[2].0 == fused[2].0 && apart[3].0 == fused[3].0,
                "{name}"
            );
        }
    }
}

/// A weight's gradient over more rows than one part has.
#[test]
fn sums_over_many_rows() {
    for float in FLOATS {
        for (rows, d) in [(70, 40), (1000, 7), (1, 3), (20_000, 2)] {
            let name = name("sum_rows", &[float], (rows, d));
            let (x, b) = (
                numbers(rows * d, 1, float),
                numbers(rows * d, 2, Float::Bf16),
            );
            let (x64, b64) = (
                tensor(&x, &[rows, d], DType::F64),
                tensor(&b, &[rows, d], DType::F64),
            );
            let found = run(
                launch::sum_rows(float, rows, d),
                &[Buffer::floats(&x, float), Buffer::poison(d, 4)],
            );
            // A part's rows and the parts, each sum no larger than 1.5 times its rows.
            let bound =
                vec![
                    1.5 * rows as f64 * 2f64.powi(-24) * (rows as f64 / 8.0).clamp(64.0, 512.0);
                    d
                ];
            let expected = list(&kernels::sum_rows(&x64).unwrap());
            within(
                &name,
                &found[1].floats(Float::F32),
                &expected,
                Float::F32,
                &bound,
            );
            let products = launch::column_products(float, Float::Bf16, rows, d);
            let buffers = [
                Buffer::floats(&x, float),
                Buffer::floats(&b, Float::Bf16),
                Buffer::poison(d, 4),
            ];
            let expected = list(&kernels::column_products(&x64, &b64).unwrap());
            within(
                &name,
                &run(products, &buffers)[2].floats(Float::F32),
                &expected,
                Float::F32,
                &bound,
            );
        }
    }
}

#[test]
fn rope_turns_as_the_processor_does() {
    let (heads, kv_heads) = (3, 2);
    for float in FLOATS {
        for (t, head_dim) in [(5, 42), (1, 6), (9, 64), (130, 16)] {
            let name = name("rope", &[float], (t, head_dim));
            let half = head_dim / 2;
            let positions: Vec<u32> = (0..t as u32).map(|i| (i * 7) % 29).collect();
            let inv_freq: Vec<f64> = (0..half)
                .map(|i| 100f64.powf(-(i as f64) / half as f64))
                .collect();
            let angles = || {
                positions
                    .iter()
                    .flat_map(|p| inv_freq.iter().map(move |f| f64::from(*p) * f))
            };
            let table = RopeTable::new(&positions, &inv_freq, 1.25, dtype(float)).unwrap();
            let cos: Vec<f64> = angles().map(|a| a.cos() * 1.25).collect();
            let sin: Vec<f64> = angles().map(|a| a.sin() * 1.25).collect();
            // Both in one merged buffer, with a third part after them that stays.
            let stride = (heads + kv_heads + 1) * head_dim;
            let merged = numbers(t * stride, 7, float);
            for direction in [Direction::Forward, Direction::Backward] {
                let mut whole = tensor(&merged, &[t, stride], dtype(float));
                let parts =
                    [(0, heads), (heads, kv_heads), (heads + kv_heads, 1)].map(|(from, n)| {
                        let mut part = whole
                            .narrow(1, from * head_dim, n * head_dim)
                            .unwrap()
                            .force_contiguous()
                            .unwrap();
                        if from < heads + kv_heads {
                            kernels::rope(&mut part, n, &table, direction).unwrap();
                        }
                        part
                    });
                let dense = |part: &Tensor| Buffer::tensor(&part.force_contiguous().unwrap());
                let input = |from: usize, n: usize| {
                    dense(&whole.narrow(1, from * head_dim, n * head_dim).unwrap())
                };
                let tables = [
                    Buffer::floats(&cos, Float::F32),
                    Buffer::floats(&sin, Float::F32),
                ];
                let mut buffers = vec![input(0, heads), input(heads, kv_heads)];
                buffers.extend(tables.clone());
                let strides = [heads * head_dim, kv_heads * head_dim];
                let step = launch::rope(float, t, heads, kv_heads, head_dim, strides, direction);
                let found = run(step, &buffers);
                same(&name, &found[0], &parts[0]);
                same(&name, &found[1], &parts[1]);
                // q alone, strided: k's and the last part's columns stay.
                buffers = vec![Buffer::tensor(&whole), Buffer::bytes(&[0; 16])];
                buffers.extend(tables);
                let step = launch::rope(float, t, heads, 0, head_dim, [stride, 0], direction);
                let rest = whole
                    .narrow(1, heads * head_dim, stride - heads * head_dim)
                    .unwrap();
                whole = Tensor::cat(&[&parts[0], &rest], 1).unwrap();
                same(&name, &run(step, &buffers)[0], &whole);
            }
        }
    }
}

#[test]
fn swiglu() {
    for (x_type, dy_type) in PAIRS {
        for (rows, width) in SHAPES {
            let name = name("swiglu", &[x_type, dy_type], (rows, width));
            let wide: Vec<f64> = numbers(rows * width, 1, Float::F32)
                .iter()
                .map(|x| 8.0 * x)
                .collect();
            let gate = tensor(&wide, &[rows, width], dtype(x_type));
            let up = tensor(
                &numbers(rows * width, 2, x_type),
                &[rows, width],
                dtype(x_type),
            );
            let dy = tensor(
                &numbers(rows * width, 3, dy_type),
                &[rows, width],
                dtype(dy_type),
            );
            let exact = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let (y, saved) = kernels::swiglu(exact(&gate), exact(&up)).unwrap();
            let (dgate, dup) = kernels::swiglu_backward(saved, &exact(&dy)).unwrap();
            // The exponent of 2 is off by 2^-24 of at most 12 / ln 2, and e^-x by as much; then some products.
            let steps = 18.0 + 10.0;
            let poison = |float: Float| Buffer::poison(rows * width, float.size());
            let [g, u, d] = [&gate, &up, &dy].map(Buffer::tensor);
            let found = run(
                launch::swiglu(x_type, rows, width, width),
                &[g.clone(), u.clone(), poison(x_type)],
            );
            close(&name, &found[2].floats(x_type), &list(&y), x_type, steps);
            let step = launch::swiglu_backward(x_type, dy_type, rows, width, width, width);
            let found = run(step, &[g, u, d.clone(), poison(dy_type), poison(dy_type)]);
            close(
                &name,
                &found[3].floats(dy_type),
                &list(&dgate),
                dy_type,
                2.0 * steps,
            );
            close(
                &name,
                &found[4].floats(dy_type),
                &list(&dup),
                dy_type,
                steps,
            );
        }
    }
}

#[test]
fn swiglu_reads_halves_of_a_merged_buffer() {
    // The gate's rows are 2 · width apart: the buffer of `up` holds what follows the first `width` numbers.
    let (rows, width) = (4, 24);
    let merged = numbers(rows * 2 * width, 5, Float::Bf16);
    let half = |at: usize| -> Vec<f64> {
        (0..rows)
            .flat_map(|r| merged[(2 * r + at) * width..][..width].to_vec())
            .collect()
    };
    let shape = [rows, width];
    let (gate, up) = (
        tensor(&half(0), &shape, DType::F64),
        tensor(&half(1), &shape, DType::F64),
    );
    let (y, _) = kernels::swiglu(gate, up).unwrap();
    let buffers = [
        Buffer::floats(&merged, Float::Bf16),
        Buffer::floats(&merged[width..], Float::Bf16),
        Buffer::poison(rows * width, 2),
    ];
    let found = run(
        launch::swiglu(Float::Bf16, rows, width, 2 * width),
        &buffers,
    );
    close(
        "swiglu, merged",
        &found[2].floats(Float::Bf16),
        &list(&y),
        Float::Bf16,
        20.0,
    );
}

#[test]
fn elementwise_operations_are_the_processors() {
    for a_type in FLOATS {
        for b_type in FLOATS {
            for (rows, d) in SHAPES {
                let name = name("elementwise", &[a_type, b_type], (rows, d));
                let (n, shape) = (rows * d, [rows, d]);
                let a = tensor(&numbers(n, 1, a_type), &shape, dtype(a_type));
                let b = tensor(&numbers(n, 2, b_type), &shape, dtype(b_type));
                let bias = tensor(&numbers(d, 3, b_type), &[d], dtype(b_type));
                let fresh = || a.force_contiguous().unwrap();
                let mut sum = fresh();
                kernels::add_assign(&mut sum, &b).unwrap();
                let found = run(
                    launch::add_assign(a_type, b_type, n),
                    &[Buffer::tensor(&a), Buffer::tensor(&b)],
                );
                same(&name, &found[0], &sum);
                let mut sum = fresh();
                kernels::add_bias(&mut sum, &bias).unwrap();
                let step = launch::add_bias(a_type, b_type, rows, d);
                same(
                    &name,
                    &run(step, &[Buffer::tensor(&a), Buffer::tensor(&bias)])[0],
                    &sum,
                );
                let converted = a.to_dtype(dtype(b_type)).unwrap();
                let step = launch::convert(a_type, b_type, n);
                same(
                    &name,
                    &run(
                        step,
                        &[Buffer::tensor(&a), Buffer::poison(n, b_type.size())],
                    )[1],
                    &converted,
                );
                let mut scaled = fresh();
                kernels::scale_assign(&mut scaled, 0.7).unwrap();
                let step = launch::scale_assign(a_type, n, 0.7, false);
                same(&name, &run(step, &[Buffer::tensor(&a)])[0], &scaled);
                let mut scaled = fresh();
                kernels::scale_assign(&mut scaled, f64::from(0.7f32 * 0.3f32)).unwrap();
                let step = launch::scale_assign(a_type, n, 0.7, true);
                same(
                    &name,
                    &run(step, &[Buffer::tensor(&a), Buffer::f32s(&[0.3])])[0],
                    &scaled,
                );
            }
        }
        for (rows, d) in SHAPES {
            let name = name("columns", &[a_type], (rows, d));
            let x = tensor(&numbers(rows * d, 1, a_type), &[rows, d], dtype(a_type));
            let factors = tensor(&numbers(d, 2, Float::F32), &[d], DType::F32);
            let poison = Buffer::poison(rows * d, a_type.size());
            let expected = kernels::scale_columns(&x, &factors).unwrap();
            let buffers = [Buffer::tensor(&x), Buffer::tensor(&factors), poison.clone()];
            same(
                &name,
                &run(launch::scale_columns(a_type, rows, d, 0.0), &buffers)[2],
                &expected,
            );
            let expected = kernels::scale_columns_beyond_one(&x, &factors).unwrap();
            let step = launch::scale_columns(a_type, rows, d, 1.0);
            same(&name, &run(step, &buffers)[2], &expected);
            let found = run(launch::fill(a_type, rows * d, -1.5), &[poison]);
            assert!(found[0].floats(a_type).iter().all(|x| *x == -1.5));
        }
    }
}

#[test]
fn quotients_are_the_processors() {
    for n in [5, 123, 4096] {
        let of = |seed| tensor(&numbers(n, seed, Float::F32), &[n], DType::F32);
        let (a, b) = (of(1), of(2));
        let buffers = [Buffer::tensor(&a), Buffer::tensor(&b), Buffer::poison(n, 4)];
        let expected = kernels::divide(&a, &b).unwrap();
        let found = run(launch::divide(n), &buffers);
        same(&format!("divide {n}"), &found[2], &expected);
    }
}

#[test]
fn rows_are_picked_and_put_back_as_on_the_processor() {
    for x_type in FLOATS {
        for (rows, d) in SHAPES {
            let name = name("rows", &[x_type], (rows, d));
            // 37 rows, some more than once, some never, not in order.
            let ids: Vec<u32> = (0..37u32)
                .map(|i| (i * i + 3 * i + 1) % rows as u32)
                .collect();
            let wide: Vec<usize> = ids.iter().map(|i| *i as usize).collect();
            let table = tensor(&numbers(rows * d, 1, x_type), &[rows, d], dtype(x_type));
            let dy = tensor(
                &numbers(ids.len() * d, 2, x_type),
                &[ids.len(), d],
                dtype(x_type),
            );
            let picked = kernels::gather_rows(&table, &wide).unwrap();
            let buffers = |float: Float| {
                [
                    Buffer::tensor(&table),
                    Buffer::u32s(&ids),
                    Buffer::poison(ids.len() * d, float.size()),
                ]
            };
            same(
                &name,
                &run(launch::gather_rows(x_type, ids.len(), d), &buffers(x_type))[2],
                &picked,
            );
            for out in FLOATS {
                let matrix = Matrix::dense(table.clone());
                let expected = kernels::embedding(&matrix, &ids, dtype(out)).unwrap();
                same(
                    &name,
                    &run(launch::embedding(x_type, out, ids.len(), d), &buffers(out))[2],
                    &expected,
                );
            }
            let groups = launch::RowGroups::of(&ids);
            let buffers = |float: Float| {
                [
                    Buffer::tensor(&dy),
                    Buffer::u32s(&groups.order),
                    Buffer::u32s(&groups.starts),
                    Buffer::u32s(&groups.targets),
                    Buffer::poison(rows * d, float.size()),
                ]
            };
            let expected = kernels::embedding_backward(&ids, &dy, rows).unwrap();
            let step = launch::embedding_backward(x_type, groups.targets.len(), rows, d);
            same(&name, &run(step, &buffers(Float::F32))[4], &expected);
            let expected = kernels::scatter_rows(&dy, &wide, rows).unwrap();
            let step = launch::scatter_rows(x_type, groups.targets.len(), rows, d);
            same(&name, &run(step, &buffers(x_type))[4], &expected);
        }
    }
    let none = launch::RowGroups::of(&[]);
    assert_eq!((none.starts.as_slice(), none.targets.len()), (&[0][..], 0));
}

#[test]
fn dropout_drops_what_the_processor_drops() {
    for float in FLOATS {
        for (rows, d) in SHAPES {
            let x = tensor(&numbers(rows * d, 1, float), &[rows, d], dtype(float));
            let samples: Vec<u64> = (0..rows as u64).map(|i| i / 4 + (1 << 40)).collect();
            let positions: Vec<u32> = (0..rows as u32).map(|i| i % 4).collect();
            let ids = RowIds::new(samples.iter().copied().zip(positions.iter().copied()));
            let key = DropoutKey {
                seed: 0x1234_5678_9abc,
                step: 17,
                module: 5,
            };
            let expected = kernels::dropout(&x, 0.3, key, &ids).unwrap();
            let buffers = [
                Buffer::tensor(&x),
                Buffer::u64s(&samples),
                Buffer::u32s(&positions),
                Buffer::poison(rows * d, float.size()),
            ];
            let found = run(launch::dropout(float, rows, d, 0.3, key), &buffers);
            same(&name("dropout", &[float], (rows, d)), &found[3], &expected);
        }
    }
}
