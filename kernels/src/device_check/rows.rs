//! Norms, rotary embedding, SwiGLU, and everything elementwise or by rows.

use super::numbers::LARGEST;
use super::{Allowed, Case, FLOATS, Output, Side, Size};
use crate::{Direction, DropoutKey, Matrix, Result, RopeTable, RowIds, Uniform};
use candle_core::{DType, Tensor};

/// Rows and columns: one row, odd ones, whole ones, many rows, long rows.
const SHAPES: [(usize, usize); 8] = [
    (1, 7),
    (5, 64),
    (3, 577),
    (123, 577),
    (1000, 64),
    (1000, 7),
    (5, 4096),
    (123, 4096),
];
const TINY: usize = 3;

/// Of x, of weights or of a second operand.
const PAIRS: [(DType, DType); 3] = [
    (DType::F32, DType::F32),
    (DType::BF16, DType::F32),
    (DType::BF16, DType::BF16),
];

pub(super) fn cases(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(rows, d) in size.of(TINY, &SHAPES) {
        let label = |types: &[DType]| format!("{} ({rows}, {d})", names(types));
        for (x, w) in PAIRS {
            for dy in dy_types(x) {
                cases.push(Case::new("rms_norm", label(&[x, w, dy]), move |side| {
                    rms_norm(side, [rows, d], [x, w, dy])
                }));
            }
            cases.push(Case::new("rms_norm_of_sum", label(&[x, w]), move |side| {
                rms_norm_of_sum(side, [rows, d], [x, w])
            }));
            cases.push(Case::new("add_assign", label(&[x, w]), move |side| {
                let mut a = side.numbers(1, &[rows, d], x)?;
                crate::add_assign(&mut a, &side.numbers(2, &[rows, d], w)?)?;
                Ok(vec![Output::new("a", a, Allowed::steps(1.0))])
            }));
        }
        for x in FLOATS {
            for dy in dy_types(x) {
                cases.push(Case::new("swiglu", label(&[x, dy]), move |side| {
                    swiglu(side, [rows, d], [x, dy])
                }));
            }
            cases.extend(of_one_type(rows, d, x, &label(&[x])));
            cases.extend(same_bits(rows, d, x, &label(&[x])));
        }
    }
    cases.extend(ropes(size));
    cases
}

fn names(types: &[DType]) -> String {
    let names: Vec<&str> = types.iter().map(|t| t.as_str()).collect();
    names.join(" ")
}

/// Gradients come in the type of what they belong to, or in f32.
fn dy_types(x: DType) -> Vec<DType> {
    match x {
        DType::BF16 => vec![DType::BF16, DType::F32],
        _ => vec![DType::F32],
    }
}

fn rms_norm(side: &Side, shape: [usize; 2], [x, w, dy]: [DType; 3]) -> Result<Vec<Output>> {
    let [rows, d] = shape;
    let x = side.numbers(1, &shape, x)?;
    let w = side.numbers(2, &[d], w)?;
    let dy = side.numbers(3, &shape, dy)?;
    let (y, saved) = crate::rms_norm(&x, &w, 1e-5)?;
    let (dx, dw) = crate::rms_norm_backward(saved, &dy, true)?;
    // Squares one after another in a thread, the tree over threads, the division, root, inverse and products.
    let steps = d as f64 / 16.0 + 32.0;
    let mut outputs = vec![
        Output::new("y", y, Allowed::steps(steps)),
        Output::new("dx", dx, Allowed::steps(4.0 * steps)),
    ];
    if let Some(dw) = dw {
        // 1/rms is below 1.4 but for very short rows.
        let allowed = Allowed::sum(rows, 8.0 * LARGEST * LARGEST);
        outputs.push(Output::new("dweight", dw, allowed));
    }
    Ok(outputs)
}

