//! What an adapter does to its base, measured from its factors alone.

use super::dense::{Dense, svd};
use crate::low_rank::product;
use crate::{Belonging, PeftAdapter, Result, TargetModules};
use candle_core::{DType, Tensor};
use kernels::{Op, sum_of_squares};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// An update with less than this share of the median one's norm does next to nothing.
const FAINT: f64 = 1e-3;

/// What an adapter is, and the size of what it does.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `LoRA`, `rsLoRA`, `DoRA` or `DoRA, rank-stabilised`.
    pub method: &'static str,
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// The factor of B A: alpha / r, or alpha / √r when rank-stabilised.
    pub scaling: f64,
    /// Dropout it was trained with.
    pub dropout: f64,
    /// Which layers it was made for.
    pub target_modules: TargetModules,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// Hashes of its base and tokenizer, if medtune wrote it.
    pub belonging: Option<Belonging>,
    /// Numbers it holds, whole tensors included.
    pub parameters: usize,
    /// ‖s B A‖ over all modules, in the Frobenius norm.
    pub norm: f64,
    /// The update of each module, sorted by name. Under DoRA this is the low-rank part; what the magnitudes do depends on
    /// the base.
    pub modules: Vec<ModuleUpdate>,
    /// The same by layer, in the order of the layers.
    pub layers: Vec<LayerNorm>,
    /// Tensors saved whole.
    pub saved: Vec<SavedModule>,
    /// What does nothing, or next to nothing.
    pub warnings: Vec<String>,
}

/// The update s B A of one module.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleUpdate {
    /// The module.
    pub module: String,
    /// Rows of the update.
    pub out: usize,
    /// Columns of the update.
    pub inner: usize,
    /// ‖s B A‖, Frobenius.
    pub norm: f64,
    /// The largest singular value of s B A.
    pub spectral_norm: f64,
    /// ‖Δ‖² / σ₁²: how many directions of the largest size it comes to. 0 for an update that is none.
    pub stable_rank: f64,
    /// exp(H) of the singular values as shares of their sum (Roy and Vetterli, "The effective rank", 2007). 0 for none.
    pub effective_rank: f64,
    /// Whether it changes anything.
    pub no_op: NoOp,
}

/// Whether an update changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoOp {
    /// It does.
    No,
    /// Its norm is less than a thousandth of the median module's.
    Faint,
    /// B is all zeros, as in an adapter that was never trained.
    ZeroB,
    /// A is all zeros.
    ZeroA,
}

/// The updates of one layer together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerNorm {
    /// The number in `model.layers.N.`; none for what lies outside the layers.
    pub layer: Option<usize>,
    /// ‖s B A‖ over the layer's modules.
    pub norm: f64,
    /// The same by the last part of the modules' names.
    pub by_target: BTreeMap<String, f64>,
}

/// A tensor that the adapter holds whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SavedModule {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Measures an adapter. Norms come from Gram matrices of the size of the rank: ‖B A‖² = tr(BᵀB · AAᵀ); nothing of the
/// size of a weight is formed.
pub fn inspect(adapter: &PeftAdapter) -> Result<Inspection> {
    let lora = &adapter.config.lora;
    let names: Vec<&str> = adapter.modules().collect();
    let mut modules = names
        .into_par_iter()
        .filter_map(|module| Some((module, adapter.pair(module)?)))
        .map(|(module, (a, b))| measure(module, a, b, lora.scaling()))
        .collect::<Result<Vec<_>>>()?;
    mark_faint(&mut modules);
    let saved = adapter.saved().filter_map(|name| {
        let shape = adapter.saved_tensor(name)?.dims().to_vec();
        let name = name.into();
        Some(SavedModule { name, shape })
    });
    let mut inspection = Inspection {
        method: match (lora.use_dora, lora.use_rslora) {
            (false, false) => "LoRA",
            (false, true) => "rsLoRA",
            (true, false) => "DoRA",
            (true, true) => "DoRA, rank-stabilised",
        },
        rank: lora.rank,
        alpha: lora.alpha,
        scaling: lora.scaling(),
        dropout: lora.dropout,
        target_modules: lora.target_modules.clone(),
        base_model: adapter.config.base_model.clone(),
        belonging: adapter.belonging.clone(),
        parameters: adapter.tensors.values().map(Tensor::elem_count).sum(),
        norm: root_of_squares(modules.iter().map(|m| m.norm)),
        layers: by_layer(&modules),
        modules,
        saved: saved.collect(),
        warnings: Vec::new(),
    };
    inspection.warnings = warnings(&inspection, lora.use_dora);
    Ok(inspection)
}

