//! Sums of squares of many tensors, and what clips gradients by them.

use super::{Arg, Float, Launch, Launches, THREADS, blocks, narrow};

/// Elements whose squares one partial sum holds; `SPAN` in `elementwise.cu`.
const SPAN: usize = 1 << 15;

/// A tensor whose squares are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Squared {
    /// Its address in the device's memory.
    pub address: u64,
    /// Its elements.
    pub n: usize,
    /// How they are stored.
    pub float: Float,
}

/// Σ x² of each tensor, of which there is one at least, in f64 and in one order. With it comes the table of them, which is
/// to be in the device's memory, and the number of partial sums.
///
/// Buffers: 0 the table, 1 partial sums f64, 2 sums (tensors) f64.
pub fn sums_of_squares(tensors: &[Squared]) -> (Vec<u64>, usize, Launches) {
    let (mut table, mut parts) = (Vec::new(), 0);
    for tensor in tensors {
        parts += tensor.n.div_ceil(SPAN);
        let bf16 = u64::from(tensor.float == Float::Bf16);
        table.extend([tensor.address, tensor.n as u64, parts as u64, bf16]);
    }
    let count = Arg::U32(narrow(tensors.len()));
    let of = |function: &str, grid, args| {
        let (grid, block) = ([grid, 1, 1], [THREADS, 1, 1]);
        Launch::new("elementwise", function.into(), grid, block, args)
    };
    let partial = of(
        "partial_squares",
        blocks(parts, 1),
        vec![Arg::Read(0), count, Arg::Write(1)],
    );
    let sums = of(
        "sum_squares",
        blocks(tensors.len(), 1),
        vec![Arg::Read(0), count, Arg::Read(1), Arg::Write(2)],
    );
    let launches = Launches {
        steps: vec![partial, sums],
        scratch_bytes: 0,
    };
    (table, parts, launches)
}

/// What clips gradients multiplies them by, as torch's `clip_grad_norm_` has it: min(1, limit / (norm + 1e-6)), or 1 if the
/// limit is 0. With `own` each gradient's norm is its own, else all have one. Where a sum, or one of the numbers `behind` the
/// sums, is not finite, every scale is NaN.
///
/// Buffers: 0 sums of squares, then the numbers behind them (count + behind) f64, 1 scales (count, or 1) f32.
pub fn clip_scales(count: usize, behind: usize, limit: f64, own: bool) -> Launch {
    Launch::new(
        "elementwise",
        "clip_scales".into(),
        [1, 1, 1],
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Write(1),
            Arg::U32(narrow(count)),
            Arg::U32(narrow(behind)),
            Arg::F64(limit),
            Arg::U32(u32::from(own)),
        ],
    )
}
