//! What can go wrong with a GPU, before and while it computes.

/// A device that cannot be used, or that refused something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The program was built without the feature `cuda`.
    #[error("this build of medtune cannot compute on `cuda`")]
    NotBuilt,
    /// A library that is loaded when the first device is opened is not there.
    #[error("{library}, {part}, cannot be loaded: {problem}")]
    Library {
        /// Its file.
        library: &'static str,
        /// What it belongs to, in words.
        part: &'static str,
        /// What the system says.
        problem: String,
    },
    /// The driver is older than the CUDA of this build.
    #[error("the NVIDIA driver here knows CUDA {found}, and this build of medtune needs {needed}")]
    DriverTooOld {
        /// The newest CUDA the driver knows.
        found: String,
        /// The CUDA of this build.
        needed: String,
    },
    /// The driver is there and sees no device.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// A number beyond the last device.
    #[error("there is no GPU {ordinal}: {}", count(*devices))]
    Ordinal {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        devices: usize,
    },
    /// A device that the kernels are not compiled for.
    #[error("{name} has compute capability {}.{}, and medtune's kernels need 8.0", found.0, found.1)]
    TooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
    },
    /// Its memory is full.
    #[error("GPU {ordinal} has no memory left for {what}: {free_mib} of {total_mib} MiB are free")]
    OutOfMemory {
        /// The device.
        ordinal: usize,
        /// What the memory was for.
        what: String,
        /// What was free just after.
        free_mib: u64,
        /// All of the device's memory.
        total_mib: u64,
    },
    /// The driver does not take a module's PTX.
    #[error("the NVIDIA driver refuses the kernels of `{module}`: {problem}")]
    Module {
        /// The stem of the kernels' file.
        module: String,
        /// What the driver says.
        problem: String,
    },
    /// A launch names a kernel that no module has.
    #[error("this build has no kernel `{function}` in `{module}`")]
    Kernel {
        /// The stem of the kernels' file.
        module: String,
        /// The kernel.
        function: String,
    },
    /// A kernel's launch was refused, or does not fit its buffers.
    #[error("the kernel `{function}` cannot be launched: {problem}")]
    Launch {
        /// The kernel.
        function: String,
        /// What is wrong.
        problem: String,
    },
    /// cuBLASLt refuses a matrix product.
    #[error("cuBLASLt refuses the product {product}: {problem}")]
    Product {
        /// Its shapes and types.
        product: String,
        /// What it says.
        problem: String,
    },
    /// Anything else that the driver refuses. After an error in a kernel, this is what every later call gives.
    #[error("the NVIDIA driver refuses {what}: {problem}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it says.
        problem: String,
    },
}

fn count(devices: usize) -> String {
    match devices {
        1 => "this machine has one, GPU 0".into(),
        n => format!("this machine has {n}, from 0 on"),
    }
}