fn measure(module: &str, a: &Tensor, b: &Tensor, scaling: f64) -> Result<ModuleUpdate> {
    let ((_, inner), (out, _)) = (a.dims2()?, b.dims2()?);
    let no_op = if sum_of_squares(b)? == 0.0 {
        NoOp::ZeroB
    } else if sum_of_squares(a)? == 0.0 {
        NoOp::ZeroA
    } else {
        NoOp::No
    };
    let squares = match no_op {
        NoOp::No => squared_singular_values(a, b)?,
        _ => Vec::new(),
    };
    let total: f64 = squares.iter().sum();
    let largest = squares.first().copied().unwrap_or(0.0);
    let values: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
    Ok(ModuleUpdate {
        module: module.into(),
        out,
        inner,
        norm: scaling.abs() * total.sqrt(),
        spectral_norm: scaling.abs() * largest.sqrt(),
        stable_rank: if largest > 0.0 { total / largest } else { 0.0 },
        effective_rank: effective_rank(&values),
        no_op,
    })
}

/// σ² of B A, largest first. With BᵀB = V diag(λ) Vᵀ they are the eigenvalues of C AAᵀ Cᵀ, C = diag(√λ) Vᵀ.
fn squared_singular_values(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
    let of_b = svd(&Dense::of(&product(&b, Op::Transposed, &b, Op::Plain)?)?);
    let of_a = Dense::of(&product(&a, Op::Plain, &a, Op::Transposed)?)?;
    let mut root = of_b.u;
    root.scale_columns(of_b.s.iter().map(|s| s.sqrt()));
    let both = root.transposed().times(&of_a)?.times(&root)?;
    // Symmetric and not negative: its singular values are its eigenvalues.
    Ok(svd(&both).s)
}

fn effective_rank(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let shares = values.iter().map(|s| s / sum).filter(|p| *p > 0.0);
    let entropy: f64 = shares.map(|p| -p * libm::log(p)).sum();
    libm::exp(entropy)
}

fn root_of_squares(norms: impl Iterator<Item = f64>) -> f64 {
    norms.map(|n| n * n).sum::<f64>().sqrt()
}

fn mark_faint(modules: &mut [ModuleUpdate]) {
    let working = modules.iter().filter(|m| m.no_op == NoOp::No);
    let mut norms: Vec<f64> = working.map(|m| m.norm).collect();
    norms.sort_by(f64::total_cmp);
    let median = norms.get(norms.len() / 2).copied().unwrap_or(0.0);
    for module in modules {
        if module.no_op == NoOp::No && module.norm < FAINT * median {
            module.no_op = NoOp::Faint;
        }
    }
}

/// The number of the layer that a module is part of.
fn layer_of(module: &str) -> Option<usize> {
    let (_, rest) = module.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn by_layer(modules: &[ModuleUpdate]) -> Vec<LayerNorm> {
    let mut layers: BTreeMap<(bool, usize), BTreeMap<String, f64>> = BTreeMap::new();
    for update in modules {
        let layer = layer_of(&update.module);
        // What lies outside the layers comes last.
        let place = (layer.is_none(), layer.unwrap_or(0));
        let leaf = update.module.rsplit('.').next().unwrap_or(&update.module);
        let norm = layers.entry(place).or_default().entry(leaf.into());
        let norm = norm.or_default();
        *norm = norm.hypot(update.norm);
    }
    let layers = layers.into_iter();
    layers
        .map(|((outside, number), by_target)| LayerNorm {
            layer: (!outside).then_some(number),
            norm: root_of_squares(by_target.values().copied()),
            by_target,
        })
        .collect()
}

fn warnings(inspection: &Inspection, dora: bool) -> Vec<String> {
    let count = |which: NoOp| {
        let modules = inspection.modules.iter();
        modules.filter(|m| m.no_op == which).count()
    };
    let all = inspection.modules.len();
    let mut warnings = Vec::new();
    if all > 0 && count(NoOp::ZeroB) == all && inspection.saved.is_empty() && !dora {
        warnings.push("the adapter changes nothing: every B is zero, as before training".into());
    } else {
        for (which, what) in [
            (NoOp::ZeroB, "change nothing: their B is all zeros"),
            (NoOp::ZeroA, "change nothing: their A is all zeros"),
            (
                NoOp::Faint,
                "change next to nothing: less than a thousandth of the median module",
            ),
        ] {
            let first = inspection.modules.iter().find(|m| m.no_op == which);
            if let Some(first) = first {
                let n = count(which);
                warnings.push(format!(
                    "{n} of {all} modules {what} (first: {})",
                    first.module
                ));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_names() {
        assert_eq!(layer_of("model.layers.12.mlp.up_proj"), Some(12));
        assert_eq!(layer_of("lm_head"), None);
        assert_eq!(layer_of("model.layers.x.y"), None);
    }

    #[test]
    fn effective_ranks_are_between_one_and_all() {
        assert_eq!(effective_rank(&[]), 0.0);
        assert_eq!(effective_rank(&[0.0, 0.0]), 0.0);
        assert!((effective_rank(&[3.0, 0.0]) - 1.0).abs() < 1e-15);
        assert!((effective_rank(&[2.0, 2.0, 2.0]) - 3.0).abs() < 1e-14);
        // e^H of (2/3, 1/3)
        assert!((effective_rank(&[2.0, 1.0]) - 1.889_881_574_842_309_7).abs() < 1e-14);
    }
}
