//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), in the order of operations of torch's:
//! p ← p (1 - lr·wd); m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²;
//! p ← p - lr/(1-β₁ᵗ) · m / (sqrt(v)/sqrt(1-β₂ᵗ) + ε).
//!
//! One pass over the data, whatever form weights and moments are stored in: a block is read into
//! the cache in the accumulate type, stepped, and written back in its form.

use crate::access::{self, CHUNK, dense_as, mutate, read, same_shape};
use crate::adamw_8bit::{Blockwise, DynamicMap};
use crate::cuda::ops;
use crate::real::{Real, Stored};
use crate::simd::wide;
use crate::square_sums::GradientScale;
use crate::stochastic_rounding::{RoundingKey, StochasticSlice};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

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
    /// The gradient is multiplied by this first: clipping without a pass of its own.
    pub gradient_scale: f64,
}

/// The two moments of a parameter.
#[derive(Clone, Debug)]
pub enum Moments {
    /// Of the parameter's shape, f32 or f64.
    Plain {
        /// Mean gradient.
        first: Tensor,
        /// Mean squared gradient.
        second: Tensor,
    },
    /// Eight bits an element; the arithmetic is in f32.
    Blockwise {
        /// Mean gradient, in the signed map.
        first: Blockwise,
        /// Mean squared gradient, in the unsigned map.
        second: Blockwise,
    },
}

/// How weights take an update that is computed in f32.
#[derive(Clone, Debug)]
pub enum Keep {
    /// The weights are stored in the type of the arithmetic.
    Exact,
    /// The weights are bf16, and are the rounded values of this f32 tensor, which is updated.
    Master(Tensor),
    /// The weights are bf16 and nothing else is kept: the updated value is rounded up or down at
    /// random, with the probabilities that make it right on average.
    Stochastic(RoundingKey),
}

impl Moments {
    /// Zero moments for a parameter of this shape, in `dtype` (f32 or f64).
    pub fn plain(like: &Tensor, dtype: DType) -> Result<Self> {
        let zeros = || Tensor::zeros(like.shape(), dtype, like.device());
        Ok(Self::Plain {
            first: zeros()?,
            second: zeros()?,
        })
    }

    /// Zero moments of `elements` numbers, in eight bits.
    pub fn blockwise(elements: usize, device: &Device) -> Result<Self> {
        Ok(Self::Blockwise {
            first: Blockwise::zeros(elements, DynamicMap::Signed, device)?,
            second: Blockwise::zeros(elements, DynamicMap::Unsigned, device)?,
        })
    }

    /// Every tensor, with a name: `first`, `second`, or `first.codes` and so on.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Plain { first, second } => vec![("first", first), ("second", second)],
            Self::Blockwise { first, second } => vec![
                ("first.codes", &first.codes),
                ("first.absmax", &first.absmax),
                ("second.codes", &second.codes),
                ("second.absmax", &second.absmax),
            ],
        }
    }
}

/// A parameter, and what its step takes.
#[derive(Debug)]
pub struct ParameterStep<'a> {
    /// The weights: f32 or f64 under [`Keep::Exact`], else bf16.
    pub p: &'a mut Tensor,
    /// How they take the update.
    pub keep: Keep,
    /// Their gradient, of p's shape; any float type.
    pub g: Tensor,
    /// Of p's arithmetic; eight-bit ones only f32.
    pub moments: &'a mut Moments,
    /// The step's numbers.
    pub settings: AdamW,
    /// Multiplies the gradient after `settings.gradient_scale`.
    pub scale: GradientScale,
}

/// One step, in place, of a parameter by its gradient: [`adamw_steps`] of one. `step` counts from 1.
pub fn adamw_step(
    p: &mut Tensor,
    keep: &Keep,
    g: &Tensor,
    moments: &mut Moments,
    settings: &AdamW,
    step: u64,
) -> Result<()> {
    let one = ParameterStep {
        p,
        keep: keep.clone(),
        g: g.clone(),
        moments,
        settings: *settings,
        scale: GradientScale::Here(1.0),
    };
    adamw_steps(vec![one], step)
}

/// One step, in place, of parameters of one device by their gradients, which are freed after use; no two share storage.
/// `step` counts from 1. Nothing has changed if an operand's shape does not fit; a GPU is asked for all of it at once, and not
/// waited for.
pub fn adamw_steps(parameters: Vec<ParameterStep>, step: u64) -> Result<()> {
    for of in &parameters {
        check_operands(of)?;
    }
    if parameters.iter().any(|of| of.p.device().is_cuda()) {
        return ops::adamw_steps(&parameters, step);
    }
    for of in parameters {
        step_here(of, step)?;
    }
    Ok(())
}

