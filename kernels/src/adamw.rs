//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), in the order of operations of torch's:
//! p ← p (1 - lr·wd); m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²;
//! p ← p - lr/(1-β₁ᵗ) · m / (sqrt(v)/sqrt(1-β₂ᵗ) + ε).

use crate::Result;
use crate::access::{self, CHUNK, CpuNumbers, dense_as, mutate, read, same_shape};
use crate::real::{Real, with_real};
use crate::simd::wide;
use candle_core::Tensor;
use rayon::prelude::*;

/// The step's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
}

/// One step, in place: p and its moments m and v (of p's shape; f32 or f64) by the gradient g.
/// `step` counts from 1.
pub fn adamw_step(
    p: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    settings: &AdamW,
    step: u64,
) -> Result<()> {
    const OP: &str = "adamw_step";
    for (what, t) in [("g", g), ("m", &*m), ("v", &*v)] {
        same_shape(OP, what, t, "p", p)?;
        access::not_aliased(OP, p, what, t)?;
    }
    access::not_aliased(OP, m, "g", g)?;
    access::not_aliased(OP, v, "g", g)?;
    access::not_aliased(OP, m, "v", v)?;
    with_real!(OP, p.dtype(), T => {
        let g = dense_as::<T>(OP, g)?;
        let g = read::<T>(OP, &g)?;
        let g: &[T] = &g;
        mutate::<T, _>(OP, p, |p| mutate::<T, _>(OP, m, |m| mutate::<T, _>(OP, v, |v| {
            update(p, g, m, v, settings, step);
            Ok(())
        })))
    })
}

fn update<T: Real + CpuNumbers>(
    p: &mut [T],
    g: &[T],
    m: &mut [T],
    v: &mut [T],
    s: &AdamW,
    step: u64,
) {
    let power = |beta: f64| 1.0 - beta.powf(step.max(1) as f64);
    let decay = T::of(1.0 - s.learning_rate * s.weight_decay);
    let rate = T::of(s.learning_rate / power(s.beta1));
    let root = T::of(power(s.beta2).sqrt());
    let epsilon = T::of(s.epsilon);
    let (b1, c1) = (T::of(s.beta1), T::of(1.0 - s.beta1));
    let (b2, c2) = (T::of(s.beta2), T::of(1.0 - s.beta2));
    let tasks = p
        .par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK));
    tasks.zip(g.par_chunks(CHUNK)).for_each(|(((p, m), v), g)| {
        wide!({
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                *m = b1 * *m + c1 * *g;
                *v = b2 * *v + c2 * *g * *g;
                *p = *p * decay - rate * *m / (v.sqrt() / root + epsilon);
            }
        });
    });
}
