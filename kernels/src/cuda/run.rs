//! Runs an operation's launches on a device.

use super::CudaError;
use super::gpu::{Gpu, code};
use super::launch::{Arg, Launch, Launches};
use crate::{Error, Result};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};
use candle_core::{DType, Storage, StorageRef, Tensor};
use std::ffi::c_void;
use std::sync::Arc;

/// A tensor's numbers in device memory, held against being freed.
///
/// It says nothing of who writes: kernels do, in the order of the one stream. An operation that is given one tensor to
/// read and to write refuses it as on the processor.
pub struct Buffer<'a> {
    address: u64,
    dtype: DType,
    gpu: Arc<Gpu>,
    _storage: StorageRef<'a>,
}

impl<'a> Buffer<'a> {
    /// A dense tensor's.
    pub fn dense(op: &'static str, what: &'static str, tensor: &'a Tensor) -> Result<Self> {
        if !tensor.is_contiguous() {
            return Err(Error::Strided { op, what });
        }
        Self::strided(op, tensor)
    }

    /// Any tensor's, from its first number on; what its strides mean is up to the kernel.
    pub fn strided(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let dtype = tensor.dtype();
        let offset = (layout.start_offset() * dtype.size_in_bytes()) as u64;
        let Storage::Cuda(cuda) = &*storage else {
            return Err(Error::Device {
                op,
                device: format!("{:?}", tensor.device().location()),
            });
        };
        let gpu = Gpu::of(&cuda.device)?;
        let address = start(&cuda.slice, gpu.stream()) + offset;
        Ok(Self {
            address,
            dtype,
            gpu,
            _storage: storage,
        })
    }

    /// Where it starts.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// What it holds.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

/// Where a storage starts in device memory.
fn start(slice: &CudaStorageSlice, stream: &CudaStream) -> u64 {
    // Nothing has to wait for the pointer's use: all of it is on this stream.
    fn of<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
        slice.device_ptr(stream).0
    }
    match slice {
        CudaStorageSlice::U8(s)
        | CudaStorageSlice::F6E2M3(s)
        | CudaStorageSlice::F6E3M2(s)
        | CudaStorageSlice::F4(s)
        | CudaStorageSlice::F8E8M0(s) => of(s, stream),
        CudaStorageSlice::U32(s) => of(s, stream),
        CudaStorageSlice::I16(s) => of(s, stream),
        CudaStorageSlice::I32(s) => of(s, stream),
        CudaStorageSlice::I64(s) => of(s, stream),
        CudaStorageSlice::BF16(s) => of(s, stream),
        CudaStorageSlice::F16(s) => of(s, stream),
        CudaStorageSlice::F32(s) => of(s, stream),
        CudaStorageSlice::F64(s) => of(s, stream),
        CudaStorageSlice::F8E4M3(s) => of(s, stream),
    }
}

impl Gpu {
    /// Asks for an operation's kernels, in their order, and does not wait for them.
    ///
    /// `buffers` are those that the operation's function in [`super::launch`] names, in its order; scratch memory is
    /// taken and given back here.
    pub fn run(&self, launches: &Launches, buffers: &[Buffer]) -> Result<()> {
        let mut addresses: Vec<u64> = buffers.iter().map(Buffer::address).collect();
        let scratch = self.scratch(launches.scratch_bytes)?;
        if let Some(scratch) = &scratch {
            addresses.push(scratch.device_ptr(self.stream()).0);
        }
        for launch in &launches.steps {
            self.launch(launch, &addresses)?;
        }
        // Freed in the stream's order: after the kernels that use it.
        drop(scratch);
        Ok(())
    }

    fn scratch(&self, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
        if bytes == 0 {
            return Ok(None);
        }
        // SAFETY: what it holds is the kernels' own to write before they read it.
        let scratch = unsafe { self.stream().alloc::<u8>(bytes) };
        Ok(Some(scratch.map_err(|e| {
            self.refused("an operation's scratch memory", e)
        })?))
    }

    fn launch(&self, launch: &Launch, addresses: &[u64]) -> Result<()> {
        let problem = |problem: String| CudaError::Launch {
            function: launch.function.clone(),
            problem,
        };
        if !launch.is_valid() {
            let Launch {
                grid,
                block,
                shared_bytes,
                ..
            } = launch;
            return Err(problem(format!(
                "a grid of {grid:?} and a block of {block:?} with {shared_bytes} bytes of shared memory"
            ))
            .into());
        }
        let function = self.function(launch.module, &launch.function, launch.shared_bytes)?;
        let mut values = values(launch, addresses).map_err(problem)?;
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let three = |[x, y, z]: [u32; 3]| (x, y, z);
        // SAFETY: each argument has a slot of eight bytes that starts with its value; that their order and types are
        // those of the kernel is what the launches' tests hold, which read both. The buffers are alive, and what is
        // freed later is freed in the stream's order.
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                three(launch.grid),
                three(launch.block),
                launch.shared_bytes,
                self.stream().cu_stream(),
                &mut pointers,
            )
        };
        Ok(launched.map_err(|e| problem(code(e)))?)
    }
}

/// A kernel's arguments, each at the start of eight bytes.
fn values(launch: &Launch, addresses: &[u64]) -> std::result::Result<Vec<u64>, String> {
    let value = |arg: &Arg| match *arg {
        Arg::Read(i) | Arg::Write(i) | Arg::Update(i) => addresses
            .get(i)
            .copied()
            .ok_or_else(|| format!("buffer {i} is not given")),
        Arg::Absent => Ok(0),
        Arg::U32(n) => Ok(u64::from(n)),
        Arg::U64(n) => Ok(n),
        Arg::F32(x) => Ok(u64::from(x.to_bits())),
        Arg::F64(x) => Ok(x.to_bits()),
    };
    launch.args.iter().map(value).collect()
}

// A number of four bytes is the first half of its slot.
const _: () = assert!(cfg!(target_endian = "little"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_laid_out_in_order_and_a_missing_buffer_is_named() {
        let launch = Launch {
            module: "swiglu",
            function: "swiglu_f32".into(),
            grid: [1; 3],
            block: [32, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Write(1),
                Arg::Read(0),
                Arg::Absent,
                Arg::U32(7),
                Arg::F32(-1.5),
                Arg::U64(1 << 40),
                Arg::F64(0.5),
            ],
        };
        let expected = [
            0x20,
            0x10,
            0,
            7,
            0xbfc0_0000,
            1 << 40,
            0x3fe0_0000_0000_0000,
        ];
        assert_eq!(values(&launch, &[0x10, 0x20]).unwrap(), expected);
        insta::assert_snapshot!(values(&launch, &[0x10]).unwrap_err(), @"buffer 1 is not given");
    }
}
