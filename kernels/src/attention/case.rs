//! What attention is tested on, and the plain reference with the whole (T, T) of scores.

use super::{AttentionShape, Segment, Segments, attention, attention_backward};
use crate::{OpCase, Result};
use candle_core::{D, DType, Tensor};

const SHAPE: AttentionShape = AttentionShape {
    heads: 6,
    kv_heads: 2,
    head_dim: 10,
    scale: 0.37,
    window: None,
};

type Shapes = &'static [&'static [&'static [usize]]];
/// The last has blocks that are full, cut, and split by a segment's border.
const SHAPES: Shapes = &[
    &[&[23, 60], &[23, 20], &[23, 20]],
    &[&[310, 60], &[310, 20], &[310, 20]],
];

/// Three sequences, the second of one row; the last row belongs to none.
fn packed(t: usize) -> Vec<Segment> {
    let (a, end) = (t / 4, t - 1);
    [(0, a), (a, 1), (a + 1, end - a - 1)]
        .map(|(start, len)| Segment {
            start,
            len,
            prefix: None,
        })
        .into()
}

/// So many short sequences that a group's query heads stay in one task.
fn short(t: usize) -> Vec<Segment> {
    let len = t.div_ceil(12);
    (0..t)
        .step_by(len)
        .map(|start| Segment {
            start,
            len: len.min(t - start),
            prefix: None,
        })
        .collect()
}

/// A prefix that two sequences share, one of them only a part of it, beside one that stands alone.
fn prefixed(t: usize) -> Vec<Segment> {
    let (a, b, c) = (t / 3, t / 2, t - t / 5);
    [
        (0, a, None),
        (a, b - a, Some(0..a)),
        (b, c - b, Some(1..a - 2)),
        (c, t - c, None),
    ]
    .map(|(start, len, prefix)| Segment { start, len, prefix })
    .into()
}

/// A window shorter than the prefix and the segments.
fn windowed(t: usize) -> AttentionShape {
    AttentionShape {
        window: Some(t / 5),
        ..SHAPE
    }
}

pub(crate) const PACKED: OpCase = OpCase {
    name: "attention, packed",
    shapes: SHAPES,
    run: |x, dy| run(x, dy, &packed(x[0].dim(0)?), &SHAPE),
    reference: |x| reference(x, &packed(x[0].dim(0)?), &SHAPE),
};

pub(crate) const SHORT: OpCase = OpCase {
    name: "attention, short sequences",
    shapes: SHAPES,
    run: |x, dy| run(x, dy, &short(x[0].dim(0)?), &SHAPE),
    reference: |x| reference(x, &short(x[0].dim(0)?), &SHAPE),
};

pub(crate) const PREFIXED: OpCase = OpCase {
    name: "attention, shared prefix",
    shapes: SHAPES,
    run: |x, dy| run(x, dy, &prefixed(x[0].dim(0)?), &SHAPE),
    reference: |x| reference(x, &prefixed(x[0].dim(0)?), &SHAPE),
};

pub(crate) const WINDOWED: OpCase = OpCase {
    name: "attention, sliding window",
    shapes: SHAPES,
    run: |x, dy| {
        let t = x[0].dim(0)?;
        run(x, dy, &prefixed(t), &windowed(t))
    },
    reference: |x| {
        let t = x[0].dim(0)?;
        reference(x, &prefixed(t), &windowed(t))
    },
};

fn run(
    x: &[Tensor],
    dy: Option<&Tensor>,
    segments: &[Segment],
    shape: &AttentionShape,
) -> Result<(Tensor, Vec<Tensor>)> {
    let segments = Segments::new(segments, x[0].dim(0)?)?;
    let (y, saved) = attention(&x[0], &x[1], &x[2], &segments, shape)?;
    let Some(dy) = dy else { return Ok((y, vec![])) };
    let (dq, dk, dv) = attention_backward(saved, dy)?;
    Ok((y, vec![dq, dk, dv]))
}

/// Whether row i sees row j, from the definition.
fn sees(segments: &[Segment], window: Option<usize>, i: usize, j: usize) -> bool {
    let Some(segment) = segments
        .iter()
        .find(|s| (s.start..s.start + s.len).contains(&i))
    else {
        return false;
    };
    let prefix = segment.prefix.clone().unwrap_or(0..0);
    let own = prefix.len() + i - segment.start;
    let other = if prefix.contains(&j) {
        j - prefix.start
    } else if (segment.start..=i).contains(&j) {
        prefix.len() + j - segment.start
    } else {
        return false;
    };
    window.is_none_or(|window| own - other < window)
}

fn reference(
    x: &[Tensor],
    segments: &[Segment],
    shape: &AttentionShape,
) -> candle_core::Result<Tensor> {
    let (t, device, dtype) = (x[0].dim(0)?, x[0].device(), x[0].dtype());
    let sees = |i: usize| sees(segments, shape.window, i / t, i % t);
    let mask: Vec<f64> = (0..t * t)
        .map(|i| if sees(i) { 0.0 } else { -1e30 })
        .collect();
    let mask = Tensor::from_vec(mask, (t, t), device)?.to_dtype(dtype)?;
    let member: Vec<f64> = (0..t)
        .map(|i| f64::from(u8::from(sees(i * t + i))))
        .collect();
    let member = Tensor::from_vec(member, (t, 1), device)?.to_dtype(dtype)?;
    let d = shape.head_dim;
    let head = |h: usize| {
        let kv = h / (shape.heads / shape.kv_heads);
        let (q, k, v) = (
            x[0].narrow(1, h * d, d)?,
            x[1].narrow(1, kv * d, d)?,
            x[2].narrow(1, kv * d, d)?,
        );
        let scores = ((q.contiguous()?.matmul(&k.t()?.contiguous()?)? * shape.scale)? + &mask)?;
        let max = scores
            .to_dtype(DType::F64)?
            .max_keepdim(D::Minus1)?
            .to_dtype(dtype)?
            .detach();
        let p = scores.broadcast_sub(&max)?.exp()?;
        let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
        p.matmul(&v.contiguous()?)?.broadcast_mul(&member)
    };
    let heads = (0..shape.heads)
        .map(head)
        .collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&heads, 1)
}