/// With dy in f32, as the gradient of a residual is.
fn rms_norm_of_sum(side: &Side, shape: [usize; 2], [x, w]: [DType; 2]) -> Result<Vec<Output>> {
    let [rows, d] = shape;
    let mut sum = side.numbers(4, &shape, x)?;
    let w = side.numbers(2, &[d], w)?;
    let (y, saved) = crate::rms_norm_of_sum(&mut sum, &side.numbers(1, &shape, x)?, &w, 1e-5)?;
    let mut dx = side.numbers(5, &shape, DType::F32)?;
    let dy = side.numbers(3, &shape, DType::F32)?;
    let dw = crate::rms_norm_backward_onto(saved, &dy, &mut dx, true)?;
    // As for one; and of x in bf16 the sum is rounded, by half a rounding of a number twice as large.
    let steps = d as f64 / 16.0 + 32.0;
    let narrow = if x == DType::BF16 { 4.0 } else { 0.0 };
    let mut outputs = vec![
        Output::new("the sum", sum, Allowed::steps(1.0)),
        Output::new("y", y, Allowed::steps(steps).narrow(narrow)),
        Output::new("dx", dx, Allowed::steps(4.0 * steps).narrow(2.0 * narrow)),
    ];
    if let Some(dw) = dw {
        let allowed = match narrow {
            0.0 => Allowed::sum(rows, 8.0 * LARGEST * LARGEST),
            _ => Allowed::steps(8.0 * rows as f64).narrow(narrow),
        };
        outputs.push(Output::new("dweight", dw, allowed));
    }
    Ok(outputs)
}

fn swiglu(side: &Side, shape: [usize; 2], [x, dy]: [DType; 2]) -> Result<Vec<Output>> {
    let (gate, up) = (side.numbers(1, &shape, x)?, side.numbers(2, &shape, x)?);
    let dy = side.numbers(3, &shape, dy)?;
    let (y, saved) = crate::swiglu(gate, up)?;
    let (dgate, dup) = crate::swiglu_backward(saved, &dy)?;
    let allowed = Allowed::steps(32.0);
    Ok(vec![
        Output::new("y", y, allowed),
        Output::new("dgate", dgate, allowed),
        Output::new("dup", dup, allowed),
    ])
}

/// What is compared with f64.
fn of_one_type(rows: usize, d: usize, x: DType, label: &str) -> Vec<Case> {
    let case = |op, run: fn(&Side, [usize; 2], DType) -> Result<Vec<Output>>| {
        Case::new(op, label.to_owned(), move |side| run(side, [rows, d], x))
    };
    vec![
        case("scale_assign", |side, shape, x| {
            let mut a = side.numbers(1, &shape, x)?;
            crate::scale_assign(&mut a, -0.37)?;
            Ok(vec![Output::new("a", a, Allowed::steps(2.0))])
        }),
        case("add_bias", |side, shape, x| {
            let mut y = side.numbers(1, &shape, x)?;
            crate::add_bias(&mut y, &side.numbers(2, &shape[1..], DType::F32)?)?;
            Ok(vec![Output::new("y", y, Allowed::steps(1.0))])
        }),
        case("sum_rows", |side, shape, x| {
            let sums = crate::sum_rows(&side.numbers(1, &shape, x)?)?;
            Ok(vec![Output::new(
                "sums",
                sums,
                Allowed::sum(shape[0], LARGEST),
            )])
        }),
        case("sum_of_squares", |side, shape, x| {
            let sum = crate::sum_of_squares(&side.numbers(1, &shape, x)?)?;
            // Squares are f32's, their sum is f64's.
            let output = Output::list("sum", vec![sum], Allowed::steps(2.0))?;
            Ok(vec![output])
        }),
        case("scale_columns", |side, shape, x| {
            let factors = side.numbers(2, &shape[1..], DType::F32)?;
            let x = side.numbers(1, &shape, x)?;
            let y = crate::scale_columns(&x, &factors)?;
            let beyond = crate::scale_columns_beyond_one(&x, &factors)?;
            Ok(vec![
                Output::new("y", y, Allowed::steps(1.0)),
                Output::new("beyond", beyond, Allowed::steps(2.0)),
            ])
        }),
        case("divide", |side, shape, x| {
            let (a, b) = (side.numbers(1, &shape, x)?, side.numbers(2, &shape, x)?);
            let y = crate::divide(&a, &b)?;
            Ok(vec![Output::new("y", y, Allowed::steps(1.0))])
        }),
        case("column_products", |side, shape, x| {
            let (a, b) = (side.numbers(1, &shape, x)?, side.numbers(2, &shape, x)?);
            let sums = crate::column_products(&a, &b)?;
            let allowed = Allowed::sum(shape[0], LARGEST * LARGEST);
            Ok(vec![Output::new("sums", sums, allowed)])
        }),
        case("scatter_rows", |side, shape, x| {
            let [rows, _] = shape;
            let indices = picked(side, rows, rows);
            let y = crate::scatter_rows(&side.numbers(1, &shape, x)?, &indices, rows)?;
            // Rows that meet are added in the type they are stored in.
            let narrow = if x == DType::BF16 { 4.0 } else { 0.0 };
            Ok(vec![Output::new(
                "y",
                y,
                Allowed::steps(8.0).narrow(narrow),
            )])
        }),
        case("embedding_backward", |side, shape, x| {
            let [rows, _] = shape;
            let ids = side.ids(4, rows, 19);
            let sums = crate::embedding_backward(&ids, &side.numbers(1, &shape, x)?, 23)?;
            Ok(vec![Output::new("sums", sums, Allowed::sum(rows, LARGEST))])
        }),
    ]
}

