//! Copies between a device's memory and pinned memory of the processor: of tensors that wait there, beside what the device
//! computes; of lists, in the order of what it computes.

use super::CudaError;
use super::gpu::{Gpu, lock};
use super::run::Buffer;
use super::tensors::uninit;
use crate::{Result, access};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError, result};
use candle_core::{DType, Shape, Tensor};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;

const OP: &str = "offload";

/// Tensors on their way out that keep their device memory: the copy of one runs while the next is computed.
const ON_THEIR_WAY: usize = 2;

/// A device's stream of copies, and its pinned memory.
pub(super) struct Copies {
    stream: Arc<CudaStream>,
    /// Tensors whose copies may not have ended, with the events that say so.
    leaving: VecDeque<(Tensor, CudaEvent)>,
    /// Blocks that nothing is in, kept: pinning memory takes longer than filling it.
    free: Vec<Block>,
    bytes: u64,
}

/// Pinned memory.
struct Block {
    address: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory is the process's, and only copies that the owner asks for touch it.
unsafe impl Send for Block {}

impl Block {
    fn new(bytes: usize) -> std::result::Result<Self, DriverError> {
        // SAFETY: the context is bound; what the memory holds is written before it is read.
        let address = unsafe { result::malloc_host(bytes.max(1), 0) }?;
        Ok(Self { address, bytes })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host` and is given back once. A failure leaves nothing to be done.
        let _ = unsafe { result::free_host(self.address) };
    }
}

/// A tensor in pinned memory.
pub struct Pinned {
    gpu: Arc<Gpu>,
    /// Always there until it is dropped.
    block: Option<Block>,
    shape: Shape,
    dtype: DType,
    device: candle_core::Device,
}

/// A tensor on its way back.
pub struct Coming {
    tensor: Tensor,
    arrived: CudaEvent,
    pinned: Pinned,
}

impl Copies {
    fn of(gpu: &Gpu) -> std::result::Result<Self, DriverError> {
        Ok(Self {
            stream: gpu.stream().context().new_stream()?,
            leaving: VecDeque::new(),
            free: Vec::new(),
            bytes: 0,
        })
    }

    /// A block of exactly that size.
    fn block(&mut self, bytes: usize) -> std::result::Result<Block, DriverError> {
        if let Some(at) = self.free.iter().position(|block| block.bytes == bytes) {
            return Ok(self.free.swap_remove(at));
        }
        let block = Block::new(bytes)?;
        self.bytes += bytes as u64;
        Ok(block)
    }
}

impl Gpu {
    fn with_copies<R>(
        &self,
        what: impl FnOnce(&mut Copies) -> std::result::Result<R, DriverError>,
    ) -> std::result::Result<R, CudaError> {
        let refused = |e| self.refused("a copy to or from the processor's memory", e);
        self.stream().context().bind_to_thread().map_err(refused)?;
        let mut copies = lock(&self.copies);
        let copies = match &mut *copies {
            Some(copies) => copies,
            empty => empty.insert(Copies::of(self).map_err(refused)?),
        };
        what(copies).map_err(refused)
    }

    /// Bytes of pinned memory that tensors wait in.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        lock(&self.copies).as_ref().map_or(0, |copies| copies.bytes)
    }
}

/// What was copied out of pinned memory, once the event has come about.
pub(super) struct Sent {
    block: Block,
    left: CudaEvent,
}

impl Gpu {
    /// Asks for a list's copy to an address of the device, in the order of its one stream. Does not wait: where all pinned
    /// memory is still being read there will be more of it, so as much as is sent in a step.
    pub(super) fn send<T: Copy>(&self, list: &[T], to: u64) -> std::result::Result<(), CudaError> {
        let refused = |e| self.refused("a copy from the processor's memory", e);
        self.stream().context().bind_to_thread().map_err(refused)?;
        let bytes = size_of_val(list);
        let mut sent = lock(&self.sent);
        let first = sent.iter().position(|sent| sent.block.bytes >= bytes);
        let free = first.filter(|at| sent[*at].left.is_complete());
        let block = match free.and_then(|at| sent.remove(at)) {
            Some(sent) => sent.block,
            None => Block::new(bytes.next_power_of_two().max(4096)).map_err(refused)?,
        };
        // SAFETY: the block is pinned, has room for the list, and is not read by an earlier copy any more; it is kept
        // below until this one has ended. The target is a tensor of the list's size.
        unsafe {
            let address = block.address.cast::<u8>();
            std::ptr::copy_nonoverlapping(list.as_ptr().cast(), address, bytes);
            let from = std::slice::from_raw_parts(address, bytes);
            result::memcpy_htod_async(to, from, self.stream().cu_stream()).map_err(refused)?;
        }
        let left = self.stream().record_event(None).map_err(refused)?;
        sent.push_back(Sent { block, left });
        Ok(())
    }
}

impl Pinned {
    /// Asks for a tensor's copy. Its memory is given up once the device has made the copies before this one.
    pub(crate) fn store(tensor: Tensor) -> Result<Self> {
        let tensor = access::dense(&tensor)?;
        let (shape, dtype, device) = (
            tensor.shape().clone(),
            tensor.dtype(),
            tensor.device().clone(),
        );
        let buffer = Buffer::dense(OP, "the tensor", &tensor)?;
        let (gpu, from) = (buffer.gpu().clone(), buffer.address());
        drop(buffer);
        let bytes = shape.elem_count() * dtype.size_in_bytes();
        let block = gpu.with_copies(|copies| {
            let block = copies.block(bytes)?;
            copies.stream.wait(&gpu.stream().record_event(None)?)?;
            // SAFETY: the block is pinned, of that size, and nothing else is in it; the tensor is kept below until the
            // copy has ended.
            unsafe {
                let to = std::slice::from_raw_parts_mut(block.address.cast::<u8>(), bytes);
                result::memcpy_dtoh_async(to, from, copies.stream.cu_stream())?;
            }
            copies
                .leaving
                .push_back((tensor, copies.stream.record_event(None)?));
            while copies.leaving.len() > ON_THEIR_WAY {
                if let Some((tensor, left)) = copies.leaving.pop_front() {
                    // Its memory is freed in the order of this stream: after the copy.
                    gpu.stream().wait(&left)?;
                    drop(tensor);
                }
            }
            Ok(block)
        })?;
        Ok(Self {
            gpu,
            block: Some(block),
            shape,
            dtype,
            device,
        })
    }

    /// Asks for the way back.
    pub(crate) fn load(self) -> Result<Coming> {
        let like = Tensor::zeros(0, DType::U8, &self.device)?;
        let tensor = uninit(OP, self.shape.clone(), self.dtype, &like)?;
        let to = Buffer::dense(OP, "the tensor", &tensor)?.address();
        let gpu = self.gpu.clone();
        let arrived = gpu.with_copies(|copies| {
            // The forward pass is over: what is left of it goes.
            while let Some((tensor, left)) = copies.leaving.pop_front() {
                gpu.stream().wait(&left)?;
                drop(tensor);
            }
            // The memory may have been another tensor's until now.
            copies.stream.wait(&gpu.stream().record_event(None)?)?;
            if let Some(block) = &self.block {
                // SAFETY: the block was filled by an earlier copy of the same stream and lives in `Coming`; the memory
                // is the new tensor's, of the same size.
                unsafe {
                    let from = std::slice::from_raw_parts(block.address.cast::<u8>(), block.bytes);
                    result::memcpy_htod_async(to, from, copies.stream.cu_stream())?;
                }
            }
            copies.stream.record_event(None)
        })?;
        Ok(Coming {
            tensor,
            arrived,
            pinned: self,
        })
    }
}

impl Coming {
    /// The tensor: what is asked of the device from here on finds it there.
    pub(crate) fn tensor(self) -> Result<Tensor> {
        let refused = |e| {
            self.pinned
                .gpu
                .refused("a copy from the processor's memory", e)
        };
        self.pinned
            .gpu
            .stream()
            .wait(&self.arrived)
            .map_err(refused)?;
        Ok(self.tensor.clone())
    }
}

impl Drop for Pinned {
    /// The block is kept for the next tensor: copies into it come after those out of it, on the one stream of copies.
    fn drop(&mut self) {
        if let (Some(block), Some(copies)) = (self.block.take(), &mut *lock(&self.gpu.copies)) {
            copies.free.push(block);
        }
    }
}
