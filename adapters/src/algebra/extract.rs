//! A LoRA out of two models: the best low-rank update from the one to the other, tensor by tensor.

use super::difference::{differs, each_panel, same_bytes, squares};
use super::resize::too_large;
use super::svd::of_matrix;
use super::{AlgebraError, ModuleEnergy, rounded, share};
use crate::error::nearest;
use crate::peft::{EMBEDDING, HEAD, Key, module_of};
use crate::random::Stream;
use crate::{
    Belonging, Error, LoraConfig, PeftAdapter, PeftConfig, Result, TargetModules, WeightView,
    Weights,
};
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What to extract.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// The rank of every pair.
    pub rank: usize,
    /// Which linear layers get one.
    pub target_modules: TargetModules,
    /// Save what else differs whole, as PEFT's `modules_to_save`.
    pub save_rest: bool,
    /// The base as the adapter will name it.
    pub base_model: Option<String>,
    /// The base's and its tokenizer's fingerprints.
    pub belonging: Option<Belonging>,
}

/// An adapter made from two models.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The adapter; its scaling is 1.
    pub adapter: PeftAdapter,
    /// 1 - Σ‖Δ - B A‖² / Σ‖Δ‖² over the modules that got a pair.
    pub energy: f64,
    /// The same over everything that differs; what is saved whole counts as kept.
    pub energy_of_all: f64,
    /// By module, sorted by name.
    pub modules: Vec<ModuleEnergy>,
    /// Targets that are the same in both models, and got none.
    pub unchanged: usize,
    /// What differs and has no low-rank update.
    pub rest: Vec<Rest>,
}

/// A tensor that differs and has no low-rank update.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rest {
    /// Its name in the checkpoint.
    pub name: String,
    /// What it is.
    pub why: &'static str,
    /// ‖Δ‖ / ‖W‖.
    pub relative_change: f64,
    /// Whether the adapter holds it whole; else its change is lost.
    pub saved: bool,
}

/// Extracts the adapter that brings `base` nearest to `tuned` at a rank. `progress` hears how many of the targets are
/// done, and how many there are.
///
/// One tensor's difference is in memory at a time. The same models and options give the same bytes.
///
/// # Errors
/// [`AlgebraError`]: tensors that one of the models lacks or has in another shape (a vocabulary that has grown), numbers
/// that are not finite, a rank beyond a matrix's, no difference at all; a target that matches nothing.
pub fn extract(
    base: &Weights,
    tuned: &Weights,
    options: &ExtractOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let tied = is_tied(base);
    check_same_tensors(base, tuned, tied)?;
    let linear: Vec<&str> = (base.views().filter(|view| is_linear(view)))
        .map(|view| module_of(&view.name))
        .collect();
    let targets = targets(&linear, &options.target_modules)?;
    let mut work = Work {
        base,
        tuned,
        options,
        tied,
        found: Found::default(),
    };
    for (done, module) in targets.iter().enumerate() {
        progress(done, targets.len());
        work.target(module)?;
    }
    progress(targets.len(), targets.len());
    for view in base.views() {
        if !targets.contains(module_of(&view.name)) {
            work.rest(view, what_it_is(view, &linear))?;
        }
    }
    work.finish(&linear)
}

/// Whether embedding and output head are one table, stored once.
fn is_tied(base: &Weights) -> bool {
    let said = base.config().get("tie_word_embeddings");
    base.has(EMBEDDING) && !base.has(HEAD) && said.and_then(Value::as_bool) == Some(true)
}

fn check_same_tensors(base: &Weights, tuned: &Weights, tied: bool) -> Result<()> {
    let only = |name: &str, has, lacks| AlgebraError::OnlyInOne {
        name: name.into(),
        has,
        lacks,
    };
    for view in base.views() {
        let Ok(other) = tuned.view(&view.name) else {
            return Err(only(&view.name, "base", "tuned").into());
        };
        if other.shape != view.shape {
            let per_token = [EMBEDDING, HEAD].contains(&view.name.as_str());
            return Err(AlgebraError::TunedShape {
                vocabulary: per_token && view.shape.get(1..) == other.shape.get(1..),
                base: format!("{:?}", view.shape),
                tuned: format!("{:?}", other.shape),
                name: view.name.clone(),
            }
            .into());
        }
    }
    for view in tuned.views().filter(|view| !base.has(&view.name)) {
        // Some programs store a tied table twice.
        let copy = tied && view.name == HEAD;
        if !copy || differs(&tuned.view(EMBEDDING)?, view)?.is_some() {
            return Err(only(&view.name, "tuned", "base").into());
        }
    }
    Ok(())
}