const OP: &str = "adamw_step";

fn step_here(of: ParameterStep, step: u64) -> Result<()> {
    let ParameterStep {
        p,
        keep,
        g,
        moments,
        mut settings,
        scale,
    } = of;
    match scale {
        GradientScale::Here(scale) => settings.gradient_scale *= scale,
        GradientScale::There(scale) => return Err(access::off_device(OP, &scale)),
    }
    match (p.dtype(), keep, &*moments) {
        (DType::F64, Keep::Exact, Moments::Plain { first, second }) => {
            let g = dense_as::<f64>(&g)?;
            let g = read::<f64>(OP, &g)?;
            let (g, numbers): (&[f64], _) = (&g, Numbers::of(&settings, step));
            mutate::<f64, _>(OP, p, |p| {
                mutate::<f64, _>(OP, first, |m| {
                    mutate::<f64, _>(OP, second, |v| {
                        update(Plain(p), Plain(m), Plain(v), g, &numbers);
                        Ok(())
                    })
                })
            })
        }
        (found @ DType::F64, ..) => Err(Error::Type {
            op: OP,
            found,
            expected: "f32 where moments take eight bits, bf16 where weights are rounded",
        }),
        (_, keep, moments) => {
            let g = dense_as::<f32>(&g)?;
            let g = read::<f32>(OP, &g)?;
            let (g, numbers): (&[f32], _) = (&g, Numbers::of(&settings, step));
            match keep {
                Keep::Exact => {
                    mutate::<f32, _>(OP, p, |p| step_f32(Plain(p), moments, g, &numbers))
                }
                Keep::Master(master) => mutate::<bf16, _>(OP, p, |rounded| {
                    mutate::<f32, _>(OP, &master, |master| {
                        let weights = MasterSlice { rounded, master };
                        step_f32(weights, moments, g, &numbers)
                    })
                }),
                Keep::Stochastic(key) => mutate::<bf16, _>(OP, p, |p| {
                    step_f32(StochasticSlice::new(p, key), moments, g, &numbers)
                }),
            }
        }
    }
}

fn check_operands(of: &ParameterStep) -> Result<()> {
    let (p, g) = (&*of.p, &of.g);
    same_shape(OP, "g", g, "p", p)?;
    let mut all = vec![("p", p), ("g", g)];
    if let Keep::Master(master) = &of.keep {
        same_shape(OP, "the master copy", master, "p", p)?;
        all.push(("the master copy", master));
    }
    match &*of.moments {
        Moments::Plain { first, second } => {
            same_shape(OP, "m", first, "p", p)?;
            same_shape(OP, "v", second, "p", p)?;
        }
        Moments::Blockwise { first, second } => {
            first.check(OP, "m", p.elem_count())?;
            second.check(OP, "v", p.elem_count())?;
        }
    }
    all.extend(of.moments.tensors());
    // Each is locked on its own: the same storage twice would wait for itself for ever.
    for (i, (what, t)) in all.iter().enumerate() {
        for (_, other) in &all[..i] {
            access::not_aliased(OP, other, what, t)?;
        }
    }
    Ok(())
}

fn step_f32(
    weights: impl Blocks<f32>,
    moments: &Moments,
    g: &[f32],
    numbers: &Numbers<f32>,
) -> Result<()> {
    match moments {
        Moments::Plain { first, second } => mutate::<f32, _>(OP, first, |m| {
            mutate::<f32, _>(OP, second, |v| {
                update(weights, Plain(m), Plain(v), g, numbers);
                Ok(())
            })
        }),
        Moments::Blockwise { first, second } => first.mutate(OP, |m| {
            second.mutate(OP, |v| {
                update(weights, m, v, g, numbers);
                Ok(())
            })
        }),
    }
}

/// Elements of a block: what is in the accumulate type at a time, and what shares a scale in eight bits.
pub(crate) const BLOCK: usize = 256;

/// Numbers that are stored in some form and stepped in the type T.
pub(crate) trait Blocks<T>: Sized + Send {
    /// Cut into parts of [`CHUNK`] elements.
    fn tasks(self) -> Vec<Self>;
    /// Reads some elements, at most a block from a block's beginning.
    fn load(&self, elements: Range<usize>, into: &mut [T; BLOCK]);
    /// Writes them back.
    fn store(&mut self, elements: Range<usize>, from: &[T; BLOCK]);
}

/// Stored as they are stepped.
struct Plain<'a, T>(&'a mut [T]);

