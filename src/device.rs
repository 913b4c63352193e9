//! What computes: `--device`.

use anyhow::Result;
use finetune::DeviceSpec;
use kernels::Device;
use kernels::cuda::GpuFacts;

use crate::failure::Failure;

/// What `--device` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// The processor.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

impl Chosen {
    /// `cpu`, `cuda` for the first GPU, or `cuda:N`.
    pub fn parse(device: &str) -> Result<Self> {
        let ordinal = device.strip_prefix("cuda:").map(str::parse);
        match (device, ordinal) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(ordinal))) => Ok(Self::Cuda(ordinal)),
            _ => {
                let failure = Failure::user(format!("there is no device `{device}`"));
                Err(failure
                    .hint("devices are: cpu, cuda (the first GPU), cuda:1 (the second)")
                    .into())
            }
        }
    }
}

/// What a command computes on.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where tensors lie.
    pub device: Device,
    /// What it is, of a GPU.
    pub gpu: Option<GpuFacts>,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            gpu: None,
        }
    }
}

impl Compute {
    /// Opens the device that `--device` names, so that what is wrong with it is said first.
    pub fn open(device: &str) -> Result<Self> {
        Self::of(Chosen::parse(device)?)
    }

    /// Opens the device that was chosen.
    pub fn of(chosen: Chosen) -> Result<Self> {
        let Chosen::Cuda(ordinal) = chosen else {
            return Ok(Self::default());
        };
        let (device, facts) = kernels::cuda::open(ordinal).map_err(kernels::Error::from)?;
        Ok(Self {
            device,
            gpu: Some(facts),
        })
    }

    /// The device with the memory that is free on it now; rates are not measured.
    pub fn spec(&self) -> DeviceSpec {
        match &self.gpu {
            Some(facts) => DeviceSpec::gpu(facts),
            None => DeviceSpec::this_machine(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let chosen = |device| Chosen::parse(device).ok();
        assert_eq!(chosen("cpu"), Some(Chosen::Cpu));
        assert_eq!(chosen("cuda"), Some(Chosen::Cuda(0)));
        assert_eq!(chosen("cuda:3"), Some(Chosen::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda3", "CPU", ""] {
            assert_eq!(chosen(wrong), None, "{wrong}");
        }
    }
}
