//! Adds an adapter into its base, in f32, rounded once: W + s B A, under DoRA m / ‖W + s B A‖ ∘ (W + s B A) by rows, and
//! what the adapter saved whole in the place of the base's. Or takes it out again: W - s B A.

use crate::change::{Change, LowRank};
use crate::error::nearest;
use crate::export::{ExportOptions, staged, total, write_model};
use crate::peft::{EMBEDDING, HEAD, Key, module_of};
use crate::proof::{Findings, verify_updates};
use crate::recipe::Verify;
use crate::stream::{Progress, Watch};
use crate::{
    Error, Fingerprint, FingerprintBuilder, PeftAdapter, Result, TensorProof, WeightView, Weights,
    direct,
};
use candle_core::{DType, Tensor};
use ledger::FileHash;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// How a merged model is written.
#[derive(Clone, Default)]
pub struct MergeOptions<'a> {
    /// Dtype, files and companions of the folder.
    pub export: ExportOptions,
    /// How the tensors are proven before the folder gets its name.
    pub verify: Verify,
    /// Take the adapter out of a merged model instead of adding it to a base.
    pub subtract: bool,
    /// Told how far the merge is.
    pub progress: Option<Progress<'a>>,
}

/// What a merge did.
#[derive(Clone, Debug, Serialize)]
pub struct MergeReport {
    /// Tensors that the adapter changed.
    pub targeted: usize,
    /// All tensors written.
    pub tensors: usize,
    /// Bytes of the tensors' files.
    pub bytes: u64,
    /// [`Weights::fingerprint`] of the base, as it was read.
    pub base_fingerprint: String,
    /// The same and that of the weights alone.
    #[serde(skip)]
    pub fingerprint: Fingerprint,
    /// Whether the adapted tensors of the base were quantized ones, which were widened first.
    pub dequantized: bool,
    /// The proof, if one was asked for.
    pub proof: Option<TensorProof>,
    /// The tensors' files, by hash.
    #[serde(skip)]
    pub files: Vec<FileHash>,
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
///
/// # Errors
/// Among others [`Error::WrongBase`] where the weights, once they have been read, are not those that the adapter was
/// trained on, and [`Error::ProofFailed`]. The folder is then not to be used.
pub fn merge_into(
    base: &Weights,
    adapter: &PeftAdapter,
    dir: &Path,
    options: &MergeOptions,
) -> Result<MergeReport> {
    let updates = Updates::new(base, adapter, options.subtract)?;
    let watch = Watch {
        prove: options.verify != Verify::None,
        hash_base: true,
        progress: options.progress,
        // Where the model is not read again for its proof, the page cache is of no use to us.
        direct: matches!(options.verify, Verify::None | Verify::Tensors).then_some(direct::open),
    };
    let change = |view: &WeightView| updates.change(view);
    let (written, items) = write_model(base, dir, &options.export, watch, change)?;
    let mut fingerprint = FingerprintBuilder::new(base.config());
    for (item, hash) in items.iter().zip(&written.base_hashes) {
        fingerprint.add(item.view, *hash);
    }
    let fingerprint = fingerprint.finish();
    // A merged model is not the adapter's base.
    if !options.subtract {
        adapter.check_weights(&fingerprint)?;
    }
    let mut proof = None;
    if watch.prove {
        let mut findings = Findings::default();
        for (item, deviation) in items.iter().zip(&written.deviations) {
            match item.change {
                Change::Keep if deviation.max_steps <= 0.5 => findings.untouched(),
                Change::Keep => findings.differs(&item.view.name),
                // What we rounded ourselves is the nearest number there is.
                _ => findings.targeted(&item.view.name, *deviation, 0.5),
            }
        }
        proof = Some(proven(findings.finish())?);
    }
    if options.verify == Verify::Full {
        let merged = Weights::open(dir)?;
        proof = Some(proven(verify_updates(base, &updates, &merged)?)?);
    }
    let is_dequantized = |name: &String| base.view(name).is_ok_and(|v| v.float_dtype().is_none());
    Ok(MergeReport {
        targeted: updates.changes.len(),
        tensors: items.len(),
        bytes: total(&written.files),
        base_fingerprint: fingerprint.whole.clone(),
        fingerprint,
        dequantized: updates.changes.keys().any(is_dequantized),
        proof,
        files: written.files,
    })
}

fn proven(proof: TensorProof) -> Result<TensorProof> {
    if proof.holds() {
        return Ok(proof);
    }
    Err(Error::ProofFailed {
        problems: proof.problems,
    })
}

/// Compares `merged` with `base` + `adapter`, by what their files hold. Differences are in the proof; an error means it
/// could not be made.
pub fn verify_tensors(
    base: &Weights,
    adapter: &PeftAdapter,
    merged: &Weights,
) -> Result<TensorProof> {
    verify_updates(base, &Updates::new(base, adapter, false)?, merged)
}

/// What becomes of each tensor that the adapter changes, by the tensor's name, checked against the base.
pub(crate) struct Updates {
    changes: BTreeMap<String, Update>,
}

enum Update {
    LowRank {
        a: Vec<f32>,
        b: Vec<f32>,
        rank: usize,
        scaling: f64,
        magnitude: Option<Vec<f32>>,
    },
    Whole(Tensor),
}

impl Updates {
    pub(crate) fn new(base: &Weights, adapter: &PeftAdapter, subtract: bool) -> Result<Self> {
        if subtract {
            check_subtractable(adapter)?;
        }
        let sign = if subtract { -1.0 } else { 1.0 };
        let mut changes = BTreeMap::new();
        for module in adapter.modules() {
            let name = format!("{module}.weight");
            let update = low_rank(base, adapter, module, sign)?;
            changes.insert(name, update);
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
            changes.insert(name.into(), Update::Whole(tensor.to_dtype(DType::F32)?));
        }
        Ok(Self { changes })
    }