/// Rows drawn with repetition.
fn picked(side: &Side, n: usize, rows: usize) -> Vec<usize> {
    side.ids(4, n, rows)
        .into_iter()
        .map(|i| i as usize)
        .collect()
}

/// What moves numbers, or rounds and drops them by a rule that both sides follow to the bit.
fn same_bits(rows: usize, d: usize, x: DType, label: &str) -> Vec<Case> {
    let case = |op, run: fn(&Side, [usize; 2], DType) -> Result<Vec<Output>>| {
        Case::new(op, label.to_owned(), move |side| run(side, [rows, d], x)).exact()
    };
    vec![
        case("gather_rows", |side, shape, x| {
            let indices = picked(side, 2 * shape[0] + 1, shape[0]);
            let y = crate::gather_rows(&side.numbers(1, &shape, x)?, &indices)?;
            Ok(vec![Output::new("y", y, Allowed::none())])
        }),
        case("embedding", |side, shape, x| {
            let ids = side.ids(4, 2 * shape[0] + 1, shape[0]);
            let table = Matrix::dense(side.numbers(1, &shape, x)?);
            let wide = crate::embedding(&table, &ids, DType::F32)?;
            let narrow = crate::embedding(&table, &ids, DType::BF16)?;
            Ok(vec![
                Output::new("f32 rows", wide, Allowed::none()),
                Output::new("bf16 rows", narrow, Allowed::none()),
            ])
        }),
        case("fill_uniform", |side, shape, x| {
            let mut y = side.poison(&shape, x)?;
            // From the middle of one part of the list into the next.
            let uniform = Uniform {
                seed: 7,
                offset: 16_384 - 5,
                scale: 0.02,
            };
            crate::fill_uniform(&mut y, uniform)?;
            Ok(vec![Output::new("y", y, Allowed::none())])
        }),
        case("dropout", |side, shape, x| {
            let rows = RowIds::new((0..shape[0]).map(|i| ((i / 4) as u64 + 9, (i % 4) as u32)));
            let key = DropoutKey {
                seed: 0x1234_5678_9abc,
                step: 3,
                module: 77,
            };
            let y = crate::dropout(&side.numbers(1, &shape, x)?, 0.3, key, &rows)?;
            Ok(vec![Output::new("y", y, Allowed::none())])
        }),
        case("widen and narrow", |side, shape, x| {
            let x = side.numbers(1, &shape, x)?;
            let wide = crate::widen(&x)?;
            let narrow = crate::narrow(&wide, DType::BF16)?;
            Ok(vec![
                Output::new("wide", wide, Allowed::none()),
                Output::new("narrow", narrow, Allowed::none()),
            ])
        }),
    ]
}

/// Rows, heads, head_dim.
const ROPES: [(usize, usize, usize); 8] = [
    (1, 1, 16),
    (5, 3, 10),
    (23, 2, 64),
    (123, 8, 64),
    (1000, 3, 16),
    (123, 5, 80),
    (5, 6, 96),
    (123, 32, 128),
];

fn ropes(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(t, heads, head_dim) in size.of(TINY, &ROPES) {
        for x in FLOATS {
            let label = format!("{} ({t}, {heads} x {head_dim})", x.as_str());
            cases.push(Case::new("rope", label, move |side| {
                // Positions restart, as in a pack, and go beyond what was trained.
                let positions: Vec<u32> = (0..t as u32).map(|i| (i * 7) % 4097).collect();
                let half = head_dim / 2;
                let inv_freq: Vec<f64> = (0..half)
                    .map(|i| 10_000f64.powf(-(i as f64) / half as f64))
                    .collect();
                let table = RopeTable::new(&positions, &inv_freq, 1.25, side.dtype(x))?;
                let table = table.to_device(side.place())?;
                let turned = |direction| -> Result<Tensor> {
                    let mut y = side.numbers(1, &[t, heads * head_dim], x)?;
                    crate::rope(&mut y, heads, &table, direction)?;
                    Ok(y)
                };
                let allowed = Allowed::steps(8.0);
                Ok(vec![
                    Output::new("y", turned(Direction::Forward)?, allowed),
                    Output::new("back", turned(Direction::Backward)?, allowed),
                ])
            }));
        }
    }
    cases
}
