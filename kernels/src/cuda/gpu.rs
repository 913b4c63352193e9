//! An opened device: its one stream, its kernels, its matrix products.

use super::blas::Blas;
use super::modules::MODULES;
use super::pinned::{Copies, Sent};
use super::{CudaError, GpuFacts, libraries};
use candle_core::Device;
use candle_core::cuda_backend::cudarc;
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use cudarc::driver::sys::{
    CUdevice_attribute, CUmemPool_attribute, CUresult, cuMemPoolGetAttribute, cuMemPoolSetAttribute,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The least compute capability that the kernels are compiled for.
const LEAST_COMPUTE_CAPABILITY: (u32, u32) = (8, 0);

/// A device that is open.
///
/// All its work but the copies of tensors to and from pinned memory is on one stream, so that one operation's results are
/// there for the next, whichever thread asks for it; cudarc's events, which order several streams, are turned off.
pub struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    facts: GpuFacts,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(&'static str, String), Function>>,
    pub(super) blas: Mutex<Option<Blas>>,
    pub(super) copies: Mutex<Option<Copies>>,
    /// Tables on their way to the device, and pinned memory for more, the oldest first.
    pub(super) sent: Mutex<VecDeque<Sent>>,
}

/// A kernel, and the dynamic shared memory that it has been allowed.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) function: CudaFunction,
    pub(super) shared_bytes: u32,
}

/// The devices that are open, for as long as the program runs.
static OPEN: Mutex<Vec<(DeviceId, Arc<Gpu>)>> = Mutex::new(Vec::new());

/// Whatever panicked with the lock held, the lists are whole: nothing is taken out of them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens a device, or gives it again.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        libraries::load()?;
        let mut open = lock(&OPEN);
        if let Some((_, gpu)) = open.iter().find(|(_, gpu)| gpu.facts.ordinal == ordinal) {
            return Ok(gpu.clone());
        }
        check_driver()?;
        let devices = CudaContext::device_count().map_err(|e| refused("a count of devices", e))?;
        let devices = usize::try_from(devices).unwrap_or(0);
        match devices {
            0 => return Err(CudaError::NoDevice),
            n if ordinal >= n => return Err(CudaError::Ordinal { ordinal, devices }),
            _ => {}
        }
        let device = Device::new_cuda_with_stream(ordinal).map_err(|e| CudaError::Driver {
            what: "the device",
            problem: e.to_string(),
        })?;
        let device = device.as_cuda_device().map_err(|e| CudaError::Driver {
            what: "the device",
            problem: e.to_string(),
        })?;
        let gpu = Arc::new(Self::new(device.clone(), ordinal)?);
        open.push((device.id(), gpu.clone()));
        Ok(gpu)
    }

    /// What those that are open are, by their numbers.
    pub(super) fn opened() -> Vec<GpuFacts> {
        let mut facts: Vec<GpuFacts> = lock(&OPEN)
            .iter()
            .map(|(_, gpu)| gpu.facts.clone())
            .collect();
        facts.sort_by_key(|facts| facts.ordinal);
        facts
    }

    /// Of a tensor's device, which must have been opened here.
    pub(crate) fn of(device: &CudaDevice) -> Result<Arc<Self>, CudaError> {
        let open = lock(&OPEN);
        let found = open.iter().find(|(id, _)| *id == device.id());
        found.map(|(_, gpu)| gpu.clone()).ok_or(CudaError::Driver {
            what: "a tensor",
            problem: "its device was not opened with kernels::cuda::open".into(),
        })
    }

    fn new(device: CudaDevice, ordinal: usize) -> Result<Self, CudaError> {
        let stream = device.cuda_stream();
        // SAFETY: all work on this device's memory is on this one stream, where it stays in order.
        unsafe { device.disable_event_tracking() };
        let facts = facts(stream.context(), ordinal)?;
        if facts.compute_capability < LEAST_COMPUTE_CAPABILITY {
            return Err(CudaError::TooOld {
                name: facts.name,
                found: facts.compute_capability,
            });
        }
        keep_freed_memory(stream.context())?;
        Ok(Self {
            device,
            stream,
            facts,
            modules: Mutex::default(),
            functions: Mutex::default(),
            blas: Mutex::default(),
            copies: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    /// As candle has it.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// What it is.
    pub fn facts(&self) -> &GpuFacts {
        &self.facts
    }

    /// Where all work goes.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits until everything asked for so far is done.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let done = self.stream.synchronize();
        done.map_err(|e| self.refused("a synchronisation", e))
    }

    /// Free and all memory, in bytes.
    pub fn memory(&self) -> Result<(u64, u64), CudaError> {
        let (free, all) = self
            .stream
            .context()
            .mem_get_info()
            .map_err(|e| refused("its memory", e))?;
        Ok((free as u64, all as u64))
    }

    /// The most that was in use at once of the driver's pool, which tensors come from.
    pub(super) fn peak_bytes(&self) -> Option<u64> {
        let context = self.stream.context();
        context.bind_to_thread().ok()?;
        let mut peak = 0u64;
        // SAFETY: the device is the context's own, and the attribute is a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device()).ok()?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            let value = std::ptr::from_mut(&mut peak).cast();
            cuMemPoolGetAttribute(pool, attribute, value)
                .result()
                .ok()?;
        }
        Some(peak)
    }

    /// A kernel, whose module is compiled by the driver the first time, and which may have that much dynamic shared memory.
    pub(super) fn function(
        &self,
        module: &'static str,
        function: &str,
        shared_bytes: u32,
    ) -> Result<CudaFunction, CudaError> {
        let mut functions = lock(&self.functions);
        let key = (module, function.to_owned());
        if !functions.contains_key(&key) {
            let loaded = self.module(module)?.load_function(function);
            let loaded = loaded.map_err(|_| CudaError::Kernel {
                module: module.into(),
                function: function.into(),
            })?;
            let shared_bytes = super::launch::SHARED_BYTES;
            let function = Function {
                function: loaded,
                shared_bytes,
            };
            functions.insert(key.clone(), function);
        }
        let Some(found) = functions.get_mut(&key) else {
            return Err(CudaError::Kernel {
                module: module.into(),
                function: function.into(),
            });
        };
        if shared_bytes > found.shared_bytes {
            let attribute =
                cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            found
                .function
                .set_attribute(attribute, bytes)
                .map_err(|e| CudaError::Launch {
                    function: function.into(),
                    problem: format!("{shared_bytes} bytes of shared memory: {}", code(e)),
                })?;
            found.shared_bytes = shared_bytes;
        }
        Ok(found.function.clone())
    }

    fn module(&self, name: &'static str) -> Result<Arc<CudaModule>, CudaError> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let found = MODULES.iter().find(|module| module.name == name);
        let found = found.ok_or_else(|| CudaError::Module {
            module: name.into(),
            problem: "this build has no such kernels".into(),
        })?;
        let loaded = self.stream.context().load_module(Ptx::from_src(found.ptx));
        let loaded = loaded.map_err(|e| CudaError::Module {
            module: name.into(),
            problem: code(e),
        })?;
        modules.insert(name, loaded.clone());
        Ok(loaded)
    }

    /// What the driver refused, told apart from memory that has run out.
    pub(super) fn refused(&self, what: &'static str, error: DriverError) -> CudaError {
        if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return refused(what, error);
        }
        let (free, all) = self.memory().unwrap_or((0, self.facts.memory_bytes));
        CudaError::OutOfMemory {
            ordinal: self.facts.ordinal,
            what: what.into(),
            free_mib: free >> 20,
            total_mib: all >> 20,
        }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gpu").field(&self.facts).finish()
    }
}