/// A weight that a low-rank update can be added to: of two dimensions, and no table of tokens.
fn is_linear(view: &WeightView) -> bool {
    let leaf = module_of(&view.name).rsplit('.').next();
    view.name.ends_with(".weight")
        && view.shape.len() == 2
        && view.is_float()
        && leaf != Some("embed_tokens")
}

/// The modules that are targets, sorted. As in training, "all-linear" leaves the output head out.
fn targets<'a>(linear: &[&'a str], asked: &TargetModules) -> Result<BTreeSet<&'a str>> {
    let head = module_of(HEAD);
    let mut found = BTreeSet::new();
    let mut matched = BTreeSet::new();
    for module in linear {
        if let (Some(i), true) = (
            asked.position(module),
            *asked != TargetModules::AllLinear || *module != head,
        ) {
            matched.insert(i);
            found.insert(*module);
        }
    }
    if let TargetModules::Named(names) = asked {
        let missed = |(i, name): (usize, &String)| (!matched.contains(&i)).then(|| name.clone());
        if let Some(target) = names.iter().enumerate().find_map(missed) {
            let leaves: BTreeSet<&str> =
                linear.iter().filter_map(|m| m.rsplit('.').next()).collect();
            return Err(Error::TargetMatchesNothing {
                nearest: nearest(&target, leaves.iter().copied()),
                available: leaves.into_iter().map(String::from).collect(),
                target,
            });
        }
    }
    Ok(found)
}

fn what_it_is(view: &WeightView, linear: &[&str]) -> &'static str {
    match view.name.as_str() {
        EMBEDDING => "embedding",
        HEAD => "output head",
        name if name.ends_with(".bias") => "bias",
        name if linear.contains(&module_of(name)) => "linear layer that is no target",
        name if name.contains("norm") => "norm",
        _ if !view.is_float() => "no floating-point tensor",
        _ => "other tensor",
    }
}

#[derive(Default)]
struct Found {
    tensors: BTreeMap<String, Tensor>,
    /// Modules that got a pair, and modules saved whole.
    adapted: BTreeSet<String>,
    saved: BTreeSet<String>,
    modules: Vec<ModuleEnergy>,
    rest: Vec<Rest>,
    unchanged: usize,
    /// Of the modules with a pair: ‖B A‖², ‖Δ‖².
    kept: f64,
    total: f64,
    /// ‖Δ‖² of what is saved whole, and of what is lost.
    whole: f64,
    lost: f64,
}

struct Work<'a> {
    base: &'a Weights,
    tuned: &'a Weights,
    options: &'a ExtractOptions,
    tied: bool,
    found: Found,
}

