//! Building the emulator, and talking to it.

mod attention;
mod faults;
mod geometry;
mod head;
mod optimizer;
mod rows;
mod weights;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use kernels::cuda::launch::{Arg, Float, Launch, Launches};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The program, built from what has changed since the last time.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
    std::fs::create_dir_all(&out).unwrap();
    let mut headers = files(&crate_dir.join("src/cuda"), "cuh");
    headers.push(crate_dir.join("tests/emulator/emulator.h"));
    let mut sources = files(&crate_dir.join("src"), "cu");
    sources.push(crate_dir.join("tests/emulator/emulator.cpp"));
    sources.push(crate_dir.join("tests/emulator/faults.cu"));
    let build = |source: &PathBuf| {
        let object = out.join(source.file_name().unwrap()).with_extension("o");
        if is_older(&object, headers.iter().chain([source])) {
            compile(crate_dir, source, &object);
        }
        object
    };
    // Two at a time.
    let (left, right) = sources.split_at(sources.len() / 2);
    let objects: Vec<PathBuf> = std::thread::scope(|scope| {
        let right = scope.spawn(|| right.iter().map(build).collect::<Vec<_>>());
        let left: Vec<PathBuf> = left.iter().map(build).collect();
        left.into_iter().chain(right.join().unwrap()).collect()
    });
    let program = out.join("emulator");
    if is_older(&program, objects.iter()) {
        let mut command = Command::new("c++");
        finish(command.args(&objects), &program);
    }
    program
});

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

fn is_older<'a>(made: &Path, from: impl Iterator<Item = &'a PathBuf>) -> bool {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let made = time(made);
    made.is_none() || from.into_iter().any(|source| time(source) >= made)
}

fn compile(crate_dir: &Path, source: &Path, object: &Path) {
    let mut command = Command::new("c++");
    command.args(["-std=c++17", "-O1", "-c", "-x", "c++", "-ffp-contract=off"]);
    // Fibers jump from stack to stack, which a fortified longjmp takes for an attack.
    command.arg("-U_FORTIFY_SOURCE");
    command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    command.arg("-I").arg(crate_dir.join("src"));
    command.arg("-I").arg(crate_dir.join("tests/emulator"));
    finish(command.arg(source), object);
}

/// Runs the compiler, its output put in place at once.
fn finish(command: &mut Command, out: &Path) {
    let aside = out.with_extension(format!("{}.part", std::process::id()));
    command.arg("-o").arg(&aside);
    let output = command.output().expect(
        "this test needs a C++ compiler named c++ (on Debian: apt-get install g++) to run the CUDA kernels on the processor",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", out.display());
    std::fs::rename(&aside, out).unwrap();
}

/// A buffer of the device.
#[derive(Clone)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// How far its address is off 16 bytes in the second round.
    shift: u32,
}

impl Buffer {
    fn of(bytes: Vec<u8>, element: usize) -> Self {
        Self {
            bytes,
            shift: element as u32,
        }
    }

    /// Numbers of a type, rounded to it.
    pub(crate) fn floats(numbers: &[f64], float: Float) -> Self {
        let bytes = match float {
            Float::F32 => numbers
                .iter()
                .flat_map(|x| (*x as f32).to_le_bytes())
                .collect(),
            Float::Bf16 => numbers
                .iter()
                .flat_map(|x| bf16::from_f32(*x as f32).to_le_bytes())
                .collect(),
        };
        Self::of(bytes, float.size())
    }

