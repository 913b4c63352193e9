//! The operations on a device's tensors: what each takes apart from its kernels, which `launch` names.
//!
//! Nothing here waits for the device but what answers a number to the processor: losses, scores and norms.

mod attention;
mod head;
mod optimizer;
mod rows;
mod weights;

pub(crate) use attention::{DeviceCache, DeviceTiles, attention, attention_backward};
pub(crate) use head::{cross_entropy, token_scores};
pub(crate) use optimizer::{adamw_steps, clip_scales, square_into, sums_of_squares};
pub(crate) use rows::*;
pub(crate) use weights::{
    DeviceMatrix, GgmlBlocks, Nf4Tensors, fill_uniform, linear, linear_dx, row_norms,
};
