//! Activations that wait in the processor's memory between a forward and a backward pass.
//!
//! A GPU that computes a large model has room for its weights and little else. With full recomputation the backward pass
//! starts each layer from its input alone; those inputs go to pinned memory while the next layer computes, and come back
//! one layer before they are needed. Both ways are copies on a stream of their own, which events keep in order with the
//! one that computes: the processor waits for neither.

use crate::Result;
use candle_core::{Device, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::Pinned;

/// Tensors that are put away one after another and taken back in the opposite order.
pub struct Offload {
    kept: Vec<Kept>,
}

enum Kept {
    /// Where it was: on the processor there is nowhere else.
    Here(Tensor),
    #[cfg(feature = "cuda")]
    Away(Pinned),
    #[cfg(feature = "cuda")]
    Coming(crate::cuda::Coming),
}

impl Offload {
    /// With room for `tensors` of them.
    pub fn new(tensors: usize) -> Self {
        Self {
            kept: Vec::with_capacity(tensors),
        }
    }

    /// Puts a dense tensor away. Its device memory is free for what is asked of the device after this.
    pub fn put(&mut self, tensor: Tensor) -> Result<()> {
        self.kept.push(put(tensor)?);
        Ok(())
    }

    /// Takes back the one that was put away last, and starts the way back of the one before it.
    pub fn take(&mut self) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.pop() else {
            return Ok(None);
        };
        let tensor = take(kept)?;
        if let Some(next) = self.kept.pop() {
            self.kept.push(start(next)?);
        }
        Ok(Some(tensor))
    }

    /// Bytes of the processor's memory that tensors put away on this device have taken, and keep for the next ones.
    pub fn host_bytes(device: &Device) -> u64 {
        host_bytes(device)
    }
}

#[cfg(not(feature = "cuda"))]
fn put(tensor: Tensor) -> Result<Kept> {
    Ok(Kept::Here(tensor))
}

#[cfg(not(feature = "cuda"))]
fn take(kept: Kept) -> Result<Tensor> {
    let Kept::Here(tensor) = kept;
    Ok(tensor)
}

#[cfg(not(feature = "cuda"))]
fn start(kept: Kept) -> Result<Kept> {
    Ok(kept)
}

#[cfg(not(feature = "cuda"))]
fn host_bytes(_: &Device) -> u64 {
    0
}

#[cfg(feature = "cuda")]
fn put(tensor: Tensor) -> Result<Kept> {
    Ok(match tensor.device().is_cuda() {
        true => Kept::Away(Pinned::store(tensor)?),
        false => Kept::Here(tensor),
    })
}

#[cfg(feature = "cuda")]
fn take(kept: Kept) -> Result<Tensor> {
    match kept {
        Kept::Here(tensor) => Ok(tensor),
        Kept::Away(pinned) => pinned.load()?.tensor(),
        Kept::Coming(coming) => coming.tensor(),
    }
}

#[cfg(feature = "cuda")]
fn start(kept: Kept) -> Result<Kept> {
    Ok(match kept {
        Kept::Away(pinned) => Kept::Coming(pinned.load()?),
        other => other,
    })
}

#[cfg(feature = "cuda")]
fn host_bytes(device: &Device) -> u64 {
    let gpu = device
        .as_cuda_device()
        .ok()
        .and_then(|d| crate::cuda::Gpu::of(d).ok());
    gpu.map_or(0, |gpu| gpu.pinned_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_away_last_comes_back_first() {
        let tensor = |x: f32| Tensor::new(&[x, -x, 2.0 * x], &Device::Cpu).unwrap();
        let mut offload = Offload::new(3);
        for x in [1.0, 3.0, 7.0] {
            offload.put(tensor(x)).unwrap();
        }
        let mut back = Vec::new();
        while let Some(tensor) = offload.take().unwrap() {
            back.push(tensor.to_vec1::<f32>().unwrap());
        }
        assert_eq!(
            back,
            [[7.0, -7.0, 14.0], [3.0, -3.0, 6.0], [1.0, -1.0, 2.0]]
        );
        assert!(offload.take().unwrap().is_none());
        assert_eq!(Offload::host_bytes(&Device::Cpu), 0);
    }
}
