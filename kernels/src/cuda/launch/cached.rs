//! Attention of one new token per sequence to all that its cache holds.

use super::{Arg, Float, Launch, Launches, blocks, blocks_yz, narrow};
use crate::AttentionShape;

/// How a batch's keys and values lie: (sequences, kv_heads, capacity, head_dim), keys and values each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Sequences of the batch.
    pub sequences: usize,
    /// Tokens there is room for in each.
    pub capacity: usize,
    /// How they are stored.
    pub stored: Float,
}

/// Keys of a part, of which each has a block of its own.
const PART_KEYS: usize = 256;
/// Threads of a block: four warps, each of which scores a key at a time.
const DECODE_THREADS: u32 = 128;
/// Query heads that a block serves at most.
const GROUP: usize = 8;

/// Writes each sequence's new key and value at `lens[sequence] - 1`.
///
/// Buffers: 0 k, 1 v (sequences, kv_heads · head_dim), 2 lens (sequences) u32, the new token counted, 3 keys, 4 values
/// of the cache.
pub fn cache_append(x: Float, shape: &AttentionShape, cache: &CacheShape) -> Launch {
    let width = shape.kv_heads * shape.head_dim;
    Launch::new(
        "attention_cached",
        format!("cache_append_{}_{}", x.name(), cache.stored.name()),
        [blocks(width, 128), blocks_yz(cache.sequences, 1), 1],
        [128, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Update(3),
            Arg::Update(4),
            Arg::U32(narrow(cache.sequences)),
            Arg::U32(narrow(shape.kv_heads)),
            Arg::U32(narrow(shape.head_dim)),
            Arg::U32(narrow(cache.capacity)),
        ],
    )
}

/// o (sequences, heads · head_dim), in q's type, of one query row per sequence. `longest` is the largest of `lens`.
///
/// Buffers: 0 q, 1 keys, 2 values of the cache, 3 lens (sequences) u32, the new token counted, 4 o, 5 scratch.
pub fn attention_decode(
    q: Float,
    shape: &AttentionShape,
    cache: &CacheShape,
    longest: usize,
) -> Launches {
    let parts = longest.div_ceil(PART_KEYS).max(1);
    let group = shape.heads / shape.kv_heads;
    let groups = shape.kv_heads * group.div_ceil(GROUP);
    let numbers = [
        Arg::U32(narrow(cache.sequences)),
        Arg::U32(narrow(shape.heads)),
        Arg::U32(narrow(shape.kv_heads)),
        Arg::U32(narrow(shape.head_dim)),
        Arg::U32(narrow(parts)),
    ];
    let mut args = vec![
        Arg::Read(0),
        Arg::Read(1),
        Arg::Read(2),
        Arg::Read(3),
        Arg::Write(5),
    ];
    args.extend(numbers);
    args.extend([
        Arg::U32(narrow(cache.capacity)),
        Arg::U32(narrow(shape.window.unwrap_or(usize::MAX))),
        Arg::F32(shape.scale as f32),
    ]);
    // The scores of a part for each query head, the queries, and each warp's part of the output.
    let heads = group.min(GROUP);
    let warps = DECODE_THREADS as usize / 32;
    let shared = 4 * heads * (PART_KEYS + shape.head_dim + warps * shape.head_dim);
    let first = Launch::new(
        "attention_cached",
        format!("attention_decode_{}_{}", q.name(), cache.stored.name()),
        [
            blocks(groups, 1),
            blocks_yz(parts, 1),
            blocks_yz(cache.sequences, 1),
        ],
        [DECODE_THREADS, 1, 1],
        args,
    )
    .with_shared(narrow(shared));
    let mut args = vec![Arg::Read(5), Arg::Write(4)];
    args.extend(numbers);
    let second = Launch::new(
        "attention_cached",
        format!("attention_decode_sum_{}", q.name()),
        [blocks(cache.sequences * shape.heads, 1), 1, 1],
        [128, 1, 1],
        args,
    );
    Launches {
        steps: vec![first, second],
        // Of each part: the output before division, its largest score and its sum.
        scratch_bytes: 4 * cache.sequences * shape.heads * parts * (shape.head_dim + 2),
    }
}