/// The driver's name of an error, such as `CUDA_ERROR_NO_DEVICE`.
pub(super) fn code(error: DriverError) -> String {
    format!("{:?}", error.0)
}

fn refused(what: &'static str, error: DriverError) -> CudaError {
    CudaError::Driver {
        what,
        problem: code(error),
    }
}

/// Starts the driver, and refuses one that is older than the CUDA of this build: it could not compile the kernels.
fn check_driver() -> Result<(), CudaError> {
    result::init().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => CudaError::NoDevice,
        _ => refused("to start", error),
    })?;
    let found = driver_cuda()?;
    if found < number(BUILT_WITH) {
        return Err(CudaError::DriverTooOld {
            found: version(found),
            needed: BUILT_WITH.into(),
        });
    }
    Ok(())
}

/// The CUDA whose nvcc made the kernels.
const BUILT_WITH: &str = env!("MEDTUNE_CUDA_VERSION");

/// 13.0 as the driver writes it: 13000.
fn number(version: &str) -> i32 {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let part = |part: &str| part.parse::<i32>().unwrap_or(0);
    part(major) * 1000 + part(minor) * 10
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The newest CUDA that the driver knows, as it writes it.
fn driver_cuda() -> Result<i32, CudaError> {
    let mut version = 0;
    // SAFETY: a pointer to a number that it writes.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|e| refused("its version", e))?;
    Ok(version)
}

fn facts(context: &Arc<CudaContext>, ordinal: usize) -> Result<GpuFacts, CudaError> {
    let said = |e| refused("a device's attributes", e);
    let (major, minor) = context.compute_capability().map_err(said)?;
    let multiprocessors = context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .map_err(said)?;
    let (free, all) = context.mem_get_info().map_err(said)?;
    Ok(GpuFacts {
        ordinal,
        name: context.name().map_err(said)?,
        compute_capability: (major.unsigned_abs(), minor.unsigned_abs()),
        driver_cuda: version(driver_cuda()?),
        built_with_cuda: BUILT_WITH.into(),
        memory_bytes: all as u64,
        free_bytes: free as u64,
        multiprocessors: multiprocessors.unsigned_abs(),
    })
}

/// Freed memory stays with the program: by default the driver gives it back at each synchronisation, and allocating it
/// again costs more than the kernels that use it.
fn keep_freed_memory(context: &Arc<CudaContext>) -> Result<(), CudaError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let said = |e| refused("its memory pool", e);
    let mut all = u64::MAX;
    // SAFETY: the device is the context's own, and the attribute is a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(said)?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let value = std::ptr::from_mut(&mut all).cast();
        cuMemPoolSetAttribute(pool, attribute, value)
            .result()
            .map_err(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_numbers_are_versions() {
        assert_eq!((number("13.0"), number("12.8")), (13_000, 12_080));
        assert_eq!(
            (version(13_000), version(12_080)),
            ("13.0".into(), "12.8".into())
        );
    }

    /// Where there is a device it opens; where there is none, the error says what is missing, and nothing panics.
    #[test]
    fn a_device_opens_or_says_why_not() {
        match Gpu::open(0) {
            Ok(gpu) => assert!(gpu.facts().memory_bytes > 0 && gpu.synchronize().is_ok()),
            Err(error) => assert!(error.hint().is_some(), "{error}"),
        }
    }
}
