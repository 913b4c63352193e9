//! What training a parameter takes, from its size and the settings: exact, as it is allocated.

use super::MIN_8BIT_SIZE;
use crate::recipe::{OptimizerKind, TrainSection, TrainedWeights};

/// Bytes of one trained parameter, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrainedBytes {
    /// The weights that the forward pass reads.
    pub weights: u64,
    /// The f32 copy that they are rounded from, where there is one.
    pub master: u64,
    /// AdamW's moments.
    pub moments: u64,
    /// Its gradient, while it exists. Accumulated gradients all exist at once; consumed layer by layer, the largest
    /// group of a layer does, and a tied embedding's from the head to the end.
    pub gradient: u64,
}

/// Bytes of a parameter of `elements` numbers; `matrix`: two dimensions, so that bf16 weights apply to it.
/// `accumulate_bytes` is the size of one number of the arithmetic: 4, or 8 where `model.dtype` is f64.
pub fn trained_bytes(
    elements: u64,
    matrix: bool,
    settings: &TrainSection,
    accumulate_bytes: u64,
) -> TrainedBytes {
    let bf16 = matrix && settings.weights != TrainedWeights::F32;
    let in_8_bits =
        settings.optimizer == OptimizerKind::Adamw8bit && elements >= MIN_8BIT_SIZE as u64;
    let moment_bytes = if bf16 { 4 } else { accumulate_bytes };
    TrainedBytes {
        weights: elements * if bf16 { 2 } else { accumulate_bytes },
        master: match bf16 && settings.weights == TrainedWeights::Bf16Master {
            true => 4 * elements,
            false => 0,
        },
        moments: 2 * match in_8_bits {
            true => elements + 4 * elements.div_ceil(256),
            false => moment_bytes * elements,
        },
        gradient: accumulate_bytes * elements,
    }
}

impl std::ops::Add for TrainedBytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            master: self.master + other.master,
            moments: self.moments + other.moments,
            gradient: self.gradient + other.gradient,
        }
    }
}
