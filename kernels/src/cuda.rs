//! Computing on NVIDIA GPUs.
//!
//! What is arithmetic on shapes is compiled everywhere and tested without a device: [`launch`] says which kernels an
//! operation takes, with their grids and arguments, and [`product`] how a matrix product looks to cuBLASLt. What touches
//! the driver needs the feature `cuda`: `gpu` opens a device, `modules` holds the kernels' PTX, `run` launches, `blas`
//! multiplies. A build with the feature starts on machines that have none of CUDA's libraries; [`open`] says there which
//! of them is missing.

mod error;
pub mod launch;
#[cfg(any(feature = "cuda", test))]
mod libraries;
pub(crate) mod ops;
pub mod product;
pub(crate) mod tensors;

#[cfg(feature = "cuda")]
mod blas;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod modules;
#[cfg(feature = "cuda")]
mod pinned;
#[cfg(feature = "cuda")]
mod run;

#[cfg(feature = "cuda")]
pub(crate) use blas::gemm;
pub use error::CudaError;
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub use modules::{MODULES, Module};
#[cfg(feature = "cuda")]
pub(crate) use pinned::{Coming, Pinned};
#[cfg(feature = "cuda")]
pub use run::Buffer;

use candle_core::Device;

/// What a device is, as the driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFacts {
    /// Its number, which `CUDA_VISIBLE_DEVICES` counts.
    pub ordinal: usize,
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Major and minor, such as (9, 0).
    pub compute_capability: (u32, u32),
    /// The newest CUDA that the driver knows, such as `13.0`.
    pub driver_cuda: String,
    /// The CUDA that this program was built with.
    pub built_with_cuda: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Memory that was free when it was opened.
    pub free_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// The devices that this program has opened, by their numbers.
#[cfg(feature = "cuda")]
pub fn opened() -> Vec<GpuFacts> {
    Gpu::opened()
}

/// The devices that this program has opened: none, in this build.
#[cfg(not(feature = "cuda"))]
pub fn opened() -> Vec<GpuFacts> {
    Vec::new()
}

/// The most that was in use at once in a GPU's memory, of what this program has asked for; `None` elsewhere.
#[cfg(feature = "cuda")]
pub fn peak_bytes(device: &Device) -> Option<u64> {
    Gpu::of(device.as_cuda_device().ok()?).ok()?.peak_bytes()
}

/// The most that was in use at once in a GPU's memory: nothing, in this build.
#[cfg(not(feature = "cuda"))]
pub fn peak_bytes(device: &Device) -> Option<u64> {
    let _ = device;
    None
}

/// Opens a device, and says what it is. Every operation on one of its tensors runs on the one stream that it has.
#[cfg(feature = "cuda")]
pub fn open(ordinal: usize) -> Result<(Device, GpuFacts), CudaError> {
    let gpu = Gpu::open(ordinal)?;
    Ok((gpu.device(), gpu.facts().clone()))
}

/// Opens a device, and says what it is: not in this build, which was made without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub fn open(ordinal: usize) -> Result<(Device, GpuFacts), CudaError> {
    let _ = ordinal;
    Err(CudaError::NotBuilt)
}