    /// What becomes of a tensor of the base.
    pub(crate) fn change(&self, view: &WeightView) -> Change<'_> {
        match self.changes.get_key_value(&view.name) {
            None => Change::Keep,
            Some((_, Update::Whole(tensor))) => Change::Replace(tensor),
            Some((
                name,
                Update::LowRank {
                    a,
                    b,
                    rank,
                    scaling,
                    magnitude,
                },
            )) => Change::Add(LowRank {
                module: module_of(name),
                a,
                b,
                rank: *rank,
                scaling: *scaling,
                magnitude: magnitude.as_deref(),
            }),
        }
    }
}

/// Only a sum can be undone: DoRA has changed the length of each row, and what was saved whole has replaced the base's.
fn check_subtractable(adapter: &PeftAdapter) -> Result<()> {
    let why = if adapter.config.lora.use_dora {
        "it is a DoRA, whose merge sets the length of each row: the base's is not in the merged model"
    } else if adapter.saved().next().is_some() {
        "it holds whole copies of modules, whose merge replaces the base's: they are not in the merged model"
    } else {
        return Ok(());
    };
    Err(Error::NotSubtractable { why })
}

/// The update of a module's weight, which must be a linear layer of the base, and of its shape.
fn low_rank(base: &Weights, adapter: &PeftAdapter, module: &str, sign: f64) -> Result<Update> {
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
        Ok(Some(
            tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?,
        ))
    };
    let missing = |key: Key| Error::MissingTensor {
        name: key.to_string(),
        nearest: None,
    };
    let (a, b) = (Key::A(module), Key::B(module));
    Ok(Update::LowRank {
        a: read(a, &[rank, inner])?.ok_or_else(|| missing(a))?,
        b: read(b, &[out, rank])?.ok_or_else(|| missing(b))?,
        rank,
        scaling: sign * adapter.config.lora.scaling(),
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
