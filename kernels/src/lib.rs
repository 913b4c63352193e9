//! Fused operations and matrix products for Llama-family models, forward and backward.
//!
//! Each operation is a pair of functions, `forward(..) -> (y, Saved)` and
//! `backward(saved, dy) -> gradients`; there is no tape. Activations are candle tensors, row-major
//! (T, D), stored as f32, bf16 or f64; arithmetic is in the *accumulate type*, f32 or, for f64,
//! f64. A forward pass gives its input's type, a backward pass gives its incoming gradient's type,
//! and weights' gradients and matrix products come in the accumulate type.
//!
//! Results do not depend on the number of threads: work is cut at sizes that follow from the shapes
//! alone, and sums are added in a fixed order.

mod access;
mod adamw;
mod adamw_8bit;
mod arena;
mod attention;
mod bytes;
mod column_scale;
mod cross_entropy;
pub mod cuda;
mod deviation;
pub mod device_check;
mod dropout;
mod elementwise;
mod embedding;
mod error;
mod gemm;
mod gemm_bf16;
mod ggml;
mod indices;
mod linear;
mod low_rank;
mod matrix;
mod nf4;
mod offload;
mod ops;
mod random_fill;
mod real;
mod rms_norm;
mod rope;
mod rounding;
mod row_norms;
mod simd;
mod square_sums;
mod stochastic_rounding;
mod swiglu;

pub use access::{narrow, unwritten, widen};
pub use adamw::{AdamW, Keep, Moments, ParameterStep, adamw_step, adamw_steps};
pub use adamw_8bit::{Blockwise, DynamicMap};
pub use arena::{Arena, ArenaUse, Reservation};
pub use attention::{
    AttentionSaved, AttentionShape, KvCache, Segment, Segments, attention, attention_backward,
    attention_cached,
};
pub use bytes::Bytes;
pub use candle_core::{DType, Device, Tensor};
pub use column_scale::{column_products, scale_columns, scale_columns_beyond_one};
pub use cross_entropy::{
    HeadLoss, LOGITS_BYTES, LossSum, TokenScore, linear_cross_entropy, linear_token_scores,
};
pub use deviation::{Deviation, Tolerance};
pub use dropout::{DropoutKey, RowIds, dropout};
pub use elementwise::{
    add_assign, add_bias, divide, gather_rows, scale_assign, scatter_rows, sum_of_squares,
    sum_rows, sums_of_squares,
};
pub use embedding::{embedding, embedding_backward};
pub use error::{Error, Result};
pub use gemm::{Op, gemm};
pub use gemm_bf16::{Bf16Dot, linear_dx_in};
pub use ggml::GgmlType;
pub use indices::Indices;
pub use linear::{linear, linear_dx};
pub use low_rank::{LOW_RANK_COLUMNS, LowRankRows};
pub use matrix::Matrix;
pub use nf4::{Absmax, NF4_CODE, Nf4, dynamic_map};
pub use offload::Offload;
pub use ops::{OPS, OpCase, Outcome};
pub use random_fill::{Uniform, fill_uniform};
pub use real::accumulate_dtype;
pub use rms_norm::{
    RmsNormSaved, rms_norm, rms_norm_backward, rms_norm_backward_onto, rms_norm_of_sum,
};
pub use rope::{Direction, RopeTable, rope};
pub use rounding::{first_overflow, round_to_bytes, widen_bytes};
pub use row_norms::{LowRankUpdate, RowSquares, row_norms};
pub use square_sums::{Clip, GradientScale, SquareSums};
pub use stochastic_rounding::RoundingKey;
pub use swiglu::{SwigluSaved, swiglu, swiglu_backward};
