//! Another rank for an adapter: the best approximation of its update, or the same update with room to grow.

use super::svd::of_product;
use super::{AlgebraError, rounded, share, stored_dtype};
use crate::peft::Key;
use crate::random::Stream;
use crate::{Error, PeftAdapter, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::Serialize;

/// How much of a module's update a result carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleEnergy {
    /// The module.
    pub module: String,
    /// ‖Δ‖ in the Frobenius norm, of the whole update.
    pub norm: f64,
    /// 1 - ‖Δ - Δ'‖² / ‖Δ‖².
    pub energy: f64,
}

/// An adapter of another rank.
#[derive(Clone, Debug)]
pub struct Resized {
    /// The adapter.
    pub adapter: PeftAdapter,
    /// 1 - Σ‖Δ - Δ'‖² / Σ‖Δ‖² over the modules.
    pub energy: f64,
    /// The same by module, sorted by name.
    pub modules: Vec<ModuleEnergy>,
}

/// The adapter with every pair at `rank`. The factor s = alpha / r (alpha / √r under rsLoRA) stays what it is, by
/// another alpha.
///
/// A smaller rank keeps the best approximation of B A there is (Eckart and Young, 1936), found exactly from two QR
/// decompositions and an SVD of the size of the rank; B A is not formed. A larger one changes nothing: B is padded with
/// zeros, and the new rows of A are those of a fresh adapter, so that training can put them to use.
///
/// A DoRA keeps its magnitudes, and its B A is approximated; modules saved whole stay as they are.
///
/// # Errors
/// Rank 0; a rank that a module does not have.
pub fn resize(adapter: &PeftAdapter, rank: usize) -> Result<Resized> {
    let old = &adapter.config.lora;
    let mut config = adapter.config.clone();
    config.lora.rank = rank;
    let ratio = rank as f64 / old.rank as f64;
    config.lora.alpha = old.alpha * if old.use_rslora { ratio.sqrt() } else { ratio };
    config.lora.check()?;
    let names = adapter.modules();
    let found: Vec<_> = names.filter_map(|m| Some((m, adapter.pair(m)?))).collect();
    for (module, (a, b)) in &found {
        let (out, inner) = (b.dim(0)?, a.dim(1)?);
        if rank > out.min(inner) {
            return Err(too_large(rank, module, (out, inner)));
        }
    }
    let pairs = found
        .into_par_iter()
        .map(|(module, (a, b))| {
            let (a, b, energy) = at_rank((a, b), rank, module)?;
            Ok((module, a, b, energy))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut tensors = adapter.tensors.clone();
    let mut energies = Vec::new();
    let (mut kept, mut total) = (0.0, 0.0);
    for (module, a, b, (module_kept, module_total)) in pairs {
        tensors.insert(Key::A(module).to_string(), a);
        tensors.insert(Key::B(module).to_string(), b);
        kept += module_kept;
        total += module_total;
        energies.push(ModuleEnergy {
            module: module.into(),
            norm: old.scaling() * f64::sqrt(module_total),
            energy: share(module_kept, module_total),
        });
    }
    Ok(Resized {
        adapter: PeftAdapter {
            config,
            tensors,
            belonging: adapter.belonging.clone(),
        },
        energy: share(kept, total),
        modules: energies,
    })
}

pub(super) fn too_large(rank: usize, module: &str, (out, inner): (usize, usize)) -> Error {
    let module = module.into();
    AlgebraError::RankTooLarge {
        rank,
        module,
        out,
        inner,
    }
    .into()
}

/// A and B at a rank, and the kept and the whole ‖B A‖².
fn at_rank(
    (a, b): (&Tensor, &Tensor),
    rank: usize,
    module: &str,
) -> Result<(Tensor, Tensor, (f64, f64))> {
    let dtype = stored_dtype([a, b]);
    let (a_key, b_key) = (Key::A(module).to_string(), Key::B(module).to_string());
    let more = rank.saturating_sub(a.dim(0)?);
    let found = of_product(a, b)?;
    if rank >= a.dim(0)? {
        let inner = a.dim(1)?;
        let fresh = Stream::new(0, &a_key).uniforms(more * inner, 1.0 / (inner as f64).sqrt());
        let fresh = Tensor::from_vec(fresh, (more, inner), &Device::Cpu)?.to_dtype(dtype)?;
        let a = match more {
            0 => a.clone(),
            _ => Tensor::cat(&[a, &fresh], 0)?,
        };
        return Ok((a, b.pad_with_zeros(1, 0, more)?, (found.total, found.total)));
    }
    let cut = found.into_rank(rank);
    let energy = (cut.kept(), cut.total);
    let (a, b) = cut.factors(rank)?;
    Ok((
        rounded(&a_key, &a, dtype)?,
        rounded(&b_key, &b, dtype)?,
        energy,
    ))
}