    pub(crate) fn f32s(numbers: &[f32]) -> Self {
        Self::of(numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), 4)
    }

    pub(crate) fn u32s(numbers: &[u32]) -> Self {
        Self::of(numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), 4)
    }

    pub(crate) fn u64s(numbers: &[u64]) -> Self {
        Self::of(numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), 8)
    }

    pub(crate) fn f64s(numbers: &[f64]) -> Self {
        Self::of(numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), 8)
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::of(bytes.to_vec(), 1)
    }

    /// A dense tensor's bytes.
    pub(crate) fn tensor(t: &Tensor) -> Self {
        Self::of(bytes_of(t), t.dtype().size_in_bytes())
    }

    /// `n` numbers of `element` bytes, every one a NaN.
    pub(crate) fn poison(n: usize, element: usize) -> Self {
        Self::of(vec![0xff; n * element], element)
    }

    /// As it is needed where 16 bytes are copied at a time.
    pub(crate) fn aligned(self) -> Self {
        Self { shift: 0, ..self }
    }
}

/// A buffer's address, for what another one holds.
pub(crate) fn address_of(buffer: usize) -> u64 {
    1 << 52 | buffer as u64
}

/// A buffer as it came back.
pub(crate) struct Result(pub(crate) Vec<u8>);

impl Result {
    pub(crate) fn floats(&self, float: Float) -> Vec<f64> {
        match float {
            Float::F32 => self.f32s().iter().map(|x| f64::from(*x)).collect(),
            Float::Bf16 => {
                let pairs = self.0.as_chunks::<2>().0;
                pairs
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f64())
                    .collect()
            }
        }
    }

    pub(crate) fn f32s(&self) -> Vec<f32> {
        self.0
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    }

    pub(crate) fn u32s(&self) -> Vec<u32> {
        self.0
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect()
    }

    pub(crate) fn f64s(&self) -> Vec<f64> {
        self.0
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect()
    }
}

/// What the launches make of the buffers, scratch added and left out of the answer. Kernels that loop over their grid give
/// the same bytes from a grid that is cut off.
pub(crate) fn run(launches: impl Into<Launches>, buffers: &[Buffer]) -> Vec<Result> {
    let mut launches: Launches = launches.into();
    let results = try_run(launches.clone(), buffers).unwrap_or_else(|said| panic!("{said}"));
    let whole: Vec<[u32; 3]> = launches.steps.iter().map(|step| step.grid).collect();
    for step in &mut launches.steps {
        if !step.module.starts_with("attention") {
            step.grid = step.grid.map(|n| n.min(2));
        }
    }
    if launches
        .steps
        .iter()
        .zip(whole)
        .any(|(step, whole)| step.grid != whole)
    {
        let cut = try_run(launches, buffers).unwrap_or_else(|said| panic!("{said}"));
        assert!(
            results.iter().zip(&cut).all(|(a, b)| a.0 == b.0),
            "the grid must not matter"
        );
    }
    results
}

