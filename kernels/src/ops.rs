//! The registry of differentiable operations, for the contract test and the benchmark.

use crate::Result;
use candle_core::Tensor;

/// One operation on inputs of one choice of shapes.
pub struct OpCase {
    /// The operation and the case.
    pub name: &'static str,
    /// Shapes of the inputs that have gradients.
    pub inputs: &'static [&'static [usize]],
    /// y, and the gradient of sum(y · dy) for each input.
    pub run: fn(&[Tensor], dy: Option<&Tensor>) -> Result<(Tensor, Vec<Tensor>)>,
    /// y by candle's plain operations, which its tape differentiates.
    pub reference: fn(&[Tensor]) -> Result<Tensor>,
}

/// Every differentiable operation.
pub const OPS: &[OpCase] = &[];