impl Work<'_> {
    /// A pair for a module, if its weight differs.
    fn target(&mut self, module: &str) -> Result<()> {
        let view = self.base.view(&format!("{module}.weight"))?;
        let bias = self.base.view(&format!("{module}.bias")).ok();
        let bias_differs = match &bias {
            Some(bias) => differs(bias, &self.tuned.view(&bias.name)?)?,
            None => None,
        };
        // A module is adapted or saved whole, in PEFT's files as in ours, and a bias has no low-rank update.
        if let (Some(bias), true) = (&bias, bias_differs.is_some()) {
            if self.options.save_rest {
                self.rest(&view, "weight of a layer whose bias differs")?;
                return self.rest(bias, "bias");
            }
            self.rest(bias, "bias")?;
        }
        let Some(delta) = self.delta(&view)? else {
            self.found.unchanged += 1;
            return Ok(());
        };
        let (out, inner) = delta.dims2()?;
        let rank = self.options.rank;
        if rank > out.min(inner) {
            return Err(too_large(rank, module, (out, inner)));
        }
        let cut = of_matrix(&delta, rank, Stream::new(0, &view.name))?;
        let (kept, total) = (cut.kept(), cut.total);
        let (a, b) = cut.factors(rank)?;
        for (key, tensor) in [
            (Key::A(module).to_string(), a),
            (Key::B(module).to_string(), b),
        ] {
            let tensor = rounded(&key, &tensor, DType::F32)?;
            self.found.tensors.insert(key, tensor);
        }
        self.found.kept += kept;
        self.found.total += total;
        self.found.adapted.insert(module.into());
        self.found.modules.push(ModuleEnergy {
            module: module.into(),
            norm: total.sqrt(),
            energy: share(kept, total),
        });
        Ok(())
    }

    /// Tuned - base of a matrix in f32, or nothing where they are the same.
    fn delta(&self, view: &WeightView) -> Result<Option<Tensor>> {
        let tuned = self.tuned.view(&view.name)?;
        if same_bytes(view, &tuned)? {
            return Ok(None);
        }
        let (rows, columns) = view.rows_and_columns();
        let mut delta = Vec::with_capacity(rows * columns);
        let mut square = 0.0;
        each_panel(view, &tuned, |base, tuned| {
            delta.extend(tuned.iter().zip(base).map(|(t, b)| t - b));
            square += squares(base, tuned).0;
        })?;
        let delta = Tensor::from_vec(delta, (rows, columns), &Device::Cpu)?;
        Ok((square > 0.0).then_some(delta))
    }

    /// Takes note of a tensor that differs and has no low-rank update, and saves its module whole if that is asked for.
    fn rest(&mut self, view: &WeightView, why: &'static str) -> Result<()> {
        let Some((delta, weight)) = differs(view, &self.tuned.view(&view.name)?)? else {
            return Ok(());
        };
        let saved = self.options.save_rest && view.is_float();
        if saved {
            self.save_whole(module_of(&view.name))?;
            self.found.whole += delta;
        } else {
            self.found.lost += delta;
        }
        self.found.rest.push(Rest {
            name: view.name.clone(),
            why,
            relative_change: share(delta, weight).sqrt(),
            saved,
        });
        Ok(())
    }

    /// Every tensor of the module: PEFT trains and stores modules, not tensors.
    fn save_whole(&mut self, module: &str) -> Result<()> {
        if !self.found.saved.insert(module.into()) {
            return Ok(());
        }
        for part in ["weight", "bias"] {
            let Ok(view) = self.tuned.view(&format!("{module}.{part}")) else {
                continue;
            };
            let tensor = view.tensor(DType::F32)?;
            view.release();
            if self.tied && view.name == EMBEDDING {
                let head = Key::Saved(HEAD).to_string();
                self.found.saved.insert(module_of(HEAD).into());
                self.found.tensors.insert(head, tensor.clone());
            }
            let key = Key::Saved(&view.name).to_string();
            self.found.tensors.insert(key, tensor);
        }
        Ok(())
    }

    fn finish(self, linear: &[&str]) -> Result<Extracted> {
        let (found, options) = (self.found, self.options);
        if found.adapted.is_empty() {
            return Err(AlgebraError::NothingDiffers.into());
        }
        let ensure_weight_tying = self.tied && found.saved.contains(module_of(EMBEDDING));
        let lora = LoraConfig {
            rank: options.rank,
            alpha: options.rank as f64,
            dropout: 0.0,
            target_modules: TargetModules::Named(names_of(&found.adapted, linear)),
            use_rslora: false,
            use_dora: false,
            modules_to_save: found.saved.into_iter().collect(),
        };
        let kept = found.kept + found.whole;
        Ok(Extracted {
            adapter: PeftAdapter {
                config: PeftConfig {
                    lora,
                    ensure_weight_tying,
                    base_model: options.base_model.clone(),
                },
                tensors: found.tensors,
                belonging: options.belonging.clone(),
            },
            energy: share(found.kept, found.total),
            energy_of_all: share(kept, found.total + found.whole + found.lost),
            modules: found.modules,
            unchanged: found.unchanged,
            rest: found.rest,
        })
    }
}

/// Names for `target_modules`: the last part where every linear layer called so is adapted, else the whole name.
fn names_of(adapted: &BTreeSet<String>, linear: &[&str]) -> Vec<String> {
    let leaf = |module: &str| module.rsplit('.').next().unwrap_or(module).to_owned();
    let partly: BTreeSet<String> = (linear.iter())
        .filter(|module| !adapted.contains(**module))
        .map(|module| leaf(module))
        .collect();
    let name = |module: &String| match leaf(module) {
        leaf if partly.contains(&leaf) => module.clone(),
        leaf => leaf,
    };
    adapted
        .iter()
        .map(name)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
