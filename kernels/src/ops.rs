//! The registry of differentiable operations: what the contract test and the benchmark walk.

use crate::Result;
use candle_core::Tensor;

/// y and the inputs' gradients.
pub type Outcome = (Tensor, Vec<Tensor>);

/// One way to use an operation, with the shapes to try it on.
#[derive(Clone, Copy)]
pub struct OpCase {
    /// The operation and the case.
    pub name: &'static str,
    /// Choices of shapes for the inputs that have gradients; the last crosses block borders.
    pub shapes: &'static [&'static [&'static [usize]]],
    /// y, and for each input the gradient of sum(y · dy) if dy is given.
    pub run: fn(&[Tensor], dy: Option<&Tensor>) -> Result<Outcome>,
    /// y by candle's plain operations that keep the tape.
    pub reference: fn(&[Tensor]) -> candle_core::Result<Tensor>,
}

/// Every differentiable operation.
pub const OPS: &[OpCase] = &[
    crate::gemm::CASE,
    crate::linear::CASE,
    crate::rms_norm::CASE,
    crate::rms_norm::OF_SUM,
    crate::rope::CASE,
    crate::swiglu::CASE,
    crate::attention::PACKED,
    crate::attention::SHORT,
    crate::attention::PREFIXED,
    crate::attention::WINDOWED,
    crate::embedding::CASE,
    crate::cross_entropy::CASE,
    crate::dropout::CASE,
    crate::elementwise::BIAS,
    crate::elementwise::SUM,
    crate::elementwise::ROWS,
    crate::column_scale::CASE,
];
