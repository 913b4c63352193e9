//! CUDA's libraries, found when the first device is opened.
//!
//! The program's own references to them are trampolines (`scripts/cuda-toolkit.d/shim.c`), which look a library up by its
//! file's name. Here each is loaded beforehand, from wherever it lies, so that this look-up finds it; and where one is
//! missing, an error says which before anything is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Folders below a Python installation's packages where NVIDIA's wheels put libraries, of CUDA 13 and 12.
const IN_WHEELS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/curand/lib"];
/// Folders of CUDA toolkits.
const IN_TOOLKITS: [&str; 2] = ["lib64", "targets/x86_64-linux/lib"];

/// Where CUDA's libraries may lie beside the system's own folders and `LD_LIBRARY_PATH`: in a toolkit that is named or
/// usual, and in the wheels that a Python torch brings, of the environment that is active, of the user, of the system.
pub(crate) fn folders(variable: impl Fn(&str) -> Option<OsString>, root: &Path) -> Vec<PathBuf> {
    let named = |name| variable(name).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named);
    let toolkits = toolkits.chain([root.join("usr/local/cuda")]);
    let in_toolkits = toolkits.flat_map(|home| IN_TOOLKITS.map(|below| home.join(below)));

    let pythons = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(named);
    let user = named("HOME").map(|home| home.join(".local"));
    let system = ["usr/local", "usr", "opt/conda"].map(|prefix| root.join(prefix));
    let packages = pythons
        .chain(user)
        .chain(system)
        .flat_map(|prefix| packages(&prefix));
    let in_wheels = packages.flat_map(|packages| IN_WHEELS.map(|below| packages.join(below)));
    in_toolkits
        .chain(in_wheels)
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The folders of packages of the Pythons below a prefix, the newest first.
fn packages(prefix: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let minor = |path: &Path| -> Option<u32> {
        path.file_name()?
            .to_str()?
            .strip_prefix("python3.")?
            .parse()
            .ok()
    };
    let mut pythons: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((minor(&entry.path())?, entry.path())))
        .collect();
    pythons.sort_by_key(|(minor, _)| std::cmp::Reverse(*minor));
    // Debian keeps its own packages in a folder without the minor version.
    let pythons = pythons
        .into_iter()
        .map(|(_, path)| path)
        .chain([prefix.join("lib/python3")]);
    pythons
        .flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)))
        .filter(|folder| folder.is_dir())
        .collect()
}

#[cfg(feature = "cuda")]
pub(super) use load::load;

#[cfg(feature = "cuda")]
mod load {
    use super::folders;
    use crate::cuda::CudaError;
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    const PRODUCTS: &str = "CUDA's library of matrix products";

    /// In the order of loading: one of them asks for the one before it.
    #[cfg(cuda_major = "13")]
    const NEEDED: [(&str, &str); 4] = [
        ("libcuda.so.1", "a part of NVIDIA's driver"),
        ("libcublasLt.so.13", PRODUCTS),
        ("libcublas.so.13", PRODUCTS),
        ("libcurand.so.10", "CUDA's library of random numbers"),
    ];
    /// As above, of CUDA 12.
    #[cfg(not(cuda_major = "13"))]
    const NEEDED: [(&str, &str); 4] = [
        ("libcuda.so.1", "a part of NVIDIA's driver"),
        ("libcublasLt.so.12", PRODUCTS),
        ("libcublas.so.12", PRODUCTS),
        ("libcurand.so.10", "CUDA's library of random numbers"),
    ];

    /// Loads them for as long as the program runs.
    pub(in crate::cuda) fn load() -> Result<(), CudaError> {
        let mut elsewhere = None;
        for (library, part) in NEEDED {
            let Err(problem) = open(Path::new(library)) else {
                continue;
            };
            let folders = elsewhere
                .get_or_insert_with(|| folders(|name| std::env::var_os(name), Path::new("/")));
            if !folders
                .iter()
                .any(|folder| open(&folder.join(library)).is_ok())
            {
                return Err(CudaError::Library {
                    library,
                    part,
                    problem,
                });
            }
        }
        Ok(())
    }

    fn open(library: &Path) -> Result<(), String> {
        let path = CString::new(library.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: the path is a C string. The libraries are NVIDIA's, whose constructors may run on any thread; they are
        // never closed, so nothing that came from them dangles.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if !handle.is_null() {
            return Ok(());
        }
        // SAFETY: after a failure dlerror gives a string, which is this thread's until its next call.
        let problem = unsafe {
            let problem = libc::dlerror();
            (!problem.is_null()).then(|| CStr::from_ptr(problem).to_string_lossy().into_owned())
        };
        let problem = problem.unwrap_or_else(|| "no reason was given".into());
        let prefix = format!("{}: ", library.display());
        Err(problem.strip_prefix(&prefix).unwrap_or(&problem).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn libraries_are_looked_for_in_toolkits_and_in_pythons_wheels() {
        let root = std::env::temp_dir().join(format!("medtune-libraries-{}", std::process::id()));
        let made = [
            "toolkit/lib64",
            "venv/lib/python3.9/site-packages/nvidia/cublas/lib",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "venv/lib/python3.12/site-packages/nvidia/nccl/lib",
            "home/.local/lib/python3.11/site-packages/nvidia/curand/lib",
            "usr/local/lib/python3.12/dist-packages/nvidia/cu13/lib",
            "usr/lib/python3/dist-packages/nvidia/cu13/lib",
        ];
        for folder in made {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let variable = |name: &str| {
            let folder = match name {
                "CUDA_HOME" => "toolkit",
                "VIRTUAL_ENV" => "venv",
                "HOME" => "home",
                _ => return None,
            };
            Some(root.join(folder).into_os_string())
        };
        let found = folders(variable, &root);
        let found: Vec<String> = found
            .iter()
            .map(|folder| folder.strip_prefix(&root).unwrap().display().to_string())
            .collect();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            found,
            [
                "toolkit/lib64",
                "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
                "venv/lib/python3.9/site-packages/nvidia/cublas/lib",
                "home/.local/lib/python3.11/site-packages/nvidia/curand/lib",
                "usr/local/lib/python3.12/dist-packages/nvidia/cu13/lib",
                "usr/lib/python3/dist-packages/nvidia/cu13/lib",
            ]
        );
    }
}
