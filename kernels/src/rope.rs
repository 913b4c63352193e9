//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the order of Hugging Face's
//! checkpoints: the two halves of a head form the pairs ("rotate_half").
//!
//! For a pair (a, b) at angle θ: (a cos θ - b sin θ, b cos θ + a sin θ). It is a rotation, so its
//! backward pass turns the gradient by -θ.

use crate::access::{self, CpuNumbers, dims2, read};
use crate::cuda::ops;
use crate::cuda::tensors::upload;
use crate::real::{Real, Stored, accumulate_dtype, with_real, with_stored};
use crate::simd::wide;
use crate::{OpCase, Result};
use candle_core::{DType, Device, Tensor};
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

    /// The same on a device; a copy only if it is not there.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let there = |table: &Tensor| -> Result<Tensor> {
            if !device.is_cuda() || table.device().is_cuda() {
                return Ok(table.to_device(device)?);
            }
            let like = Tensor::zeros(0, table.dtype(), device)?;
            let numbers = read::<f32>("RopeTable", table)?;
            Ok(upload(&numbers, &like)?.reshape(table.shape())?)
        };
        let (cos, sin) = (there(&self.cos)?, there(&self.sin)?);
        Ok(Self { cos, sin })
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
            "the table's (positions, heads, head_dim)",
            &[positions, heads, 2 * half],
        ));
    }
    if width == 0 {
        return Ok(());
    }
    if x.device().is_cuda() {
        return ops::rope(x, heads, [&table.cos, &table.sin], direction);
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
                    wide!(rotate_head(head, cos, sin, turn));
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

const CASE_HEADS: usize = 3;
const CASE_SCALE: f64 = 1.25;

fn case_angles(t: usize, half: usize) -> (Vec<u32>, Vec<f64>) {
    let positions = (0..t as u32).map(|i| (i * 7) % 29).collect();
    let inv_freq = (0..half)
        .map(|i| 100f64.powf(-(i as f64) / half as f64))
        .collect();
    (positions, inv_freq)
}

/// Three heads; positions restart and repeat, as in a pack.
pub(crate) const CASE: OpCase = OpCase {
    name: "rope",
    shapes: &[&[&[5, 42]], &[&[1, 6]], &[&[130, 120]]],
    run: |inputs, dy| {
        let x = &inputs[0];
        let (positions, inv_freq) = case_angles(x.dim(0)?, x.dim(1)? / CASE_HEADS / 2);
        let table = RopeTable::new(&positions, &inv_freq, CASE_SCALE, x.dtype())?;
        let mut y = x.force_contiguous()?;
        rope(&mut y, CASE_HEADS, &table, Direction::Forward)?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let mut dx = dy.force_contiguous()?;
        rope(&mut dx, CASE_HEADS, &table, Direction::Backward)?;
        Ok((y, vec![dx]))
    },
    reference: |inputs| {
        let (t, width) = inputs[0].dims2()?;
        let half = width / CASE_HEADS / 2;
        let (positions, inv_freq) = case_angles(t, half);
        let angle = |i: usize| f64::from(positions[i / half]) * inv_freq[i % half];
        let table = |f: fn(f64) -> f64| {
            let list: Vec<f64> = (0..t * half).map(|i| f(angle(i)) * CASE_SCALE).collect();
            Tensor::from_vec(list, (t, 1, half), inputs[0].device())?.to_dtype(inputs[0].dtype())
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let x = inputs[0].reshape((t, CASE_HEADS, 2 * half))?;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)?.reshape((t, width))
    },
};
