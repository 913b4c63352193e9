//! Matrix products, weights as they are stored, and the head with its loss.

use super::numbers::LARGEST;
use super::{Allowed, Case, FLOATS, Output, Side, Size};
use crate::{LowRankUpdate, Matrix, Nf4, Op, Result, RowSquares};
use candle_core::{DType, Tensor};

/// m, n, k.
const SHAPES: [(usize, usize, usize); 6] = [
    (5, 7, 123),
    (1, 33, 64),
    (64, 1, 16),
    (123, 577, 64),
    (1000, 64, 577),
    (123, 1000, 4096),
];

/// Of the operands, and of the result.
const TYPES: [(DType, DType); 3] = [
    (DType::F32, DType::F32),
    (DType::BF16, DType::F32),
    (DType::BF16, DType::BF16),
];

pub(super) fn cases(size: Size) -> Vec<Case> {
    let mut cases = gemms(size);
    cases.extend(linears(size));
    cases.extend(row_norms(size));
    cases.extend(heads(size));
    cases
}

fn gemms(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &shape in size.of(2, &SHAPES) {
        for types in TYPES {
            for ops in [
                (Op::Plain, Op::Plain),
                (Op::Plain, Op::Transposed),
                (Op::Transposed, Op::Plain),
            ] {
                for (beta, alpha) in [(0.0, 1.0), (1.0, -1.5)] {
                    let label = format!(
                        "{} into {} {shape:?} {ops:?} {beta} {alpha}",
                        types.0.as_str(),
                        types.1.as_str()
                    );
                    let case = Case::new("gemm", label, move |side| {
                        gemm(side, shape, types, ops, (beta, alpha))
                    });
                    cases.push(match types {
                        (DType::F32, _) => case,
                        _ => case.gpu_only(),
                    });
                }
            }
        }
    }
    cases
}

fn gemm(
    side: &Side,
    (m, n, k): (usize, usize, usize),
    (input, output): (DType, DType),
    (ta, tb): (Op, Op),
    (beta, alpha): (f64, f64),
) -> Result<Vec<Output>> {
    let stored = |op, rows, cols| match op {
        Op::Plain => [rows, cols],
        Op::Transposed => [cols, rows],
    };
    let a = side.numbers(1, &stored(ta, m, k), input)?;
    let b = side.numbers(2, &stored(tb, k, n), input)?;
    let mut out = match beta {
        0.0 => side.poison(&[m, n], output)?,
        _ => side.numbers(3, &[m, n], output)?,
    };
    crate::gemm(&mut out, beta, alpha, &a, ta, &b, tb)?;
    let allowed = Allowed::sum(k + 1, LARGEST * LARGEST * alpha.abs());
    Ok(vec![Output::new("out", out, allowed)])
}

/// Tokens, inputs, outputs.
const LINEARS: [(usize, usize, usize); 7] = [
    (1, 64, 7),
    (5, 577, 64),
    (23, 64, 123),
    (123, 577, 1000),
    (1000, 64, 64),
    (5, 4096, 123),
    (123, 4096, 577),
];

/// How a weight is stored.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Dense,
    Nf4 { double: bool },
}

/// Rows, columns and rank of a weight and its update.
const NORMS: [(usize, usize, usize); 4] = [(5, 64, 3), (9, 123, 1), (130, 577, 16), (64, 4096, 7)];

fn row_norms(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(n, k, r) in size.of(2, &NORMS) {
        for x in FLOATS {
            for stored in [Stored::Dense, Stored::Nf4 { double: true }] {
                let label = format!("{} {stored:?} {n} x {k}, rank {r}", x.as_str());
                cases.push(Case::new("row_norms", label, move |side| {
                    let w = weight(side, [n, k], x, stored)?;
                    let (a, b) = (
                        side.numbers(1, &[r, k], DType::F32)?,
                        side.numbers(3, &[n, r], DType::F32)?,
                    );
                    let update = LowRankUpdate {
                        a: &a,
                        b: &b,
                        scaling: 0.37,
                    };
                    let norms = crate::row_norms(&w, &RowSquares::of(&w)?, update)?;
                    // Of each number a product's roundings; their squares are f64's.
                    Ok(vec![Output::new("norms", norms, Allowed::steps(8.0))])
                }));
            }
        }
    }
    cases
}

fn linears(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(t, k, n) in size.of(3, &LINEARS) {
        for x in FLOATS {
            for stored in [
                Stored::Dense,
                Stored::Nf4 { double: false },
                Stored::Nf4 { double: true },
            ] {
                let label = format!("{} {stored:?} {t} x {k} to {n}", x.as_str());
                cases.push(Case::new("linear", label, move |side| {
                    linear(side, [t, k, n], x, stored)
                }));
            }
        }
    }
    cases
}

