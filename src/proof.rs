//! Both parts of a merge's proof, run together: every tensor, and what the model answers.

use std::path::Path;

use adapters::recipe::ComputeDtype;
use adapters::{Method, PeftAdapter};
use anyhow::Result;
use finetune::{Base, Checkpoint, LogitProof, compare_logits};

/// Asks base + adapter and the merged model the same probes.
pub fn prove_logits(base: &Checkpoint, adapter: &PeftAdapter, merged: &Path) -> Result<LogitProof> {
    let compute = ComputeDtype::F32.into();
    let merged = Checkpoint::open(&Base::Path(merged.to_owned()))?;
    let (with_adapter, _) = base.decoder(compute, Method::Frozen, Some(adapter.clone()), 0)?;
    let (alone, _) = merged.decoder(compute, Method::Frozen, None, 0)?;
    let stored = adapter.modules().find_map(|module| {
        merged
            .weights
            .view(&format!("{module}.weight"))
            .ok()?
            .float_dtype()
    });
    Ok(compare_logits(
        &with_adapter,
        &alone,
        stored.unwrap_or(compute),
    )?)
}

/// As [`prove_logits`]; a proof that does not hold is the error of a failed merge.
pub fn require_logits(
    base: &Checkpoint,
    adapter: &PeftAdapter,
    merged: &Path,
) -> Result<LogitProof> {
    let proof = prove_logits(base, adapter, merged)?;
    match proof.problem() {
        None => Ok(proof),
        Some(problem) => Err(adapters::Error::ProofFailed {
            problems: vec![problem],
        }
        .into()),
    }
}
