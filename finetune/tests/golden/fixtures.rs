//! Reads `tests/golden/<architecture>/`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use adapters::{Builder, Method, Parameters, PeftAdapter, Weights};
use candle_core::{DType, Device, Tensor};
use datasets::{Batch, Pack, Tokenized};
use finetune::{Decoder, DecoderConfig, models::decoder_config};
use serde_json::Value;

/// Adapters beside plain LoRA that every architecture has a folder of.
pub const METHODS: [&str; 2] = ["dora", "saved"];

/// One golden folder.
pub struct Architecture {
    pub name: String,
    folder: PathBuf,
    tensors: HashMap<String, Tensor>,
    golden: Value,
}

/// Every folder of `tests/golden` that holds a decoder.
pub fn architectures() -> Vec<Architecture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.retain(|f| f.join("fixtures.safetensors").exists());
    folders.sort();
    folders.into_iter().map(Architecture::read).collect()
}

impl Architecture {
    /// A folder's own fixtures, and those of its adapters of other kinds under the adapter's name: `dora.logits`.
    fn read(folder: PathBuf) -> Self {
        let load = |folder: &Path| {
            let fixtures = folder.join("fixtures.safetensors");
            let golden = std::fs::read(folder.join("golden.json")).unwrap();
            let golden: Value = serde_json::from_slice(&golden).unwrap();
            (
                candle_core::safetensors::load(fixtures, &Device::Cpu).unwrap(),
                golden,
            )
        };
        let (mut tensors, mut golden) = load(&folder);
        for adapter in METHODS {
            let (more, numbers) = load(&folder.join(adapter));
            tensors.extend(
                more.into_iter()
                    .map(|(name, t)| (format!("{adapter}.{name}"), t)),
            );
            golden[adapter] = numbers;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Self {
            name,
            folder,
            tensors,
            golden,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn config(&self, file: &str) -> DecoderConfig {
        decoder_config(&serde_json::from_slice(&std::fs::read(self.path(file)).unwrap()).unwrap())
            .unwrap()
    }

    pub fn weights(&self) -> Weights {
        Weights::open(&self.folder).unwrap()
    }

    pub fn frozen(&self, adapter: Option<&str>) -> (Decoder, Parameters) {
        self.build(Method::Frozen, adapter)
    }

    pub fn lora(&self) -> (Decoder, Parameters) {
        self.adapted("adapter")
    }

    /// Goes on training the adapter of that folder.
    pub fn adapted(&self, adapter: &str) -> (Decoder, Parameters) {
        let config = PeftAdapter::load(&self.path(adapter)).unwrap().config;
        self.build(Method::Lora(config.lora), Some(adapter))
    }

    pub fn full(&self) -> (Decoder, Parameters) {
        self.build(Method::Full, None)
    }

    pub fn build(&self, method: Method, adapter: Option<&str>) -> (Decoder, Parameters) {
        let weights = self.weights();
        let mut builder = Builder::new(&weights, DType::F32, method, 1);
        if let Some(adapter) = adapter {
            builder = builder
                .with_adapter(PeftAdapter::load(&self.path(adapter)).unwrap())
                .unwrap();
        }
        let decoder = Decoder::build(&mut builder, self.config("config.json"), DType::F32).unwrap();
        (decoder, builder.finish().unwrap())
    }

    /// The ragged batch under `prefix` (`""` or `"train.3."`), a segment a sample.
    pub fn batch(&self, prefix: &str) -> Batch {
        let read = |name: &str| {
            self.tensors[&format!("{prefix}{name}")]
                .to_vec1::<i64>()
                .unwrap()
        };
        let (ids, labels) = (read("input_ids"), read("labels"));
        let mut pack = Pack::default();
        let mut start = 0;
        for (i, len) in read("lengths").into_iter().enumerate() {
            let range = start..start + len as usize;
            start = range.end;
            pack.push(&Tokenized {
                id: i.to_string(),
                sample: i as u64,
                input_ids: ids[range.clone()].iter().map(|x| *x as u32).collect(),
                loss_mask: labels[range].iter().map(|l| *l != -100).collect(),
            });
        }
        Batch::from_packs([&pack])
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no fixture {name}", self.name))
            .clone()
    }

    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|k| k.starts_with(prefix))
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .tensors
            .keys()
            .filter_map(|k| k.strip_prefix(prefix).map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    pub fn max_difference(&self, ours: &Tensor, name: &str) -> f64 {
        let theirs = self.tensor(name);
        assert_eq!(ours.dims(), theirs.dims(), "{} {name}", self.name);
        let difference =
            (ours.to_dtype(DType::F64).unwrap() - theirs.to_dtype(DType::F64).unwrap()).unwrap();
        difference
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    }

    pub fn number(&self, pointer: &str) -> f64 {
        let value = self.golden.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("{}: no {pointer} in golden.json", self.name))
    }

    pub fn ids(&self, pointer: &str) -> Vec<u32> {
        let list = self
            .golden
            .pointer(pointer)
            .and_then(Value::as_array)
            .unwrap();
        list.iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    #[track_caller]
    pub fn close(&self, what: &str, ours: f64, theirs: f64, tolerance: f64) {
        assert!(
            (ours - theirs).abs() <= tolerance,
            "{} {what}: {ours} against {theirs}",
            self.name
        );
    }
}

/// ‖ours − theirs‖ / ‖theirs‖.
pub fn relative_error(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let norm = |t: &Tensor| {
        t.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    };
    let (ours, theirs) = (
        ours.to_dtype(DType::F64).unwrap(),
        theirs.to_dtype(DType::F64).unwrap(),
    );
    norm(&(&ours - &theirs).unwrap()) / norm(&theirs)
}
