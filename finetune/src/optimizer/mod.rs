//! AdamW over the trained parameters: moments in 32 or 8 bits, weights in f32 or bf16, gradients added up first or
//! consumed as the backward pass makes them.
//!
//! - [`Gradients`]: one slot a parameter, for accumulation;
//! - [`Optimizer::step`]: clip and apply what was accumulated;
//! - [`Optimizer::take_step`]: the whole step of the settings, from a backward pass;
//! - [`trained_bytes`]: what all of it takes, before anything is allocated.

mod bytes;
mod found;
mod gradients;
mod per_layer;

use adapters::{GradSink, ParamId, Parameter, Parameters};
use candle_core::{DType, Tensor};
use kernels::{
    AdamW, Clip, GradientScale, Keep, Moments, ParameterStep, RoundingKey, accumulate_dtype,
};

use crate::Result;
use crate::decoder::{BatchLoss, PendingLoss};
use crate::recipe::{Clipping, GradientMode, OptimizerKind, TrainSection, TrainedWeights};

pub use bytes::{TrainedBytes, trained_bytes};
use found::{Found, slots};
pub use gradients::Gradients;
use per_layer::{Apply, Norms, Scales};

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
    /// `backward` computes the gradients of the step, hands them to the sink and answers its losses; with gradients consumed
    /// as they come and clipped by their global norm it is called twice ([`TrainSection::backward_passes`]), and must give
    /// the same both times. `twice` is the parameter that is handed over twice a backward pass: a tied embedding.
    ///
    /// Answers the step's loss, and the gradients' global norm before clipping. A GPU is asked for all of the step before it
    /// is waited for, once. Where it fails, nothing has changed, except with [`crate::Error::NotFiniteInPass`] and
    /// [`crate::Error::LossNotFiniteInPass`].
    pub fn take_step(
        &mut self,
        parameters: &mut Parameters,
        twice: Option<ParamId>,
        learning_rate: f64,
        step: u64,
        mut backward: impl FnMut(&mut dyn GradSink) -> Result<Vec<PendingLoss>>,
    ) -> Result<(BatchLoss, f64)> {
        match self.settings.gradients {
            GradientMode::Accumulate => {
                let mut gradients = Gradients::new(parameters);
                let losses = backward(&mut gradients)?;
                self.step(parameters, gradients, losses, learning_rate, step)
            }
            GradientMode::PerLayer if self.settings.backward_passes() == 2 => {
                let mut norms = Norms::new(parameters, twice)?;
                let losses = backward(&mut norms)?;
                let found = Found::new(norms.finish(parameters)?, losses, step)?;
                let scales = Scales::Known(found.sums.scales(self.clip())?);
                let mut apply = Apply::new(self, parameters, twice, learning_rate, step, scales);
                backward(&mut apply)?;
                let applied = apply.finish();
                let values = found.values()?;
                applied?;
                Ok(values)
            }
            GradientMode::PerLayer => {
                let own = Scales::own(parameters, self.own_limit())?;
                let mut apply = Apply::new(self, parameters, twice, learning_rate, step, own);
                let losses = backward(&mut apply)?;
                apply.finish_with(losses)
            }
        }
    }

    /// Clips as the settings say and steps every parameter by accumulated gradients. `step` counts from 1.
    ///
    /// Answers the loss of `losses`, and the global norm before clipping; one that is not finite is an error and changes
    /// nothing.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: Gradients,
        losses: Vec<PendingLoss>,
        learning_rate: f64,
        step: u64,
    ) -> Result<(BatchLoss, f64)> {
        let gradients = gradients.all(parameters)?;
        let mut sums = slots(parameters)?;
        sums.put_all(&gradients.iter().collect::<Vec<_>>())?;
        let found = Found::new(sums, losses, step)?;
        let scales = found.sums.scales(self.clip())?;
        let all = self.states.iter_mut().zip(&mut parameters.0);
        let all = all.zip(gradients.into_iter().zip(scales));
        let (settings, seed) = (&self.settings, self.seed);
        let steps = all.map(|((state, parameter), (gradient, scale))| {
            let rounding = (seed, step);
            state.step(
                parameter,
                settings,
                learning_rate,
                rounding,
                gradient,
                scale,
            )
        });
        kernels::adamw_steps(steps.collect(), step)?;
        found.values()
    }

    /// Steps parameter `i` alone.
    fn apply(
        &mut self,
        i: usize,
        parameter: &mut Parameter,
        gradient: Tensor,
        scale: GradientScale,
        learning_rate: f64,
        step: u64,
    ) -> Result<()> {
        let rounding = (self.seed, step);
        let one = self.states[i].step(
            parameter,
            &self.settings,
            learning_rate,
            rounding,
            gradient,
            scale,
        );
        Ok(kernels::adamw_steps(vec![one], step)?)
    }

    /// What gradients are clipped to when all of them are there.
    fn clip(&self) -> Clip {
        match self.settings.clipping {
            Clipping::Global => Clip::Together(self.settings.max_grad_norm),
            Clipping::PerParameter => Clip::Own(self.settings.max_grad_norm),
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
    /// What a step of this parameter takes. The one place where its learning rate and decay are decided.
    fn step<'a>(
        &'a mut self,
        parameter: &'a mut Parameter,
        settings: &TrainSection,
        learning_rate: f64,
        (seed, step): (u64, u64),
        gradient: Tensor,
        scale: GradientScale,
    ) -> ParameterStep<'a> {
        let factor = parameter.learning_rate_factor(settings.loraplus_lr_ratio);
        let keep = match (&self.master, parameter.value.dtype()) {
            (Some(master), _) => Keep::Master(master.clone()),
            (None, DType::BF16) => Keep::Stochastic(RoundingKey {
                seed,
                step,
                parameter: self.number,
            }),
            (None, _) => Keep::Exact,
        };
        ParameterStep {
            settings: AdamW {
                learning_rate: learning_rate * factor,
                beta1: settings.adam_beta1,
                beta2: settings.adam_beta2,
                epsilon: settings.adam_epsilon,
                weight_decay: match parameter.decays() {
                    true => settings.weight_decay,
                    false => 0.0,
                },
                gradient_scale: 1.0,
            },
            p: &mut parameter.value,
            keep,
            g: gradient,
            moments: &mut self.moments,
            scale,
        }
    }

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
