//! Weights out of their quantized forms.

use super::{Arg, Float, Launch, PACK, THREADS, blocks, narrow, wide};
use crate::GgmlType;

/// n numbers of an NF4 weight, from element `start`, a multiple of 64.
///
/// Buffers: 0 codes (all of the weight's bytes), 1 absmax (all, f32), 2 out. With `nested`: 1 the absmax's codes, 2 out,
/// 3 the map (256) f32, 4 nested absmax f32; `nested` is the offset.
pub fn nf4_dequantize(out: Float, start: usize, n: usize, nested: Option<f32>) -> Launch {
    let kind = if nested.is_some() { "nested" } else { "plain" };
    let mut args = vec![Arg::Read(0), Arg::Read(1)];
    if let Some(offset) = nested {
        args.extend([Arg::Read(3), Arg::Read(4), Arg::F32(offset)]);
    }
    args.extend([Arg::Write(2), wide(start), wide(n)]);
    Launch::new(
        "nf4",
        format!("nf4_{kind}_{}", out.name()),
        [blocks(n, THREADS as usize * PACK), 1, 1],
        [THREADS, 1, 1],
        args,
    )
}

/// (rows, cols) of a weight in GGML's blocks. Where llama.cpp's converter turned the halves of each head of `head_rows`
/// rows into pairs, they are turned back.
///
/// Buffers: 0 blocks (bytes), 1 out.
pub fn ggml_dequantize(
    kind: GgmlType,
    out: Float,
    rows: usize,
    cols: usize,
    head_rows: Option<usize>,
) -> Launch {
    let packs = rows * cols.div_ceil(PACK);
    Launch::new(
        "ggml",
        format!("ggml_{}_{}", kind.name().to_lowercase(), out.name()),
        [blocks(packs, THREADS as usize), 1, 1],
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Write(1),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(cols)),
            Arg::U32(narrow(head_rows.unwrap_or(0))),
        ],
    )
}
