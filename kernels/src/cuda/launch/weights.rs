//! Weights out of their quantized forms, random numbers in their place, and the lengths of their rows.

use super::{Arg, Float, Launch, PACK, THREADS, blocks, narrow, wide};
use crate::random_fill::key_hash;
use crate::{GgmlType, Uniform};

/// n numbers of an NF4 weight, from element `start`, a multiple of 64.
///
/// Buffers: 0 codes (all of the weight's bytes), 1 absmax (all, f32), 2 out. With `nested`: 1 the absmax's codes, 2 out,
/// 3 the map (256) f32, 4 nested absmax f32; `nested` is the offset.
pub fn nf4_dequantize(out: Float, start: usize, n: usize, nested: Option<f32>) -> Launch {
    /// Packs that a thread unpacks one after another, its block having written down the code's values once.
    const SOME: usize = 4;
    let kind = if nested.is_some() { "nested" } else { "plain" };
    let mut args = vec![Arg::Read(0), Arg::Read(1)];
    if let Some(offset) = nested {
        args.extend([Arg::Read(3), Arg::Read(4), Arg::F32(offset)]);
    }
    args.extend([Arg::Write(2), wide(start), wide(n)]);
    Launch::new(
        "nf4",
        format!("nf4_{kind}_{}", out.name()),
        [blocks(n, THREADS as usize * PACK * SOME), 1, 1],
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

/// (n) f32: ‖w + scaling · b a‖ of each row of w (n, k), a (r, k) and b (n, r).
///
/// Buffers: 0 w, 1 a f32, 2 b f32, 3 norms.
pub fn row_norms(w: Float, n: usize, k: usize, r: usize, scaling: f64) -> Launch {
    /// Rows of a block, as in `row_norms.cu`.
    const ROWS: usize = 8;
    Launch::new(
        "row_norms",
        format!("row_norms_{}", w.name()),
        [blocks(n, ROWS), 1, 1],
        [128, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Write(3),
            Arg::U32(narrow(n)),
            Arg::U32(narrow(k)),
            Arg::U32(narrow(r)),
            Arg::F32(scaling as f32),
        ],
    )
}

/// n random numbers, bit for bit [`crate::fill_uniform`].
///
/// Buffers: 0 out.
pub fn random_uniform(out: Float, n: usize, uniform: Uniform) -> Launch {
    Launch::new(
        "random_fill",
        format!("random_uniform_{}", out.name()),
        [blocks(n, THREADS as usize * PACK), 1, 1],
        [THREADS, 1, 1],
        vec![
            Arg::Write(0),
            Arg::F32(uniform.scale),
            Arg::U64(key_hash(uniform.seed)),
            Arg::U64(uniform.offset),
            wide(n),
        ],
    )
}