fn weight(side: &Side, [n, k]: [usize; 2], x: DType, stored: Stored) -> Result<Matrix> {
    Ok(match stored {
        Stored::Dense => Matrix::dense(side.numbers(2, &[n, k], x)?),
        Stored::Nf4 { double } => {
            let nf4 = Nf4::quantize(&Matrix::dense(side.host(2, &[n, k])?), double)?;
            Matrix::nf4(nf4, n, k)?.to_device(side.place(), x)?
        }
    })
}

fn linear(side: &Side, [t, k, n]: [usize; 3], x: DType, stored: Stored) -> Result<Vec<Output>> {
    let w = weight(side, [n, k], x, stored)?;
    let y = crate::linear(&side.numbers(1, &[t, k], x)?, &w)?;
    let dx = crate::linear_dx(&side.numbers(3, &[t, n], x)?, &w)?;
    let allowed = |terms: usize| match (stored, x) {
        // Made dense in bf16.
        (Stored::Nf4 { .. }, DType::BF16) => Allowed::rounded_terms(terms, LARGEST * LARGEST),
        _ => Allowed::sum(terms, LARGEST * LARGEST),
    };
    Ok(vec![
        Output::new("y", y, allowed(k)),
        Output::new("dx", dx, allowed(n)),
    ])
}

/// Tokens, width, vocabulary; the last takes several chunks of logits.
const HEADS: [(usize, usize, usize); 4] = [
    (5, 64, 123),
    (1, 7, 5),
    (123, 577, 4099),
    (1000, 64, 32_000),
];

fn heads(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(t, d, v) in size.of(2, &HEADS) {
        for x in FLOATS {
            let label = format!("{} {t} x {d} to {v}", x.as_str());
            cases.push(Case::new(
                "linear_cross_entropy",
                label.clone(),
                move |side| cross_entropy(side, [t, d, v], x),
            ));
            cases.push(Case::new("linear_token_scores", label, move |side| {
                token_scores(side, [t, d, v], x)
            }));
        }
    }
    cases
}

/// x, the head, and targets. Logits are a few units wide.
fn head(side: &Side, [t, d, v]: [usize; 3], dtype: DType) -> Result<(Tensor, Matrix, Vec<u32>)> {
    let x = side.numbers(1, &[t, d], dtype)?;
    let w = side.scaled(2, &[v, d], dtype, 3.0 / (d as f64).sqrt())?;
    Ok((x, Matrix::dense(w), side.ids(4, t, v)))
}

/// Of a logit: its sum; of a loss: the exponentials' sum.
fn head_steps(d: usize, v: usize) -> f64 {
    8.0 * (d as f64).sqrt() + v as f64 / 64.0 + 128.0
}

fn cross_entropy(side: &Side, shape: [usize; 3], dtype: DType) -> Result<Vec<Output>> {
    let [t, d, v] = shape;
    let (x, w, targets) = head(side, shape, dtype)?;
    let loss = crate::linear_cross_entropy(&x, &w, &targets, 1.0 / t as f64, true, true)?;
    let steps = Allowed::steps(head_steps(d, v));
    // The logits' gradient is rounded to bf16 for the products with it.
    let gradient = steps.narrow(if dtype == DType::BF16 { 2.0 } else { 0.0 });
    let mut outputs = vec![Output::list("loss", vec![loss.loss_sum.value()?], steps)?];
    for (what, tensor) in [("dx", loss.dx), ("dweight", loss.dweight)] {
        outputs.extend(tensor.map(|tensor| Output::new(what, tensor, gradient)));
    }
    Ok(outputs)
}

fn token_scores(side: &Side, shape: [usize; 3], dtype: DType) -> Result<Vec<Output>> {
    let (x, w, targets) = head(side, shape, dtype)?;
    let scores = crate::linear_token_scores(&x, &w, &targets)?;
    let log_probs = scores.iter().map(|score| score.log_prob).collect();
    let greedy = scores.iter().map(|score| f64::from(u8::from(score.greedy)));
    // Added to the most probable row's mark, so that a wrong mark is off by more than any rounding.
    let marks = greedy.map(|greedy| 1.0 + greedy).collect();
    Ok(vec![
        Output::list(
            "log_probs",
            log_probs,
            Allowed::steps(head_steps(shape[1], shape[2])),
        )?,
        Output::list("greedy", marks, Allowed::none())?,
    ])
}
