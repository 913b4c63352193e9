//! Attention: packed, forward and backward, and from a cache.

use super::{Allowed, Case, FLOATS, Output, Side, Size};
use crate::{AttentionShape, KvCache, Result, Segment, Segments};
use candle_core::{DType, Tensor};

/// Query heads, key/value heads, head_dim, window.
type Heads = (usize, usize, usize, Option<usize>);

/// One head and many, groups of one to eight, every width that has tensor-core kernels and some that have none.
const HEADS: [Heads; 9] = [
    (2, 1, 64, None),
    (3, 1, 128, None),
    (6, 2, 10, None),
    (2, 2, 64, Some(37)),
    (8, 1, 64, None),
    (4, 4, 16, None),
    (6, 2, 96, Some(70)),
    (4, 2, 32, None),
    (5, 5, 80, None),
];

/// Start, rows, and the rows that come before them.
type Rows = (usize, usize, Option<(usize, usize)>);

/// Rows in all and their sequences: one row; short and long ones with rows of none between; one that takes many tiles;
/// prefixes that are shared, in part too.
const PACKS: [(usize, &[Rows]); 5] = [
    (1, &[(0, 1, None)]),
    (
        123,
        &[(3, 1, None), (4, 70, None), (75, 43, None), (119, 3, None)],
    ),
    (1000, &[(0, 1000, None)]),
    (
        577,
        &[
            (0, 5, None),
            (5, 123, None),
            (128, 128, None),
            (256, 65, None),
            (321, 256, None),
        ],
    ),
    (
        240,
        &[
            (0, 90, None),
            (90, 40, Some((0, 90))),
            (130, 71, Some((17, 83))),
            (201, 9, Some((90, 100))),
            (210, 20, None),
        ],
    ),
];

fn segments(rows: &[Rows]) -> Vec<Segment> {
    let segment = |&(start, len, prefix): &Rows| Segment {
        start,
        len,
        prefix: prefix.map(|(from, to)| from..to),
    };
    rows.iter().map(segment).collect()
}

fn shape((heads, kv_heads, head_dim, window): Heads) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        window,
    }
}

fn label(dtype: DType, (heads, kv_heads, head_dim, window): Heads) -> String {
    let window = window.map_or(String::new(), |window| format!(" window {window}"));
    format!(
        "{} {heads}/{kv_heads} heads of {head_dim}{window}",
        dtype.as_str()
    )
}

pub(super) fn cases(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for &heads in size.of(3, &HEADS) {
        for dtype in FLOATS {
            for &(t, rows) in size.of(2, &PACKS) {
                let label = format!(
                    "{}, {} sequences, {t} rows",
                    label(dtype, heads),
                    rows.len()
                );
                cases.push(Case::new("attention", label, move |side| {
                    packed(side, heads, dtype, t, rows)
                }));
            }
            cases.push(Case::new(
                "attention_cached",
                label(dtype, heads),
                move |side| cached(side, heads, dtype),
            ));
        }
    }
    cases
}

/// Scores are sums of head_dim products, each below a few units; probabilities and their gradients are rounded to bf16
/// before they meet values and keys, and so is the output that the backward pass reads.
fn allowed(dtype: DType, head_dim: usize, t: usize, backward: bool) -> Allowed {
    let steps = 40.0 * (head_dim as f64 + t as f64 / 16.0 + 16.0);
    let narrow = match (dtype, backward) {
        (DType::BF16, false) => 1.0,
        (DType::BF16, true) => 3.0,
        _ => 0.0,
    };
    // A row that sees itself alone has no gradient of its scores but what is left of cancelling.
    Allowed::steps(steps).narrow(narrow).floor(1.0)
}

fn packed(side: &Side, heads: Heads, dtype: DType, t: usize, rows: &[Rows]) -> Result<Vec<Output>> {
    let shape = shape(heads);
    let [q, kv] = [shape.heads, shape.kv_heads].map(|heads| [t, heads * shape.head_dim]);
    let numbers = |which, dims: &[usize]| side.numbers(which, dims, dtype);
    let segments = Segments::new(&segments(rows), t)?;
    let (q_, k, v) = (numbers(1, &q)?, numbers(2, &kv)?, numbers(3, &kv)?);
    let (o, saved) = crate::attention(&q_, &k, &v, &segments, &shape)?;
    let (dq, dk, dv) = crate::attention_backward(saved, &numbers(4, &q)?)?;
    let (forward, backward) = (
        allowed(dtype, shape.head_dim, t, false),
        allowed(dtype, shape.head_dim, t, true),
    );
    Ok(vec![
        Output::new("o", o, forward),
        Output::new("dq", dq, backward),
        Output::new("dk", dk, backward),
        Output::new("dv", dv, backward),
    ])
}

/// Three prompts at once, then a token of each, then of two, one of which forgets some first.
fn cached(side: &Side, heads: Heads, dtype: DType) -> Result<Vec<Output>> {
    let shape = shape(heads);
    let new = || KvCache::new(shape.kv_heads, shape.head_dim, side.dtype(dtype));
    let (mut a, mut b, mut c) = (new(), new(), new());
    let mut which = 10;
    let mut extend = |caches: &mut [&mut KvCache], lens: &[usize]| -> Result<Tensor> {
        let t = lens.iter().sum::<usize>();
        let mut rows = |heads: usize| {
            which += 1;
            side.numbers(which, &[t, heads * shape.head_dim], dtype)
        };
        let (q, k, v) = (
            rows(shape.heads)?,
            rows(shape.kv_heads)?,
            rows(shape.kv_heads)?,
        );
        crate::attention_cached(&q, &k, &v, caches, lens, &shape)
    };
    let prompts = extend(&mut [&mut a, &mut b, &mut c], &[37, 5, 1])?;
    let tokens = extend(&mut [&mut a, &mut b, &mut c], &[1, 1, 1])?;
    a.truncate(20);
    let some = extend(&mut [&mut a, &mut c], &[3, 1])?;
    let allowed = allowed(dtype, shape.head_dim, 43, false);
    Ok(vec![
        Output::new("prompts", prompts, allowed),
        Output::new("tokens", tokens, allowed),
        Output::new("after forgetting", some, allowed),
    ])
}