/// As [`run`], with what the emulator says if it finds fault.
pub(crate) fn try_run(
    launches: impl Into<Launches>,
    buffers: &[Buffer],
) -> std::result::Result<Vec<Result>, String> {
    let launches: Launches = launches.into();
    let mut all = buffers.to_vec();
    if launches.scratch_bytes > 0 {
        all.push(Buffer::poison(launches.scratch_bytes, 1).aligned());
    }
    let mut child = Command::new(&*PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program reads everything before it writes; what it may refuse to read is said on its standard error.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(&request(&launches.steps, &all));
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut rest = &output.stdout[..];
    let results = buffers.iter().map(|b| {
        let (bytes, after) = rest.split_at(b.bytes.len());
        rest = after;
        Result(bytes.to_vec())
    });
    Ok(results.collect())
}

fn request(steps: &[Launch], buffers: &[Buffer]) -> Vec<u8> {
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, n: u32| out.extend(n.to_le_bytes());
    number(&mut out, buffers.len() as u32);
    for b in buffers {
        number(&mut out, b.shift);
        out.extend((b.bytes.len() as u64).to_le_bytes());
        out.extend(&b.bytes);
    }
    number(&mut out, steps.len() as u32);
    for step in steps {
        assert!(step.is_valid(), "{step:?}");
        number(&mut out, step.function.len() as u32);
        out.extend(step.function.as_bytes());
        let grid = step.grid.into_iter().chain(step.block);
        grid.chain([step.shared_bytes, step.args.len() as u32])
            .for_each(|n| number(&mut out, n));
        for arg in &step.args {
            let (tag, bits) = match *arg {
                Arg::Read(i) => (0u8, i as u64),
                Arg::Write(i) | Arg::Update(i) => (1, i as u64),
                Arg::Absent => (2, 0),
                Arg::U32(n) => (3, u64::from(n)),
                Arg::U64(n) => (4, n),
                Arg::F32(x) => (5, u64::from(x.to_bits())),
                Arg::F64(x) => (6, x.to_bits()),
            };
            out.push(tag);
            out.extend(bits.to_le_bytes());
        }
    }
    out
}

pub(crate) const FLOATS: [Float; 2] = [Float::F32, Float::Bf16];
/// Types of activations with those of weights or gradients beside them.
pub(crate) const PAIRS: [(Float, Float); 3] = [
    (Float::F32, Float::F32),
    (Float::Bf16, Float::F32),
    (Float::Bf16, Float::Bf16),
];

pub(crate) fn dtype(float: Float) -> DType {
    match float {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
    }
}

/// A dense tensor's bytes.
pub(crate) fn bytes_of(t: &Tensor) -> Vec<u8> {
    let t = t.flatten_all().unwrap().contiguous().unwrap();
    match t.dtype() {
        DType::F32 => t
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::BF16 => t
            .to_vec1::<bf16>()
            .unwrap()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect(),
        DType::U8 => t.to_vec1::<u8>().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Numbers in (-1.5, 1.5), as a float type holds them.
pub(crate) fn numbers(n: usize, seed: u64, float: Float) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let draw = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        3.0 * ((state >> 11) as f64 / (1u64 << 53) as f64) - 1.5
    };
    let rounded = |x: f64| match float {
        Float::F32 => f64::from(x as f32),
        Float::Bf16 => bf16::from_f32(x as f32).to_f64(),
    };
    (0..n).map(draw).map(rounded).collect()
}

/// A tensor of numbers in a type.
pub(crate) fn tensor(numbers: &[f64], shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(numbers, shape, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

pub(crate) fn list(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest share of a number that rounding to a type takes or adds: half a step of the last of its 24 or 8 significant
/// bits, at the lower end of a power of two, where the step is 2^-23 or 2^-7 of the number.
pub(crate) fn unit(float: Float) -> f64 {
    match float {
        Float::F32 => 2f64.powi(-24),
        Float::Bf16 => 2f64.powi(-8),
    }
}

/// Holds numbers stored in a type to be within one rounding to it, and `steps` roundings in f32 of numbers as large as
/// the largest.
pub(crate) fn close(name: &str, found: &[f64], expected: &[f64], float: Float, steps: f64) {
    let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    let bounds: Vec<f64> = expected
        .iter()
        .map(|_| steps * 2f64.powi(-24) * largest)
        .collect();
    within(name, found, expected, float, &bounds);
}

/// Holds numbers stored in a type to be within one rounding to it of a number that is off by no more than its bound.
pub(crate) fn within(name: &str, found: &[f64], expected: &[f64], float: Float, bounds: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, ((found, expected), bound)) in found.iter().zip(expected).zip(bounds).enumerate() {
        let most = bound + unit(float) * (expected.abs() + bound);
        let off = (found - expected).abs();
        assert!(
            off <= most,
            "{name}: number {i} is {found}, not {expected}: off by {off:e} where {most:e} is allowed"
        );
    }
}

/// Holds a buffer to be a tensor's bytes.
pub(crate) fn same(name: &str, found: &Result, expected: &Tensor) {
    let expected = bytes_of(expected);
    assert_eq!(found.0.len(), expected.len(), "{name}");
    let differs = found.0.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{name}: the first byte that differs");
}
