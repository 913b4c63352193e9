//! AdamW over the trained parameters: moments in 32 or 8 bits, weights in f32 or bf16, gradients added up first or
//! consumed as the backward pass makes them.
//!
//! - [`Gradients`]: one slot a parameter, for accumulation;
//! - [`Optimizer::step`]: clip and apply what was accumulated;
//! - [`Optimizer::take_step`]: the whole step of the settings, from a backward pass;
//! - [`trained_bytes`]: what all of it takes, before anything is allocated.

mod bytes;
mod gradients;
mod per_layer;

use adapters::{GradSink, Parameter, Parameters};
use candle_core::{DType, Tensor};
use kernels::{AdamW, GradientScale, Keep, Moments, RoundingKey, accumulate_dtype};

use crate::recipe::{Clipping, GradientMode, OptimizerKind, TrainSection, TrainedWeights};
use crate::{Error, Result};

pub use bytes::{TrainedBytes, trained_bytes};
pub use gradients::Gradients;
use per_layer::{Apply, Norms};

/// AdamW's state: the moments of each parameter and, where weights are bf16 beside a master copy, the copy.
pub struct Optimizer {
    states: Vec<ParameterState>,
    settings: TrainSection,
    seed: u64,
}

struct ParameterState {
    name: String,
    /// For random bits: of the name, so that another parameter more or less changes nothing.
    number: u64,
    moments: Moments,
    master: Option<Tensor>,
}

/// Parameters with fewer elements keep moments of 32 bits (bitsandbytes' `min_8bit_size`): norms and biases, which need
/// little memory and whose moments differ most within a block.
pub const MIN_8BIT_SIZE: usize = 4096;

impl Optimizer {
    /// Zero moments. `seed` is the run's: stochastic rounding draws from it.
    pub fn new(parameters: &Parameters, settings: &TrainSection, seed: u64) -> Result<Self> {
        let states = parameters
            .0
            .iter()
            .map(|p| ParameterState::new(p, settings.optimizer))
            .collect::<Result<_>>()?;
        Ok(Self {
            states,
            settings: settings.clone(),
            seed,
        })
    }

