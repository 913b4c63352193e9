//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the order of Hugging Face's
//! checkpoints: the two halves of a head form the pairs ("rotate_half").
//!
//! For a pair (a, b) at angle θ: (a cos θ - b sin θ, b cos θ + a sin θ). It is a rotation, so its
//! backward pass turns the gradient by -θ.

use crate::access::{self, CpuNumbers, dims2, read};
use crate::real::{Real, Stored, accumulate_dtype, with_real, with_stored};
use crate::{Result, simd};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Cosines and sines of the angles of T positions: computed once a batch, used by every layer.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// (T, head_dim / 2), accumulate type.
    cos: Tensor,
    sin: Tensor,
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the positions' angles.
    Forward,
    /// Back again: the gradient's way.
    Backward,
}

impl RopeTable {
    /// Angles position · inv_freq, each cosine and sine times `scale` (1, or a long-context
    /// method's attention factor), for activations of type `dtype`.
    pub fn new(positions: &[u32], inv_freq: &[f64], scale: f64, dtype: DType) -> Result<Self> {
        let shape = (positions.len(), inv_freq.len());
        with_real!("RopeTable", accumulate_dtype(dtype), T => {
            let angles = || positions.iter().flat_map(|p| inv_freq.iter().map(move |f| f64::from(*p) * f));
            let cos: Vec<T> = angles().map(|a| T::of(a.cos() * scale)).collect();
            let sin: Vec<T> = angles().map(|a| T::of(a.sin() * scale)).collect();
            Ok(Self { cos: access::tensor(cos, shape)?, sin: access::tensor(sin, shape)? })
        })
    }
}

/// Rows a task takes.
const ROWS: usize = 16;

/// Turns each head of x (T, heads · head_dim) in place.
pub fn rope(x: &mut Tensor, heads: usize, table: &RopeTable, direction: Direction) -> Result<()> {
    const OP: &str = "rope";
    let (t, width) = dims2(OP, "x", x)?;
    let (positions, half) = dims2(OP, "the table", &table.cos)?;
    if positions != t || heads * half * 2 != width {
        return Err(access::shape(
            OP,
            "x",
            x.dims(),
            "the table for that many heads",
            &[positions, heads, 2 * half],
        ));
    }
    if width == 0 {
        return Ok(());
    }
    with_stored!(OP, x.dtype(), S => {
        let (cos, sin) = (read(OP, &table.cos)?, read(OP, &table.sin)?);
        let (cos, sin): (&[<S as Stored>::Acc], &[_]) = (&cos, &sin);
        let turn = if direction == Direction::Forward { 1.0 } else { -1.0 };
        access::mutate::<S, _>(OP, x, |x| {
            rotate(x, cos, sin, width, half, <S as Stored>::Acc::of(turn));
            Ok(())
        })
    })
}

fn rotate<S: Stored + CpuNumbers>(
    x: &mut [S],
    cos: &[S::Acc],
    sin: &[S::Acc],
    width: usize,
    half: usize,
    turn: S::Acc,
) {
    x.par_chunks_mut(ROWS * width)
        .enumerate()
        .for_each(|(task, x)| {
            for (i, x) in x.chunks_exact_mut(width).enumerate() {
                let at = (task * ROWS + i) * half;
                let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                for head in x.chunks_exact_mut(2 * half) {
                    simd::wide(|| rotate_head(head, cos, sin, turn));
                }
            }
        });
}

#[inline(always)]
fn rotate_head<S: Stored>(head: &mut [S], cos: &[S::Acc], sin: &[S::Acc], turn: S::Acc) {
    let (first, second) = head.split_at_mut(cos.len());
    for i in 0..cos.len().min(sin.len()).min(second.len()) {
        let (a, b, s) = (first[i].widen(), second[i].widen(), sin[i] * turn);
        first[i] = S::narrow(a * cos[i] - b * s);
        second[i] = S::narrow(b * cos[i] + a * s);
    }
}
