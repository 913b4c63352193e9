//! Packed attention: a pack's tiles, and the kernels over them.
//!
//! Which rows see which is written down once a batch, in tiles that never cross a segment's border, so kernels skip what
//! no row sees and need no mask but at the edges. Query i sees key j of an *edge* (a range of queries, a range of keys, a
//! shift) iff 0 ≤ i + shift - j < window; a segment has an edge to itself (shift 0), and one to its prefix.

use super::{Arg, Float, Launch, Launches, blocks, blocks_yz, narrow, wide};
use crate::attention::families;
use crate::{AttentionShape, Result, Segment};
use std::ops::Range;

/// Rows of a tile.
const TILE: usize = 64;
/// Threads of a tensor-core block: four warps of 16 rows.
const TILE_THREADS: u32 = 128;
/// Largest head of the plain kernels: eight numbers a lane.
const MOST_PLAIN_HEAD: usize = 256;
/// No window.
const ENDLESS: u32 = u32::MAX;

/// What the kernels read about a pack: made and uploaded once a batch, for all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionTiles {
    /// Of each tile of queries, longest first: first row, rows, first row of its segment, prefix's first row, prefix's
    /// end, prefix's shift, 0, 0. Rows of no segment have [`u32::MAX`] for their segment.
    pub queries: Vec<u32>,
    /// Of each tile of keys, longest first: first row, rows, its first edge, the end of its edges.
    pub keys: Vec<u32>,
    /// Of each edge: first query, end of the queries, first key, end of the keys, shift, 0, 0, 0. At least one.
    pub edges: Vec<u32>,
}

/// In the place of a segment's first row: none.
const NONE: usize = u32::MAX as usize;

/// A range of rows in tiles.
fn tiles(rows: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let end = rows.end;
    rows.step_by(TILE)
        .map(move |first| (first, TILE.min(end - first)))
}

impl AttentionTiles {
    /// Of the segments of T rows.
    ///
    /// # Errors
    /// As [`crate::attention`]'s for segments that do not describe the rows.
    pub fn of(segments: &[Segment], t: usize) -> Result<Self> {
        families(segments, t)?;
        let prefix = |s: &Segment| s.prefix.clone().filter(|p| !p.is_empty());
        let with_prefix: Vec<(&Segment, Range<usize>)> = segments
            .iter()
            .filter_map(|s| Some((s, prefix(s)?)))
            .collect();
        let shift_of = |s: &Segment, p: &Range<usize>| p.end.wrapping_sub(s.start);
        // With the work of each: rows met.
        let (mut queries, mut keys, mut edges) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = 0;
        for s in segments {
            for (first, count) in tiles(end..s.start) {
                queries.push((0, vec![first, count, NONE, 0, 0]));
                keys.push((0, vec![first, count, 0, 0]));
            }
            end = s.start + s.len;
            let p = prefix(s).unwrap_or(0..0);
            for (first, count) in tiles(s.start..end) {
                let shift = if p.is_empty() { 0 } else { shift_of(s, &p) };
                let work = p.len() + first + count - s.start;
                queries.push((work, vec![first, count, s.start, p.start, p.end, shift]));
                let first_edge = edges.len() / 8;
                edges.extend([s.start, end, s.start, end, 0, 0, 0, 0]);
                let mut work = end - first;
                for (child, p) in &with_prefix {
                    if p.start < first + count && first < p.end {
                        edges.extend([child.start, child.start + child.len, p.start, p.end]);
                        edges.extend([shift_of(child, p), 0, 0, 0]);
                        work += child.len;
                    }
                }
                keys.push((work, vec![first, count, first_edge, edges.len() / 8]));
            }
        }
        for (first, count) in tiles(end..t) {
            queries.push((0, vec![first, count, NONE, 0, 0]));
            keys.push((0, vec![first, count, 0, 0]));
        }
        if edges.is_empty() {
            edges.resize(8, 0);
        }
        Ok(Self {
            queries: longest_first(queries, 8),
            keys: longest_first(keys, 4),
            edges: edges.into_iter().map(word).collect(),
        })
    }

    /// Tiles of queries.
    pub fn query_tiles(&self) -> usize {
        self.queries.len() / 8
    }

    /// Tiles of keys.
    pub fn key_tiles(&self) -> usize {
        self.keys.len() / 4
    }
}

/// The lower 32 bits: of a shift below zero its two's complement, which is what kernels read.
fn word(x: usize) -> u32 {
    x as u32
}

/// Long tiles begin first, so that short ones fill the gaps at the end.
fn longest_first(mut tiles: Vec<(usize, Vec<usize>)>, width: usize) -> Vec<u32> {
    tiles.sort_by_key(|(work, _)| std::cmp::Reverse(*work));
    let padded = tiles.into_iter().flat_map(|(_, mut tile)| {
        tile.resize(width, 0);
        tile
    });
    padded.map(word).collect()
}

