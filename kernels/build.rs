//! With the feature `cuda`: compiles every `src/**/*.cu` to PTX and writes a table of them, which `src/cuda/modules.rs`
//! puts into the library. Without it: nothing.
//!
//! PTX for compute capability 8.0 runs on every NVIDIA GPU since the A100: the driver compiles it for the one at hand.
//! A file that needs more says so in a line of its own, `// nvcc: -arch=compute_90`; its operation then needs another
//! way on older GPUs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;
use std::{env, fs, io, thread};

/// What a file gets that does not say what it needs.
const ARCH: &str = "-arch=compute_80";
/// nvcc's options for all files; `scripts/cuda-ptx` uses them too.
const OPTIONS: &str = "nvcc.options";
/// Where nvcc may be.
const VARIABLES: [&str; 5] = [
    "NVCC",
    "CUDA_HOME",
    "CUDA_PATH",
    "MEDTUNE_CUDA_HOME",
    "PATH",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(cuda_major, values(\"12\", \"13\"))");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo::rerun-if-changed={OPTIONS}");
    println!("cargo::rerun-if-changed=src");
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            for line in problem.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// A kernel file: what it is called in the table (its stem), and what it is compiled for.
struct Kernel {
    name: String,
    source: PathBuf,
    ptx: PathBuf,
    arch: String,
}

fn build() -> Result<(), String> {
    let nvcc = find_nvcc().ok_or(
        "the feature `cuda` needs nvcc, which is not in CUDA_HOME, MEDTUNE_CUDA_HOME, PATH or ~/.cache/medtune\n\
         hint: scripts/cuda-toolkit assembles a compiler (104 MB), and scripts/cuda-build uses it",
    )?;
    let version = version(&nvcc)?;
    println!("cargo::rustc-env=MEDTUNE_CUDA_VERSION={version}");
    let major = version.split('.').next().unwrap_or_default();
    println!("cargo::rustc-cfg=cuda_major={major:?}");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut sources = Vec::new();
    cuda_files(Path::new("src"), &mut sources).map_err(|e| format!("src cannot be read: {e}"))?;
    // A header may be anybody's: all is compiled again after one has changed.
    let headers = sources.iter().filter(|path| !is(path, "cu"));
    let common = [Path::new(OPTIONS), Path::new("build.rs"), &nvcc];
    let newest = headers.map(PathBuf::as_path).chain(common);
    let newest = newest.map(modified).max().flatten();

    let kernels: Vec<Kernel> = sources
        .iter()
        .filter(|path| is(path, "cu"))
        .map(|source| kernel(source, &out))
        .collect::<Result<_, String>>()?;
    for (i, kernel) in kernels.iter().enumerate() {
        if let Some(other) = kernels[..i].iter().find(|other| other.name == kernel.name) {
            let (one, other) = (kernel.source.display(), other.source.display());
            return Err(format!("{one} and {other} have one name"));
        }
    }
    let stale: Vec<&Kernel> = kernels
        .iter()
        .filter(|kernel| {
            let made = modified(&kernel.ptx);
            made.is_none() || made < newest.max(modified(&kernel.source))
        })
        .collect();
    compile_all(&nvcc, &stale)?;

    let mut table = String::from("&[\n");
    for Kernel { name, ptx, .. } in &kernels {
        let ptx = ptx.display().to_string();
        writeln!(
            table,
            "    Module {{ name: {name:?}, ptx: include_str!({ptx:?}) }},"
        )
        .expect("a String takes all");
    }
    table.push(']');
    fs::write(out.join("modules.rs"), table).map_err(|e| format!("the table of kernels: {e}"))
}

fn kernel(source: &Path, out: &Path) -> Result<Kernel, String> {
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let asked = text.lines().find_map(|line| line.strip_prefix("// nvcc: "));
    let arch = asked.unwrap_or(ARCH).trim().to_owned();
    let stem = source.file_stem().unwrap_or_default();
    let name = stem.to_string_lossy().into_owned();
    let ptx = out.join(format!("{name}.ptx"));
    Ok(Kernel {
        name,
        source: source.to_owned(),
        ptx,
        arch,
    })
}

/// As many at once as cargo allows.
fn compile_all(nvcc: &Path, kernels: &[&Kernel]) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    let share = kernels.len().div_ceil(jobs.unwrap_or(1)).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = kernels
            .chunks(share)
            .map(|some| scope.spawn(|| some.iter().try_for_each(|kernel| compile(nvcc, kernel))))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err("a compilation panicked".into()))
        })
    })
}

fn compile(nvcc: &Path, kernel: &Kernel) -> Result<(), String> {
    let source = kernel.source.display();
    // Written aside first: an interrupted nvcc must not leave a file that looks made.
    let unfinished = kernel.ptx.with_extension("unfinished");
    let output = Command::new(nvcc)
        .args(["-ptx", "--options-file", OPTIONS, "-I", "src", &kernel.arch])
        .arg("-o")
        .arg(&unfinished)
        .arg(&kernel.source)
        .output()
        .map_err(|e| format!("{} cannot be run: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("nvcc refuses {source}:\n{said}"));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    fs::rename(&unfinished, &kernel.ptx).map_err(|e| format!("{source}: {e}"))
}

/// The `.cu` files and the `.cuh` headers below a folder, in order.
fn cuda_files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            cuda_files(&path, found)?;
        } else if is(&path, "cu") || is(&path, "cuh") {
            found.push(path);
        }
    }
    Ok(())
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// nvcc by NVCC, in the toolkit that is named, in PATH, or in the one that `scripts/cuda-toolkit` makes.
fn find_nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let home = |name: &str| env::var_os(name).map(PathBuf::from);
    let in_home = |home: PathBuf| home.join("bin/nvcc");
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let made = home("HOME").map(|home| home.join(".cache/medtune/cuda-13.0"));
    named
        .into_iter()
        .chain(
            VARIABLES[1..4]
                .iter()
                .filter_map(|name| home(name))
                .map(in_home),
        )
        .chain(in_path)
        .chain(
            made.into_iter()
                .chain([PathBuf::from("/usr/local/cuda")])
                .map(in_home),
        )
        .find(|nvcc| nvcc.is_file())
}

/// Such as 13.0.
fn version(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|e| format!("{} cannot be run: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_once("release ")
        .and_then(|(_, rest)| rest.split_once(','))
        .map(|(version, _)| version.to_owned())
        .ok_or_else(|| format!("{} does not say its version", nvcc.display()))
}