impl<T: Real> Blocks<T> for Plain<'_, T> {
    fn tasks(self) -> Vec<Self> {
        self.0.chunks_mut(CHUNK).map(Plain).collect()
    }
    #[inline(always)]
    fn load(&self, elements: Range<usize>, into: &mut [T; BLOCK]) {
        into[..elements.len()].copy_from_slice(&self.0[elements]);
    }
    #[inline(always)]
    fn store(&mut self, elements: Range<usize>, from: &[T; BLOCK]) {
        let n = elements.len();
        self.0[elements].copy_from_slice(&from[..n]);
    }
}

/// bf16, and what they are rounded from.
struct MasterSlice<'a> {
    rounded: &'a mut [bf16],
    master: &'a mut [f32],
}

impl Blocks<f32> for MasterSlice<'_> {
    fn tasks(self) -> Vec<Self> {
        let parts = self.rounded.chunks_mut(CHUNK);
        let parts = parts.zip(self.master.chunks_mut(CHUNK));
        parts
            .map(|(rounded, master)| Self { rounded, master })
            .collect()
    }
    #[inline(always)]
    fn load(&self, elements: Range<usize>, into: &mut [f32; BLOCK]) {
        into[..elements.len()].copy_from_slice(&self.master[elements]);
    }
    #[inline(always)]
    fn store(&mut self, elements: Range<usize>, from: &[f32; BLOCK]) {
        let from = &from[..elements.len()];
        self.master[elements.clone()].copy_from_slice(from);
        for (rounded, from) in self.rounded[elements].iter_mut().zip(from) {
            *rounded = <bf16 as Stored>::narrow(*from);
        }
    }
}

/// [`AdamW`] at one step, in the type of the arithmetic.
pub(crate) struct Numbers<T> {
    pub(crate) scale: T,
    pub(crate) decay: T,
    pub(crate) rate: T,
    pub(crate) root: T,
    pub(crate) epsilon: T,
    pub(crate) beta1: (T, T),
    pub(crate) beta2: (T, T),
}

impl<T: Real> Numbers<T> {
    pub(crate) fn of(s: &AdamW, step: u64) -> Self {
        let power = |beta: f64| 1.0 - beta.powf(step.max(1) as f64);
        Self {
            scale: T::of(s.gradient_scale),
            decay: T::of(1.0 - s.learning_rate * s.weight_decay),
            rate: T::of(s.learning_rate / power(s.beta1)),
            root: T::of(power(s.beta2).sqrt()),
            epsilon: T::of(s.epsilon),
            beta1: (T::of(s.beta1), T::of(1.0 - s.beta1)),
            beta2: (T::of(s.beta2), T::of(1.0 - s.beta2)),
        }
    }
}

fn update<T: Real, M: Blocks<T>>(
    weights: impl Blocks<T>,
    first: M,
    second: M,
    g: &[T],
    numbers: &Numbers<T>,
) {
    let tasks = weights.tasks().into_par_iter();
    let tasks = tasks.zip(first.tasks()).zip(second.tasks());
    tasks
        .zip(g.par_chunks(CHUNK))
        .for_each(|(((p, m), v), g)| wide!(update_task(p, m, v, g, numbers)));
}

#[inline(always)]
fn update_task<T: Real, M: Blocks<T>>(
    mut weights: impl Blocks<T>,
    mut first: M,
    mut second: M,
    gradient: &[T],
    numbers: &Numbers<T>,
) {
    // Arrays of their own and of one length: the compiler sees that none overlaps another. They stay in the first cache.
    let [mut p, mut m, mut v, mut g] = [[T::ZERO; BLOCK]; 4];
    for (i, part) in gradient.chunks(BLOCK).enumerate() {
        let block = i * BLOCK..i * BLOCK + part.len();
        g[..part.len()].copy_from_slice(part);
        weights.load(block.clone(), &mut p);
        first.load(block.clone(), &mut m);
        second.load(block.clone(), &mut v);
        step_block(&mut p, &g, &mut m, &mut v, numbers);
        first.store(block.clone(), &m);
        second.store(block.clone(), &v);
        weights.store(block, &p);
    }
}

#[inline(always)]
fn step_block<T: Real>(
    p: &mut [T; BLOCK],
    g: &[T; BLOCK],
    m: &mut [T; BLOCK],
    v: &mut [T; BLOCK],
    n: &Numbers<T>,
) {
    let (b1, c1) = n.beta1;
    let (b2, c2) = n.beta2;
    for i in 0..BLOCK {
        let g = g[i] * n.scale;
        m[i] = b1 * m[i] + c1 * g;
        v[i] = b2 * v[i] + c2 * g * g;
        p[i] = p[i] * n.decay - n.rate * m[i] / (v[i].sqrt() / n.root + n.epsilon);
    }
}