    /// Everything the next step depends on besides the parameters, as named tensors of any dtype: what a checkpoint holds.
    /// The tensors share the optimizer's storage, so they change with the next step.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for ParameterState {
            name,
            moments,
            master,
            ..
        } in &self.states
        {
            for (part, tensor) in moments.tensors() {
                tensors.push((format!("adamw.{part}.{name}"), tensor.clone()));
            }
            if let Some(master) = master {
                tensors.push((format!("master.{name}"), master.clone()));
            }
        }
        tensors
    }

    /// Takes a state back. `stored` answers the tensor of that name; it must refuse one whose shape or dtype is not that
    /// of its second argument. What it answers is copied into the optimizer's own storage.
    pub fn load_state(
        &mut self,
        mut stored: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        for (name, tensor) in self.state() {
            tensor.slice_set(&stored(&name, &tensor)?, 0, 0)?;
        }
        Ok(())
    }

    /// One optimizer step as `train.gradients` and `train.clipping` say. `step` counts from 1.
    ///
    /// `backward` computes the gradients of the step and hands them to the sink; with gradients consumed as they come
    /// and clipped by their global norm it is called twice ([`TrainSection::backward_passes`]), and must give the same
    /// both times. `twice` is the parameter that is handed over twice a backward pass: a tied embedding.
    ///
    /// Answers what `backward` answered the first time, and the gradients' global norm before clipping. Where it fails,
    /// nothing has changed, except with [`Error::NotFiniteInPass`].
    pub fn take_step<R>(
        &mut self,
        parameters: &mut Parameters,
        twice: Option<adapters::ParamId>,
        learning_rate: f64,
        step: u64,
        mut backward: impl FnMut(&mut dyn GradSink) -> Result<R>,
    ) -> Result<(R, f64)> {
        match self.settings.gradients {
            GradientMode::Accumulate => {
                let mut gradients = Gradients::new(parameters);
                let answer = backward(&mut gradients)?;
                let norm = self.step(parameters, gradients, learning_rate, step)?;
                Ok((answer, norm))
            }
            GradientMode::PerLayer if self.settings.backward_passes() == 2 => {
                let mut norms = Norms::new(parameters, twice)?;
                let answer = backward(&mut norms)?;
                let norm = finite_norm(norms.finish(parameters)?, step)?;
                let scale = self.global_scale(norm);
                let mut apply = Apply::new(self, parameters, twice, learning_rate, step, scale)?;
                backward(&mut apply)?;
                apply.finish()?;
                Ok((answer, norm))
            }
            GradientMode::PerLayer => {
                let mut apply = Apply::new(self, parameters, twice, learning_rate, step, 1.0)?;
                let answer = backward(&mut apply)?;
                Ok((answer, apply.finish()?))
            }
        }
    }

    /// Clips as the settings say and steps every parameter by accumulated gradients. `step` counts from 1.
    ///
    /// Answers the global norm before clipping; a norm that is not finite is an error and changes nothing.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        mut gradients: Gradients,
        learning_rate: f64,
        step: u64,
    ) -> Result<f64> {
        let squares = gradients.squares(parameters)?;
        let norm = finite_norm(squares.iter().sum::<f64>().sqrt(), step)?;
        let global = self.global_scale(norm);
        for (i, squares) in squares.into_iter().enumerate() {
            let own = GradientScale::Here(clip(self.own_limit(), squares.sqrt()));
            let scale = (global, &own);
            let gradient = gradients.take(i);
            self.apply(
                i,
                &mut parameters.0[i],
                &gradient,
                scale,
                learning_rate,
                step,
            )?;
        }
        Ok(norm)
    }

    /// Steps parameter `i`. The one place where a parameter's learning rate and decay are decided.
    fn apply(
        &mut self,
        i: usize,
        parameter: &mut Parameter,
        gradient: &Tensor,
        (gradient_scale, clip): (f64, &GradientScale),
        learning_rate: f64,
        step: u64,
    ) -> Result<()> {
        let state = &mut self.states[i];
        let settings = AdamW {
            learning_rate: learning_rate
                * parameter.learning_rate_factor(self.settings.loraplus_lr_ratio),
            beta1: self.settings.adam_beta1,
            beta2: self.settings.adam_beta2,
            epsilon: self.settings.adam_epsilon,
            weight_decay: match parameter.decays() {
                true => self.settings.weight_decay,
                false => 0.0,
            },
            gradient_scale,
        };
        let keep = match (&state.master, parameter.value.dtype()) {
            (Some(master), _) => Keep::Master(master.clone()),
            (None, DType::BF16) => Keep::Stochastic(RoundingKey {
                seed: self.seed,
                step,
                parameter: state.number,
            }),
            (None, _) => Keep::Exact,
        };
        let (p, moments) = (&mut parameter.value, &mut state.moments);
        Ok(kernels::adamw_step_scaled(
            p, &keep, gradient, moments, &settings, step, clip,
        )?)
    }

    /// What clipping by the global norm multiplies every gradient by: torch's `clip_grad_norm_`.
    fn global_scale(&self, norm: f64) -> f64 {
        match self.settings.clipping {
            Clipping::Global => clip(self.settings.max_grad_norm, norm),
            Clipping::PerParameter => 1.0,
        }
    }

    /// The limit of a gradient's own norm, or 0.
    fn own_limit(&self) -> f64 {
        match self.settings.clipping {
            Clipping::Global => 0.0,
            Clipping::PerParameter => self.settings.max_grad_norm,
        }
    }
}

impl ParameterState {
    fn new(p: &Parameter, optimizer: OptimizerKind) -> Result<Self> {
        let eight_bits =
            optimizer == OptimizerKind::Adamw8bit && p.value.elem_count() >= MIN_8BIT_SIZE;
        let moments = match eight_bits {
            true => Moments::blockwise(p.value.elem_count(), p.value.device())?,
            false => Moments::plain(&p.value, accumulate_dtype(p.value.dtype()))?,
        };
        let digest = ledger::hash::sha256_bytes(p.name.as_bytes());
        Ok(Self {
            name: p.name.clone(),
            number: u64::from_str_radix(&digest[..16], 16).expect("a digest is hexadecimal"),
            moments,
            master: p.master.clone(),
        })
    }
}

fn clip(limit: f64, norm: f64) -> f64 {
    match limit > 0.0 {
        true => (limit / (norm + 1e-6)).min(1.0),
        false => 1.0,
    }
}

fn finite_norm(norm: f64, step: u64) -> Result<f64> {
    match norm.is_finite() {
        true => Ok(norm),
        false => Err(Error::NotFinite {
            what: "gradient norm",
            step,
            value: norm,
        }),
    }
}

impl TrainedWeights {
    /// What a [`adapters::Builder`] is asked for to train every weight this way.
    pub fn method(self) -> adapters::Method {
        match self {
            Self::F32 => adapters::Method::Full,
            Self::Bf16Master => adapters::Method::FullBf16 { master: true },
            Self::Bf16Stochastic => adapters::Method::FullBf16 { master: false },
        }
    }
}
