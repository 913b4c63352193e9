//! What a training runs on: this machine, or one that is described in a file.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use kernels::cuda::GpuFacts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A device, as far as a plan depends on it. `recipes/machines/*.toml` describe some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// What it is called
    pub name: String,
    /// What computes: "cpu" or "cuda"
    pub kind: DeviceKind,
    /// Memory, in GiB, of which training may use all but `reserved_gib`
    pub memory_gib: f64,
    /// Memory that others need: the system, the driver and its libraries
    #[serde(default)]
    pub reserved_gib: f64,
    /// Rate of large f32 matrix products, in TFLOP/s
    pub f32_tflops: f64,
    /// Rate of large bf16 matrix products, in TFLOP/s
    pub bf16_tflops: f64,
    /// Share of that rate that a whole training step reaches
    pub efficiency: f64,
    /// One line for people: what it is, and where the rates come from
    pub about: String,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

const GIB: f64 = (1u64 << 30) as f64;

impl DeviceSpec {
    /// Reads a machine's file.
    pub fn read(path: &Path) -> Result<Self> {
        let spec = ledger::recipe::read::<Self>(path, &[])?.value;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        for (key, value, fits) in [
            ("memory_gib", spec.memory_gib, positive(spec.memory_gib)),
            (
                "reserved_gib",
                spec.reserved_gib,
                (0.0..spec.memory_gib).contains(&spec.reserved_gib),
            ),
            ("f32_tflops", spec.f32_tflops, positive(spec.f32_tflops)),
            ("bf16_tflops", spec.bf16_tflops, positive(spec.bf16_tflops)),
            (
                "efficiency",
                spec.efficiency,
                positive(spec.efficiency) && spec.efficiency <= 1.0,
            ),
        ] {
            if !fits {
                return Err(Error::Machine {
                    path: path.to_owned(),
                    problem: format!("`{key}` is {value}"),
                });
            }
        }
        Ok(spec)
    }

    /// This machine's processor and the memory that is free now, or that its control group leaves. The rates are those
    /// that [`measured_gflops`] measures; 0 until then.
    pub fn this_machine() -> Self {
        Self {
            name: "this machine".into(),
            kind: DeviceKind::Cpu,
            memory_gib: available_bytes().map_or(0.0, |bytes| bytes as f64 / GIB),
            reserved_gib: 0.0,
            f32_tflops: 0.0,
            bf16_tflops: 0.0,
            efficiency: CPU_EFFICIENCY,
            about: "memory that is free, and rates that are measured, now".into(),
        }
    }

    /// A GPU and the memory that is free on it now. The rates are those that [`measured_gflops`] measures; 0 until then.
    pub fn gpu(facts: &GpuFacts) -> Self {
        let (major, minor) = facts.compute_capability;
        Self {
            name: facts.name.clone(),
            kind: DeviceKind::Cuda,
            memory_gib: facts.free_bytes as f64 / GIB,
            reserved_gib: GPU_RESERVED_GIB.min(facts.free_bytes as f64 / GIB),
            f32_tflops: 0.0,
            bf16_tflops: 0.0,
            efficiency: GPU_EFFICIENCY,
            about: format!(
                "GPU {}: compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB, a driver for CUDA {}; memory that is free, and rates that are measured, now",
                facts.ordinal,
                facts.multiprocessors,
                facts.memory_bytes as f64 / GIB,
                facts.driver_cuda,
            ),
        }
    }

    /// Bytes that a training may use.
    pub fn usable_bytes(&self) -> u64 {
        ((self.memory_gib - self.reserved_gib) * GIB) as u64
    }
}

/// Share of its matrix products' rate that a training step reaches on a processor: 258 tokens/s of SmolLM2-135M on two
/// AVX2 cores whose products reach 190 GFLOP/s (`scripts/bench-peft`).
const CPU_EFFICIENCY: f64 = 0.7;

/// As above, on a GPU: an expectation, as no training has been measured on one yet.
const GPU_EFFICIENCY: f64 = 0.5;

/// What the driver, the kernels' code and cuBLAS take beside the tensors.
const GPU_RESERVED_GIB: f64 = 1.0;

/// Memory that this process could take without the system having to swap; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let free = kib * 1024;
    Some(control_group_bytes().map_or(free, |limit| limit.min(free)))
}

/// What a control group (a container, a batch job) leaves of its limit.
fn control_group_bytes() -> Option<u64> {
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let limit = number("/sys/fs/cgroup/memory.max")?;
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    // The page cache counts as used and is given up when asked for.
    let cache = std::fs::read_to_string("/sys/fs/cgroup/memory.stat")
        .ok()
        .and_then(|stat| {
            let line = stat
                .lines()
                .find(|line| line.starts_with("file "))?
                .to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// The rate of a matrix product of a size that training has, in GFLOP/s: on all threads of the processor, or on a GPU. A
/// fifth of a second's work.
pub fn measured_gflops(device: &Device, dtype: DType) -> Result<f64> {
    let size = if device.is_cpu() { 1024 } else { 8192 };
    let matrix = |value: f64| -> Result<Tensor> {
        Ok(Tensor::full(value as f32, (size, size), device)?.to_dtype(dtype)?)
    };
    let (a, b, mut out) = (matrix(0.5)?, matrix(0.25)?, matrix(0.0)?);
    let mut product = || {
        kernels::gemm(
            &mut out,
            0.0,
            1.0,
            &a,
            kernels::Op::Plain,
            &b,
            kernels::Op::Plain,
        )
    };
    product()?;
    device.synchronize()?;
    let started = Instant::now();
    let mut times = 0;
    while times < 3 || started.elapsed().as_secs_f64() < 0.2 {
        product()?;
        // A GPU is only asked: without waiting, the clock would count the asking.
        device.synchronize()?;
        times += 1;
    }
    let flops = 2.0 * (size as f64).powi(3) * f64::from(times);
    Ok(flops / started.elapsed().as_secs_f64() / 1e9)
}
