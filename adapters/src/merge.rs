//! Adds an adapter into its base: W + scaling · B A in f32, rounded once.

use crate::error::nearest;
use crate::export::{Change, ExportOptions, LowRank, staged, write_model};
use crate::peft::tensor_key;
use crate::{Error, PeftAdapter, Result, TensorProof, WeightView, Weights, verify_tensors};
use candle_core::{DType, Tensor};
use serde::Serialize;
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

/// The update of each targeted tensor, by the tensor's name, checked against the base.
pub(crate) struct Updates(BTreeMap<String, (Tensor, Tensor, f64)>);

impl Updates {
    pub(crate) fn new(base: &Weights, adapter: &PeftAdapter) -> Result<Self> {
        let scaling = adapter.config.lora.scaling();
        let mut updates = BTreeMap::new();
        for module in adapter.modules() {
            let Some((a, b)) = adapter.pair(module) else {
                continue;
            };
            let name = format!("{module}.weight");
            let Ok(view) = base.view(&name) else {
                let modules = base.names().filter_map(|n| n.strip_suffix(".weight"));
                return Err(Error::AdapterModule {
                    module: module.into(),
                    nearest: nearest(module, modules),
                });
            };
            let [out, inner] = view.shape[..] else {
                let why = "in this base it is not a linear layer";
                return Err(Error::TargetUnsupported {
                    target: module.into(),
                    why,
                });
            };
            if !view.is_float() {
                return Err(Error::UnsupportedDtype {
                    name,
                    dtype: view.dtype_name(),
                });
            }
            let rank = adapter.config.lora.rank;
            for (which, tensor, expected) in
                [("lora_A", a, [rank, inner]), ("lora_B", b, [out, rank])]
            {
                if tensor.dims() != expected {
                    let key = tensor_key(module, which);
                    return Err(Error::AdapterShape {
                        key,
                        expected: expected.into(),
                        found: tensor.dims().into(),
                    });
                }
            }
            updates.insert(
                name,
                (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?, scaling),
            );
        }
        Ok(Self(updates))
    }

    pub(crate) fn get(&self, name: &str) -> Option<LowRank<'_>> {
        self.0.get(name).map(|(a, b, scaling)| LowRank {
            a,
            b,
            scaling: *scaling,
        })
    }

    fn change(&self, view: &WeightView) -> Change<'_> {
        self.get(&view.name).map_or(Change::Keep, Change::Add)
    }
}
