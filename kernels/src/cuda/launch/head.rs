//! What follows the head's product: losses, their gradient in the logits' place, and scores.

use super::{Arg, Float, Launch, blocks, narrow, wide};

/// Threads that a row of the vocabulary takes.
const ROW_THREADS: u32 = 512;

/// Each row's loss, log Σ exp(z) - z at the target, and in the place of the logits z (rows, v) the gradient of
/// `grad_scale` · loss; without a `grad_scale` the logits stay.
///
/// Buffers: 0 z, 1 targets (rows) u32, 2 losses (rows) f32.
pub fn cross_entropy(z: Float, rows: usize, v: usize, grad_scale: Option<f64>) -> Launch {
    Launch::new(
        "cross_entropy",
        format!("cross_entropy_{}", z.name()),
        [blocks(rows, 1), 1, 1],
        [ROW_THREADS, 1, 1],
        vec![
            Arg::Update(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(v)),
            Arg::U32(u32::from(grad_scale.is_some())),
            Arg::F32(grad_scale.unwrap_or(0.0) as f32),
        ],
    )
}

/// The sum of n f32 losses, in f64, added to what the sum holds, so that chunks of rows go into one.
///
/// Buffers: 0 losses, 1 sum (1) f64.
pub fn sum_losses(n: usize) -> Launch {
    Launch::new(
        "cross_entropy",
        "sum_losses".into(),
        [1, 1, 1],
        [1024, 1, 1],
        vec![Arg::Read(0), Arg::Update(1), wide(n)],
    )
}

/// The log-probability of each target, and 1 if it would be the model's own choice (the first of equals), else 0.
///
/// Buffers: 0 z (rows, v), 1 targets (rows) u32, 2 log-probabilities (rows) f32, 3 greedy (rows) u32.
pub fn token_scores(z: Float, rows: usize, v: usize) -> Launch {
    Launch::new(
        "cross_entropy",
        format!("token_scores_{}", z.name()),
        [blocks(rows, 1), 1, 1],
        [ROW_THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::Write(3),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(v)),
        ],
    )
}