/// Whether q, k and v of this type and head size have a kernel for tensor cores; else the plain one serves, which takes
/// heads of up to 256 numbers.
pub fn has_tensor_core_kernel(x: Float, head_dim: usize) -> bool {
    x == Float::Bf16 && matches!(head_dim, 64 | 96 | 128)
}

/// Whether any kernel takes heads of this size.
pub fn takes_head_dim(head_dim: usize) -> bool {
    (1..=MOST_PLAIN_HEAD).contains(&head_dim)
}

/// What every kernel ends with.
fn shape_args(shape: &AttentionShape, strides: &[usize]) -> Vec<Arg> {
    let mut args = vec![
        Arg::U32(narrow(shape.heads)),
        Arg::U32(narrow(shape.kv_heads)),
    ];
    args.push(Arg::U32(narrow(shape.head_dim)));
    args.extend(strides.iter().map(|s| Arg::U32(narrow(*s))));
    args.push(Arg::F32(shape.scale as f32));
    args.push(Arg::U32(shape.window.map_or(ENDLESS, narrow)));
    args
}

/// o (T, heads · head_dim), of the type of q, k and v, and the log-sum-exp (T, heads) f32 of each row.
///
/// `strides`: numbers from one row of q, k, v to the next. For tensor cores the addresses of q, k and v and their strides
/// in bytes are multiples of 16.
///
/// Buffers: 0 q, 1 k, 2 v, 3 o, 4 log-sum-exp, 5 [`AttentionTiles::queries`].
pub fn attention(
    x: Float,
    shape: &AttentionShape,
    tiles: &AttentionTiles,
    strides: [usize; 3],
) -> Launch {
    let mut args = [0, 1, 2].map(Arg::Read).to_vec();
    args.extend([Arg::Write(3), Arg::Write(4), Arg::Read(5)]);
    args.extend(shape_args(shape, &strides));
    let d = shape.head_dim;
    // Two stages of keys and values.
    kernel(
        "forward",
        x,
        d,
        tiles.query_tiles(),
        shape.heads,
        4 * TILE * d * 2,
        args,
    )
}

fn kernel(
    pass: &str,
    x: Float,
    head_dim: usize,
    tiles: usize,
    heads: usize,
    shared: usize,
    args: Vec<Arg>,
) -> Launch {
    let grid = [blocks(tiles, 1), blocks_yz(heads, 1), 1];
    if has_tensor_core_kernel(x, head_dim) {
        let name = format!("attention_{pass}_{head_dim}");
        return Launch::new("attention", name, grid, [TILE_THREADS, 1, 1], args)
            .with_shared(narrow(shared));
    }
    let name = format!("attention_plain_{pass}_{}", x.name());
    Launch::new("attention_plain", name, grid, [TILE_THREADS, 1, 1], args)
}

/// dq, dk and dv, of the type of q, k, v, o and do.
///
/// `strides`: of q, k, v, dq, dk, dv, so that the gradients may lie in one merged buffer; o and do are dense. Alignment as
/// in [`attention()`], do's and the gradients' too.
///
/// Buffers: 0 q, 1 k, 2 v, 3 o, 4 log-sum-exp, 5 do, 6 dq, 7 dk, 8 dv, 9 [`AttentionTiles::queries`], 10
/// [`AttentionTiles::keys`], 11 [`AttentionTiles::edges`], 12 scratch.
pub fn attention_backward(
    x: Float,
    shape: &AttentionShape,
    tiles: &AttentionTiles,
    t: usize,
    strides: [usize; 6],
) -> Launches {
    const DELTA: usize = 12;
    let (d, rows) = (shape.head_dim, t * shape.heads);
    // rowsum(do · o), a warp a row and head.
    let delta = Launch::new(
        "attention",
        format!("attention_delta_{}", x.name()),
        [blocks(rows, 4), 1, 1],
        [TILE_THREADS, 1, 1],
        vec![
            Arg::Read(3),
            Arg::Read(5),
            Arg::Write(DELTA),
            wide(rows),
            Arg::U32(narrow(d)),
        ],
    );
    let inputs = [0, 1, 2, 5, 4, DELTA].map(Arg::Read);
    let mut args = inputs.to_vec();
    args.extend([Arg::Write(6), Arg::Read(9)]);
    args.extend(shape_args(shape, &strides[..4]));
    // Queries and their gradient, two stages of keys and values.
    let dq = kernel(
        "dq",
        x,
        d,
        tiles.query_tiles(),
        shape.heads,
        6 * TILE * d * 2,
        args,
    );
    let mut args = inputs.to_vec();
    args.extend([Arg::Write(7), Arg::Write(8), Arg::Read(10), Arg::Read(11)]);
    args.extend(shape_args(
        shape,
        &[strides[0], strides[1], strides[2], strides[4], strides[5]],
    ));
    // Keys and values, two stages of queries and their gradient, and of two numbers a row.
    let shared = 6 * TILE * d * 2 + 4 * TILE * 4;
    let dkv = kernel("dkv", x, d, tiles.key_tiles(), shape.kv_heads, shared, args);
    Launches {
        steps: vec![delta, dq, dkv],
        scratch_bytes: 4 * rows,
    }
}
