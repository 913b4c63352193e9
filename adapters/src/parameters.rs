//! What is trained, and where its gradients go.

use crate::Result;
use candle_core::Tensor;

/// One trained tensor.
///
/// A layer holds a clone of `value`; the optimizer changes the storage in place, so the layer sees every update.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// PEFT's key for a tensor of an adapter, the checkpoint's name for a weight.
    pub name: String,
    /// f32, or f64 when computing in f64; bf16 for a matrix of [`crate::Method::FullBf16`].
    pub value: Tensor,
    /// The f32 numbers that a bf16 `value` is rounded from, where they are kept.
    pub master: Option<Tensor>,
    /// What it is to the model.
    pub kind: ParameterKind,
}

/// What a trained tensor is to the model: optimizers treat some of them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A (r, in) of a low-rank update.
    LoraA,
    /// B (out, r) of a low-rank update.
    LoraB,
    /// DoRA's length of each row (out).
    Magnitude,
    /// The weight of a linear layer, of the embedding or of the output head.
    Weight,
    /// The embedding's table where it is the output head's too.
    TiedTable,
    /// The scale of a norm.
    Norm,
    /// A bias.
    Bias,
}

impl Parameter {
    /// Whether weight decay applies: not to norms and biases, as in transformers' `Trainer`.
    pub fn decays(&self) -> bool {
        !matches!(self.kind, ParameterKind::Norm | ParameterKind::Bias)
    }

    /// What the learning rate is multiplied by under LoRA+ (Hayou, Ghosh and Yu, "LoRA+: Efficient Low Rank Adaptation
    /// of Large Models", 2024): the ratio for B, and, as in PEFT's `create_loraplus_optimizer`, for every vector
    /// (magnitudes, norms, biases); 1 for the rest.
    pub fn learning_rate_factor(&self, loraplus_lr_ratio: f64) -> f64 {
        use ParameterKind::*;
        match self.kind {
            LoraB | Magnitude | Norm | Bias => loraplus_lr_ratio,
            LoraA | Weight | TiedTable => 1.0,
        }
    }
}

/// Index of a parameter in [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// Everything that is trained, in the order of the layers. Names are unique.
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    /// Number of trained numbers.
    pub fn elements(&self) -> usize {
        self.0.iter().map(|p| p.value.elem_count()).sum()
    }
}

/// Takes gradients as the backward pass makes them: to add them up, or to apply them at once.
pub trait GradSink {
    /// Takes one gradient, of the parameter's shape and dtype. A parameter used twice is handed over twice.
    ///
    /// A layer hands its gradients over when it no longer needs the values they belong to, so a sink may change those.
    fn add(&mut self, param: ParamId, grad: Tensor) -> Result<()>;
}
