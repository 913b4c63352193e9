//! SwiGLU (Shazeer 2020, arXiv 2002.05202): y = silu(gate) · up, silu(x) = x σ(x).
//!
//! Backward: dup = dy · silu(gate), dgate = dy · up · σ · (1 + gate · (1 - σ)), σ = σ(gate). The
//! product is computed again rather than saved.

use crate::access::{self, CHUNK, dense, dense_as, read, same_shape};
use crate::cuda::ops;
use crate::real::{Real, Stored, with_stored};
use crate::simd::wide;
use crate::{Error, OpCase, Result, simd};
use candle_core::Tensor;
use rayon::prelude::*;

/// What the backward pass needs: the two inputs.
#[must_use]
#[derive(Debug)]
pub struct SwigluSaved {
    gate: Tensor,
    up: Tensor,
}

impl SwigluSaved {
    /// Bytes held until the backward pass.
    pub fn size_bytes(&self) -> usize {
        2 * self.gate.elem_count() * self.gate.dtype().size_in_bytes()
    }

    /// y again, the same bits, for what did not keep it.
    pub fn output(&self) -> Result<Tensor> {
        output(&self.gate, &self.up)
    }
}

/// y, in the type of the two inputs.
pub fn swiglu(gate: Tensor, up: Tensor) -> Result<(Tensor, SwigluSaved)> {
    const OP: &str = "swiglu";
    same_shape(OP, "gate", &gate, "up", &up)?;
    if gate.dtype() != up.dtype() {
        return Err(Error::Type {
            op: OP,
            found: up.dtype(),
            expected: "gate and up of one type",
        });
    }
    let (gate, up) = (dense(&gate)?, dense(&up)?);
    let y = output(&gate, &up)?;
    Ok((y, SwigluSaved { gate, up }))
}

fn output(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    const OP: &str = "swiglu";
    if gate.device().is_cuda() {
        return ops::swiglu(gate, up);
    }
    with_stored!(OP, gate.dtype(), S => {
        let y = forward::<S>(&read(OP, gate)?, &read(OP, up)?);
        access::tensor(y, gate.shape())
    })
}

fn forward<S: Stored>(gate: &[S], up: &[S]) -> Vec<S> {
    let mut y = vec![S::zero(); gate.len()];
    let tasks = y
        .par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK));
    tasks.for_each(|((y, gate), up)| {
        wide!({
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                let g = g.widen();
                *y = S::narrow(g * simd::sigmoid(g) * u.widen());
            }
        });
    });
    y
}

/// (dgate, dup), in dy's type.
pub fn swiglu_backward(saved: SwigluSaved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "swiglu_backward";
    same_shape(OP, "dy", dy, "gate", &saved.gate)?;
    if dy.device().is_cuda() {
        return ops::swiglu_backward(&saved.gate, &saved.up, dy);
    }
    with_stored!(OP, saved.gate.dtype(), S => {
        let wide_dy = dense_as::<<S as Stored>::Acc>(dy)?;
        let (dgate, dup) = backward::<S>(&read(OP, &saved.gate)?, &read(OP, &saved.up)?, &read(OP, &wide_dy)?);
        let (dgate, dup) = (access::tensor(dgate, dy.shape())?, access::tensor(dup, dy.shape())?);
        Ok((access::narrow(&dgate, dy.dtype())?, access::narrow(&dup, dy.dtype())?))
    })
}

fn backward<S: Stored>(gate: &[S], up: &[S], dy: &[S::Acc]) -> (Vec<S::Acc>, Vec<S::Acc>) {
    let mut dgate = vec![S::Acc::ZERO; gate.len()];
    let mut dup = vec![S::Acc::ZERO; gate.len()];
    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    let inputs = gate
        .par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK));
    outputs
        .zip(inputs)
        .for_each(|((dgate, dup), ((gate, up), dy))| {
            wide!({
                let inputs = gate.iter().zip(up).zip(dy);
                for ((dgate, dup), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
                    let g = g.widen();
                    let s = simd::sigmoid(g);
                    *dup = *dy * g * s;
                    *dgate = *dy * u.widen() * s * (S::Acc::ONE + g * (S::Acc::ONE - s));
                }
            });
        });
    (dgate, dup)
}

pub(crate) const CASE: OpCase = OpCase {
    name: "swiglu",
    shapes: &[&[&[5, 123], &[5, 123]], &[&[130, 300], &[130, 300]]],
    run: |inputs, dy| {
        let (y, saved) = swiglu(inputs[0].clone(), inputs[1].clone())?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        let (dgate, dup) = swiglu_backward(saved, dy)?;
        Ok((y, vec![dgate, dup]))
    },
    reference: |inputs| inputs[0].silu()? * &inputs[1],
};
