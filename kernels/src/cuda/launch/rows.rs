//! Normalisation, rotary embedding and SwiGLU.

use super::{Arg, Float, Launch, Launches, PACK, THREADS, blocks, blocks_yz, elementwise, narrow};
use crate::Direction;

/// Threads a row of `d` numbers, and rows a block. A short row, such as a head's, takes one warp.
fn row_block(d: usize) -> [u32; 3] {
    match d {
        0..=1024 => [32, 8, 1],
        _ => [THREADS, 1, 1],
    }
}

/// y = w · x / rms(x), and each row's 1/rms, of x (rows, d). With `residual`, that (rows, d), of x's type, first takes x
/// in: residual ← residual + x, y = w · residual / rms(residual).
///
/// Buffers: 0 x, 1 weight (d), 2 y (x's type), 3 reciprocal (rows) f32, 4 residual.
pub fn rms_norm(
    x: Float,
    weight: Float,
    rows: usize,
    d: usize,
    eps: f64,
    residual: bool,
) -> Launch {
    let block = row_block(d);
    Launch::new(
        "rms_norm",
        format!("rms_norm_{}_{}", x.name(), weight.name()),
        [blocks(rows, block[1] as usize), 1, 1],
        block,
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::Write(3),
            if residual {
                Arg::Update(4)
            } else {
                Arg::Absent
            },
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
            Arg::F32(eps as f32),
        ],
    )
}

/// dx of [`rms_norm`], in dy's type; with `onto` it is added to what dx holds, as where a residual's gradient meets it.
///
/// Buffers: 0 x (what was normalised), 1 weight, 2 reciprocal, 3 dy (rows, d), 4 dx.
pub fn rms_norm_backward(
    x: Float,
    weight: Float,
    dy: Float,
    rows: usize,
    d: usize,
    onto: bool,
) -> Launch {
    let block = row_block(d);
    Launch::new(
        "rms_norm",
        format!(
            "rms_norm_backward_{}_{}_{}",
            x.name(),
            weight.name(),
            dy.name()
        ),
        [blocks(rows, block[1] as usize), 1, 1],
        block,
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Read(3),
            if onto { Arg::Update(4) } else { Arg::Write(4) },
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
            Arg::U32(u32::from(onto)),
        ],
    )
}

/// dweight (d) f32 of [`rms_norm`]: sums over parts of the rows, then over the parts, in their order.
///
/// Buffers: 0 x, 1 reciprocal, 2 dy, 3 dweight, 4 scratch.
pub fn rms_norm_backward_weight(x: Float, dy: Float, rows: usize, d: usize) -> Launches {
    elementwise::column_sums(
        rows,
        d,
        "rms_norm",
        format!("rms_norm_backward_weight_{}_{}", x.name(), dy.name()),
        &[Arg::Read(0), Arg::Read(1), Arg::Read(2)],
        3,
    )
}

/// Turns the heads of q and of k in place, by the angles of each row's position.
///
/// A row of q is `strides[0]` numbers from the next, of k `strides[1]`: they may lie in one merged buffer.
///
/// Buffers: 0 q (T, heads · head_dim), 1 k (T, kv_heads · head_dim), 2 cos, 3 sin (T, head_dim / 2) f32. With
/// `kv_heads` = 0 there is no k.
pub fn rope(
    x: Float,
    t: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    strides: [usize; 2],
    direction: Direction,
) -> Launch {
    let half = head_dim / 2;
    // A thread turns eight pairs, a block some of a row's.
    let pairs = ((heads + kv_heads) * half.div_ceil(PACK)).max(1);
    let threads = narrow(pairs.next_multiple_of(32)).clamp(32, THREADS);
    Launch::new(
        "rope",
        format!("rope_{}", x.name()),
        [blocks(t, 1), 1, 1],
        [threads, 1, 1],
        vec![
            Arg::Update(0),
            if kv_heads > 0 {
                Arg::Update(1)
            } else {
                Arg::Absent
            },
            Arg::Read(2),
            Arg::Read(3),
            Arg::U32(narrow(t)),
            Arg::U32(narrow(heads)),
            Arg::U32(narrow(kv_heads)),
            Arg::U32(narrow(half)),
            Arg::U32(narrow(strides[0])),
            Arg::U32(narrow(strides[1])),
            Arg::F32(if direction == Direction::Forward {
                1.0
            } else {
                -1.0
            }),
        ],
    )
}

fn swiglu_grid(rows: usize, width: usize) -> [u32; 3] {
    [
        blocks(width, THREADS as usize * PACK),
        blocks_yz(rows, 1),
        1,
    ]
}

/// y (rows, width) = silu(gate) · up. A row of gate and of up is `stride` numbers from the next, so that both may be
/// halves of one merged (rows, 2 · width).
///
/// Buffers: 0 gate, 1 up, 2 y.
pub fn swiglu(x: Float, rows: usize, width: usize, stride: usize) -> Launch {
    Launch::new(
        "swiglu",
        format!("swiglu_{}", x.name()),
        swiglu_grid(rows, width),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(width)),
            Arg::U32(narrow(stride)),
        ],
    )
}

/// dgate and dup of [`swiglu`], in dy's type, their rows `gradient_stride` apart.
///
/// Buffers: 0 gate, 1 up, 2 dy (rows, width), 3 dgate, 4 dup.
pub fn swiglu_backward(
    x: Float,
    dy: Float,
    rows: usize,
    width: usize,
    stride: usize,
    gradient_stride: usize,
) -> Launch {
    Launch::new(
        "swiglu",
        format!("swiglu_backward_{}_{}", x.name(), dy.name()),
        swiglu_grid(rows, width),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Write(3),
            Arg::Write(4),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(width)),
            Arg::U32(narrow(stride)),
            Arg::U32(narrow(gradient_stride)),
        ],
    )
}
