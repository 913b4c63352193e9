//! Adds an adapter into its base, in f32, rounded once: W + s B A, under DoRA m / ‖W + s B A‖ ∘ (W + s B A) by rows, and
//! what the adapter saved whole in the place of the base's.

use crate::error::nearest;
use crate::export::{Change, ExportOptions, LowRank, staged, write_model};
use crate::peft::{EMBEDDING, HEAD, Key, module_of};
use crate::{Error, PeftAdapter, Result, TensorProof, WeightView, Weights, verify_tensors};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// How a merged model is written.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Dtype and companions of the folder.
    pub export: ExportOptions,
    /// Read the written tensors back and prove them before the folder gets its name.
    pub verify: bool,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            export: ExportOptions::default(),
            verify: true,
        }
    }
}

/// What a merge did.
#[derive(Clone, Debug, Serialize)]
pub struct MergeReport {
    /// Tensors that the adapter changed.
    pub targeted: usize,
    /// All tensors written.
    pub tensors: usize,
    /// Bytes of `model.safetensors`.
    pub bytes: u64,
    /// The proof, if one was asked for.
    pub proof: Option<TensorProof>,
}

/// Writes base + adapter as a Hugging Face folder at `out`, which appears only when it is whole and, unless that is
/// not asked for, proven.
pub fn merge(
    base: &Weights,
    adapter: &PeftAdapter,
    out: &Path,
    options: &MergeOptions,
) -> Result<MergeReport> {
    staged(base, out, |dir| merge_into(base, adapter, dir, options))
}

/// As [`merge`], into a folder that the caller has made and will answer for.
pub fn merge_into(
    base: &Weights,
    adapter: &PeftAdapter,
    dir: &Path,
    options: &MergeOptions,
) -> Result<MergeReport> {
    let updates = Updates::new(base, adapter)?;
    let bytes = write_model(base, dir, &options.export, |view| Ok(updates.change(view)))?;
    let mut proof = None;
    if options.verify {
        let found = verify_tensors(base, adapter, &Weights::open(dir)?)?;
        let mut problems = found.problems.clone();
        // What we rounded ourselves is the nearest number there is.
        if found.max_steps > 0.5 {
            problems.push(format!(
                "a deviation of {} rounding steps where one half is the most",
                found.max_steps
            ));
        }
        if !problems.is_empty() {
            return Err(Error::ProofFailed { problems });
        }
        proof = Some(found);
    }
    Ok(MergeReport {
        targeted: updates.0.len(),
        tensors: base.names().count(),
        bytes,
        proof,
    })
}

/// What becomes of each tensor that the adapter changes, by the tensor's name, checked against the base.
pub(crate) struct Updates(BTreeMap<String, Update>);

enum Update {
    LowRank {
        a: Tensor,
        b: Tensor,
        scaling: f64,
        magnitude: Option<Tensor>,
    },
    Whole(Tensor),
}

impl Updates {
    pub(crate) fn new(base: &Weights, adapter: &PeftAdapter) -> Result<Self> {
        let mut updates = BTreeMap::new();
        for module in adapter.modules() {
            let name = format!("{module}.weight");
            let update = low_rank(base, adapter, module)?;
            updates.insert(name, update);
        }
        // The table of a base that ties them is stored under one name.
        let tied = base.has(EMBEDDING)
            && !base.has(HEAD)
            && base
                .config()
                .get("tie_word_embeddings")
                .and_then(Value::as_bool)
                == Some(true);
        if tied && !adapter.keeps_tied(EMBEDDING, HEAD)? {
            return Err(Error::AdapterUnties);
        }
        for name in adapter.saved() {
            let Some(tensor) = adapter.saved_tensor(name) else {
                continue;
            };
            let name = match name {
                HEAD if tied => EMBEDDING,
                name => name,
            };
            let view = changeable(base, name)?;
            if view.shape != tensor.dims() {
                return Err(Error::AdapterShape {
                    key: Key::Saved(name).to_string(),
                    expected: view.shape,
                    found: tensor.dims().into(),
                });
            }
            updates.insert(name.into(), Update::Whole(tensor.to_dtype(DType::F32)?));
        }
        Ok(Self(updates))
    }

    /// What becomes of a tensor of the base.
    pub(crate) fn change(&self, view: &WeightView) -> Change<'_> {
        match self.0.get_key_value(&view.name) {
            None => Change::Keep,
            Some((_, Update::Whole(tensor))) => Change::Replace(tensor),
            Some((
                name,
                Update::LowRank {
                    a,
                    b,
                    scaling,
                    magnitude,
                },
            )) => Change::Add(LowRank {
                module: module_of(name),
                a,
                b,
                scaling: *scaling,
                magnitude: magnitude.as_ref(),
            }),
        }
    }
}

/// The update of a module's weight, which must be a linear layer of the base, and of its shape.
fn low_rank(base: &Weights, adapter: &PeftAdapter, module: &str) -> Result<Update> {
    let view = changeable(base, &format!("{module}.weight"))?;
    let [out, inner] = view.shape[..] else {
        let why = "in this base it is not a linear layer";
        return Err(Error::TargetUnsupported {
            target: module.into(),
            why,
        });
    };
    let rank = adapter.config.lora.rank;
    let read = |key: Key, shape: &[usize]| {
        let key = key.to_string();
        let Some(tensor) = adapter.tensors.get(&key) else {
            return Ok(None);
        };
        if tensor.dims() != shape {
            return Err(Error::AdapterShape {
                key,
                expected: shape.into(),
                found: tensor.dims().into(),
            });
        }
        Ok(Some(tensor.to_dtype(DType::F32)?))
    };
    let missing = |key: Key| Error::MissingTensor {
        name: key.to_string(),
        nearest: None,
    };
    let (a, b) = (Key::A(module), Key::B(module));
    Ok(Update::LowRank {
        a: read(a, &[rank, inner])?.ok_or_else(|| missing(a))?,
        b: read(b, &[out, rank])?.ok_or_else(|| missing(b))?,
        scaling: adapter.config.lora.scaling(),
        magnitude: read(Key::Magnitude(module), &[out])?,
    })
}

/// The base's tensor of this name, if an adapter may change it.
fn changeable(base: &Weights, name: &str) -> Result<WeightView> {
    let Ok(view) = base.view(name) else {
        let module = module_of(name);
        return Err(Error::AdapterModule {
            module: module.into(),
            nearest: nearest(module, base.names().map(module_of)),
        });
    };
    if !view.is_float() {
        return Err(Error::UnsupportedDtype {
            name: name.into(),
            dtype: view.dtype_name(),
        });
    }
    Ok(view)
}
