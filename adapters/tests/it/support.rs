//! Files and errors for the tests of this folder.

use adapters::{Error, LoraConfig, TargetModules, TensorSpec, Weights};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Files that other programs made; see `scripts/golden/README.md`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// An error as a user sees it, with the test's folder called DIR.
pub fn shown(error: &Error, dir: &Path) -> String {
    let hint = error
        .hint()
        .map_or(String::new(), |h| format!("\nhint: {h}"));
    format!("{error}{hint}").replace(&dir.display().to_string(), "DIR")
}

/// The error of something that must not succeed.
pub fn refused<T>(result: adapters::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error,
    }
}

/// A file of f32 tensors, written by the safetensors crate and not by us.
pub fn write_safetensors(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), b)| {
            (
                *name,
                TensorView::new(Dtype::F32, shape.to_vec(), b).unwrap(),
            )
        })
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Numbers without a pattern, none of them zero.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if x == 0.0 { 0.5 } else { x }
    };
    (0..count).map(|_| next()).collect()
}

/// [`numbers`] as a tensor.
pub fn tensor(shape: (usize, usize), dtype: DType, seed: u64) -> Tensor {
    let data = numbers(shape.0 * shape.1, seed);
    Tensor::from_vec(data, shape, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

/// Weights from a seed, all of them random, biases too.
pub fn random_weights(shapes: &[(&str, &[usize])]) -> Weights {
    random_weights_in("float32", shapes)
}

/// The same, stored in a dtype.
pub fn random_weights_in(dtype: &str, shapes: &[(&str, &[usize])]) -> Weights {
    let init = adapters::Init::Normal { std: 0.7 };
    let specs = shapes.iter().map(|(n, s)| TensorSpec {
        name: (*n).into(),
        shape: s.to_vec(),
        init,
    });
    Weights::random(json!({"dtype": dtype}), specs.collect(), 5)
}

/// A LoRA whose alpha is not its rank.
pub fn lora(rank: usize, alpha: f64, dropout: f64, targets: &[&str]) -> LoraConfig {
    let target_modules = match targets {
        ["all-linear"] => TargetModules::AllLinear,
        names => TargetModules::Named(names.iter().map(|n| (*n).into()).collect()),
    };
    LoraConfig {
        rank,
        alpha,
        dropout,
        target_modules,
        use_rslora: false,
        use_dora: false,
        modules_to_save: vec![],
    }
}

pub fn json_file(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

/// Every tensor of a file that candle reads.
pub fn read_tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    flat(a)
        .iter()
        .zip(flat(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// Cuts a file byte by byte; each shorter one must be refused, and nothing may panic.
pub fn refuse_every_prefix<T>(path: &Path, open: impl Fn() -> adapters::Result<T>) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for length in (0..file.metadata().unwrap().len()).rev() {
        file.set_len(length).unwrap();
        refused(open());
    }
}

/// Changes the first `count` bytes of a file one at a time; each may be refused or not, and nothing may panic.
pub fn change_every_byte(path: &Path, count: usize, values: &[u8], open: impl Fn()) {
    use std::os::unix::fs::FileExt;
    let whole = std::fs::read(path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for at in 0..count {
        for value in values {
            file.write_all_at(&[*value], at as u64).unwrap();
            open();
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
}
