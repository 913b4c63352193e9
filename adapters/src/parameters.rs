//! What is trained, and where its gradients go.

use crate::Result;
use candle_core::Tensor;

/// One trained tensor.
///
/// A layer holds a clone of `value`; the optimizer changes the storage in place, so the layer sees every update.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// PEFT's key for a LoRA matrix, the checkpoint's name for a weight.
    pub name: String,
    /// f32, or f64 when computing in f64; bf16 for a matrix of [`crate::Method::FullBf16`].
    pub value: Tensor,
    /// The f32 numbers that a bf16 `value` is rounded from, where they are kept.
    pub master: Option<Tensor>,
    /// Whether weight decay applies: not to norms and biases.
    pub decay: bool,
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
    fn add(&mut self, param: ParamId, grad: Tensor) -> Result<()>;
}
