//! What computes: `--device`.

use anyhow::Result;

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

/// Refuses a device that a model cannot be computed on: a GPU is opened, so that what is wrong with it is said first.
pub fn must_compute(device: &str) -> Result<()> {
    let Chosen::Cuda(ordinal) = Chosen::parse(device)? else {
        return Ok(());
    };
    let (_, facts) = kernels::cuda::open(ordinal).map_err(kernels::Error::from)?;
    let failure = Failure::user(format!(
        "`{device}` ({}) can be planned for, but this version of medtune trains and answers on the CPU only",
        facts.name
    ));
    Err(failure.hint("leave --device out").into())
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