impl CudaError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotBuilt => {
                "leave --device out: every recipe runs on the CPU; scripts/cuda-build makes a build that computes on NVIDIA GPUs"
            }
            Self::Library { library, .. } if *library == "libcuda.so.1" => {
                "install NVIDIA's driver, 580 or newer; a container has it if started with --gpus all (docker) or --nv (apptainer)"
            }
            Self::Library { .. } => {
                "install CUDA's libraries (a Python torch has them: pip install nvidia-cublas nvidia-curand), and name their folder in LD_LIBRARY_PATH if they are not found"
            }
            Self::DriverTooOld { .. } => {
                "install a newer driver (580 or newer for CUDA 13), or build medtune with the older CUDA's toolkit: docs/gpu.md"
            }
            Self::NoDevice => {
                "nvidia-smi lists what the driver sees; CUDA_VISIBLE_DEVICES hides devices, and a container has those it was started with"
            }
            Self::TooOld { .. } => {
                "an A100 or any newer GPU will do; leave --device out to compute on the CPU"
            }
            Self::OutOfMemory { .. } => {
                "medtune plan says what a recipe needs: use shorter packs, `recompute = \"full\"` or a quantized base, and see with nvidia-smi who else uses the GPU"
            }
            Self::Module { .. } => {
                "the driver is older than the CUDA that medtune was built with: install 580 or newer"
            }
            _ => return None,
        };
        Some(hint.into())
    }

    /// Whether another `--device` or another flag sets it right, and not another machine.
    pub fn is_users(&self) -> bool {
        matches!(self, Self::NotBuilt | Self::Ordinal { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &CudaError) -> String {
        let hint = error
            .hint()
            .map_or(String::new(), |hint| format!("\n  {hint}"));
        format!("{error}{hint}")
    }

    #[test]
    fn errors_say_what_is_missing_and_what_to_do() {
        let library = |library, part| CudaError::Library {
            library,
            part,
            problem: "no such file".into(),
        };
        let all = [
            CudaError::NotBuilt,
            library("libcuda.so.1", "a part of NVIDIA's driver"),
            library("libcublas.so.13", "CUDA's library of matrix products"),
            CudaError::DriverTooOld {
                found: "12.4".into(),
                needed: "13.0".into(),
            },
            CudaError::NoDevice,
            CudaError::Ordinal {
                ordinal: 3,
                devices: 1,
            },
            CudaError::Ordinal {
                ordinal: 3,
                devices: 2,
            },
            CudaError::TooOld {
                name: "Tesla T4".into(),
                found: (7, 5),
            },
            CudaError::OutOfMemory {
                ordinal: 0,
                what: "a matrix product's workspace".into(),
                free_mib: 12,
                total_mib: 81_559,
            },
            CudaError::Module {
                module: "swiglu".into(),
                problem: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION".into(),
            },
            CudaError::Kernel {
                module: "swiglu".into(),
                function: "swiglu_f16".into(),
            },
            CudaError::Launch {
                function: "swiglu_f32".into(),
                problem: "buffer 4 is not given".into(),
            },
            CudaError::Product {
                product: "(5, 7) = (5, 123) x (123, 7) of BF16".into(),
                problem: "CUBLAS_STATUS_NOT_SUPPORTED".into(),
            },
            CudaError::Driver {
                what: "a synchronisation",
                problem: "CUDA_ERROR_ILLEGAL_ADDRESS".into(),
            },
        ];
        let shown: Vec<String> = all.iter().map(shown).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        this build of medtune cannot compute on `cuda`
          leave --device out: every recipe runs on the CPU; scripts/cuda-build makes a build that computes on NVIDIA GPUs
        libcuda.so.1, a part of NVIDIA's driver, cannot be loaded: no such file
          install NVIDIA's driver, 580 or newer; a container has it if started with --gpus all (docker) or --nv (apptainer)
        libcublas.so.13, CUDA's library of matrix products, cannot be loaded: no such file
          install CUDA's libraries (a Python torch has them: pip install nvidia-cublas nvidia-curand), and name their folder in LD_LIBRARY_PATH if they are not found
        the NVIDIA driver here knows CUDA 12.4, and this build of medtune needs 13.0
          install a newer driver (580 or newer for CUDA 13), or build medtune with the older CUDA's toolkit: docs/gpu.md
        the NVIDIA driver finds no GPU
          nvidia-smi lists what the driver sees; CUDA_VISIBLE_DEVICES hides devices, and a container has those it was started with
        there is no GPU 3: this machine has one, GPU 0
        there is no GPU 3: this machine has 2, from 0 on
        Tesla T4 has compute capability 7.5, and medtune's kernels need 8.0
          an A100 or any newer GPU will do; leave --device out to compute on the CPU
        GPU 0 has no memory left for a matrix product's workspace: 12 of 81559 MiB are free
          medtune plan says what a recipe needs: use shorter packs, `recompute = "full"` or a quantized base, and see with nvidia-smi who else uses the GPU
        the NVIDIA driver refuses the kernels of `swiglu`: CUDA_ERROR_UNSUPPORTED_PTX_VERSION
          the driver is older than the CUDA that medtune was built with: install 580 or newer
        this build has no kernel `swiglu_f16` in `swiglu`
        the kernel `swiglu_f32` cannot be launched: buffer 4 is not given
        cuBLASLt refuses the product (5, 7) = (5, 123) x (123, 7) of BF16: CUBLAS_STATUS_NOT_SUPPORTED
        the NVIDIA driver refuses a synchronisation: CUDA_ERROR_ILLEGAL_ADDRESS
        "#);
    }

    #[test]
    fn a_wrong_number_is_the_users_and_a_missing_library_the_machines() {
        let ordinal = CudaError::Ordinal {
            ordinal: 3,
            devices: 1,
        };
        assert!(ordinal.is_users() && CudaError::NotBuilt.is_users());
        assert!(!CudaError::NoDevice.is_users());
    }
}
