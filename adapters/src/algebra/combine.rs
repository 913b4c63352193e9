//! Several adapters as one.
//!
//! A linear combination of updates Σ wᵢ sᵢ Bᵢ Aᵢ is itself a product, of the factors put side by side: that is
//! [`CombineMethod::Linear`], exact. TIES and DARE are no linear operations, and there are two places to apply them:
//!
//! - to A and to B each, with √(wᵢ sᵢ): what PEFT's `add_weighted_adapter` calls `ties`, `dare_linear`, `dare_ties`.
//!   Cheap, keeps the rank, and an approximation, as the product of two combined factors is no combination of products.
//! - to the updates sᵢ Bᵢ Aᵢ, as the papers define them on differences of weights, and then cut down to a rank again:
//!   PEFT's `ties_svd`, `dare_linear_svd`, `dare_ties_svd`.
//!
//! PEFT's `linear` is the first kind without pruning, and not the sum of the updates; it is offered only as `dare-linear`
//! with a density of 1, so that nobody takes it for the exact sum.

use super::agreement::{check_options, common_belonging, members, rank_of};
use super::elementwise::{drop_and_rescale, elected_mean, trim, weighted_sum};
use super::svd::of_matrix;
use super::{AlgebraError, ModuleEnergy, rounded, share, stored_dtype};
use crate::low_rank::product;
use crate::peft::{Key, module_of};
use crate::random::Stream;
use crate::{LoraConfig, PeftAdapter, PeftConfig, Result, TargetModules};
use candle_core::{DType, Device, Tensor};
use kernels::Op;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How adapters are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CombineMethod {
    /// The weighted sum of the updates, exactly: PEFT's `cat`.
    Linear,
    /// TIES on A and on B: PEFT's `ties`.
    Ties,
    /// DARE on A and on B, then their weighted sums: PEFT's `dare_linear`.
    DareLinear,
    /// DARE on A and on B, then TIES' election: PEFT's `dare_ties`.
    DareTies,
    /// TIES on the updates, as published: PEFT's `ties_svd`.
    TiesSvd,
    /// DARE on the updates, as published: PEFT's `dare_linear_svd`.
    DareLinearSvd,
    /// DARE on the updates, then TIES' election: PEFT's `dare_ties_svd`.
    DareTiesSvd,
}

impl CombineMethod {
    /// Whether it needs a density.
    pub fn prunes(self) -> bool {
        self != Self::Linear
    }

    /// Whether it forms the updates, and cuts the result down to a rank.
    pub fn forms_updates(self) -> bool {
        matches!(
            self,
            Self::TiesSvd | Self::DareLinearSvd | Self::DareTiesSvd
        )
    }

    fn drops_at_random(self) -> bool {
        !matches!(self, Self::Linear | Self::Ties | Self::TiesSvd)
    }

    fn elects_signs(self) -> bool {
        !matches!(self, Self::Linear | Self::DareLinear | Self::DareLinearSvd)
    }
}

impl fmt::Display for CombineMethod {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Ties => "ties",
            Self::DareLinear => "dare-linear",
            Self::DareTies => "dare-ties",
            Self::TiesSvd => "ties-svd",
            Self::DareLinearSvd => "dare-linear-svd",
            Self::DareTiesSvd => "dare-ties-svd",
        })
    }
}

/// What to combine adapters by.
#[derive(Clone, Debug)]
pub struct CombineOptions {
    /// The method.
    pub method: CombineMethod,
    /// One weight for each adapter; negative ones take an update away.
    pub weights: Vec<f64>,
    /// The share of the numbers that TIES and DARE keep, in (0, 1].
    pub density: Option<f64>,
    /// The rank of the result where updates are formed; the largest of the adapters' if unset.
    pub rank: Option<usize>,
    /// What DARE's masks are drawn from.
    pub seed: u64,
    /// Combine adapters of different bases.
    pub force: bool,
}

/// Adapters as one.
#[derive(Clone, Debug)]
pub struct Combined {
    /// The adapter. Its scaling is 1: the inputs' are in its factors.
    pub adapter: PeftAdapter,
    /// How much of each combined update the rank has room for, where it was cut down.
    pub energy: Option<f64>,
    /// The same by module.
    pub modules: Vec<ModuleEnergy>,
    /// What one would want to know: bases that were not known, or differ and were forced.
    pub notes: Vec<String>,
}

/// Combines adapters, each with the name that errors call it by. Ranks, targets and scalings may differ where the method
/// allows it; a module that only some of them have is combined from those.
///
/// # Errors
/// [`AlgebraError`]: a DoRA, bases that differ, shapes that differ, tensors saved whole that cannot be combined, settings
/// that the method does not take.
pub fn combine(inputs: &[(&str, &PeftAdapter)], options: &CombineOptions) -> Result<Combined> {
    check_options(inputs, options)?;
    let (belonging, notes) = common_belonging(inputs, options.force)?;
    let modules = members(inputs)?;
    let rank = match options.method {
        CombineMethod::Linear => {
            let of_module =
                |members: &Vec<usize>| members.iter().map(|i| rank_of(inputs, *i)).sum();
            modules.values().map(of_module).max().unwrap_or(1)
        }
        _ => (options.rank).unwrap_or_else(|| {
            (0..inputs.len())
                .map(|i| rank_of(inputs, i))
                .max()
                .unwrap_or(1)
        }),
    };
    let mut tensors = combined_saved(inputs, options, &modules)?;
    let mut energies = Vec::new();
    let (mut kept, mut total) = (0.0, 0.0);
    for (module, members) in &modules {
        let job = Job {
            inputs,
            options,
            module,
            members,
            rank,
        };
        let (a, b) = match options.method {
            CombineMethod::Linear => job.concatenated()?,
            method if method.forms_updates() => {
                let (a, b, (part, whole)) = job.on_updates()?;
                kept += part;
                total += whole;
                energies.push(ModuleEnergy {
                    module: (*module).into(),
                    norm: f64::sqrt(whole),
                    energy: share(part, whole),
                });
                (a, b)
            }
            _ => job.on_factors()?,
        };
        let dtype = stored_dtype(inputs.iter().flat_map(|(_, input)| input.tensors.values()));
        for (key, tensor) in [
            (Key::A(module).to_string(), a),
            (Key::B(module).to_string(), b),
        ] {
            let tensor = rounded(&key, &tensor, dtype)?;
            tensors.insert(key, tensor);
        }
    }
    Ok(Combined {
        adapter: PeftAdapter {
            config: combined_config(inputs, rank),
            tensors,
            belonging,
        },
        energy: options.method.forms_updates().then(|| share(kept, total)),
        modules: energies,
        notes,
    })
}

/// Tensors saved whole, W + Δᵢ each: with weights that add up to 1, Σ wᵢ (W + Δᵢ) = W + Σ wᵢ Δᵢ without knowing W.
fn combined_saved(
    inputs: &[(&str, &PeftAdapter)],
    options: &CombineOptions,
    adapted: &BTreeMap<&str, Vec<usize>>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    let (first, rest) = inputs.split_at(1);
    let sum: f64 = options.weights.iter().sum();
    for (adapter, input) in inputs {
        for name in input.saved() {
            let refused = |why| AlgebraError::Saved {
                adapter: (*adapter).into(),
                name: name.into(),
                why,
            };
            let shapes = inputs
                .iter()
                .map(|(_, other)| Some(other.saved_tensor(name)?.dims()));
            let shapes: BTreeSet<Option<&[usize]>> = shapes.collect();
            let ties = |a: &PeftAdapter| a.config.ensure_weight_tying;
            let why = if options.method != CombineMethod::Linear {
                Some("TIES and DARE need the difference from the base")
            } else if adapted.contains_key(module_of(name)) {
                Some("another adapter has a low-rank update of it")
            } else if shapes.contains(&None) {
                Some("not every adapter has it")
            } else if shapes.len() > 1 {
                Some("its shape differs between the adapters")
            } else if (sum - 1.0).abs() > 1e-9 {
                Some("the weights do not add up to 1, so the base would not come out once")
            } else if rest.iter().any(|(_, a)| ties(a) != ties(first[0].1)) {
                Some("only some of the adapters tie embedding and output head")
            } else {
                None
            };
            if let Some(why) = why {
                return Err(refused(why).into());
            }
            let key = Key::Saved(name).to_string();
            let mut mixed: Option<Tensor> = None;
            for ((_, other), weight) in inputs.iter().zip(&options.weights) {
                let Some(tensor) = other.saved_tensor(name) else {
                    continue;
                };
                let term = (tensor.to_dtype(DType::F64)? * *weight)?;
                mixed = Some(match mixed {
                    None => term,
                    Some(sum) => (sum + term)?,
                });
            }
            if let Some(mixed) = mixed {
                let dtype = stored_dtype(inputs.iter().filter_map(|(_, a)| a.saved_tensor(name)));
                let mixed = rounded(&key, &mixed, dtype)?;
                tensors.insert(key, mixed);
            }
        }
    }
    Ok(tensors)
}

/// The first adapter's settings, for all targets, at the rank and with a scaling of 1.
fn combined_config(inputs: &[(&str, &PeftAdapter)], rank: usize) -> PeftConfig {
    let configs: Vec<&PeftConfig> = inputs.iter().map(|(_, a)| &a.config).collect();
    let mut targets = BTreeSet::new();
    let mut saved = BTreeSet::new();
    let mut all_linear = false;
    for config in &configs {
        saved.extend(config.lora.modules_to_save.iter().cloned());
        match &config.lora.target_modules {
            TargetModules::AllLinear => all_linear = true,
            TargetModules::Named(names) => targets.extend(names.iter().cloned()),
        }
    }
    PeftConfig {
        lora: LoraConfig {
            rank,
            alpha: rank as f64,
            dropout: configs[0].lora.dropout,
            target_modules: match all_linear {
                true => TargetModules::AllLinear,
                false => TargetModules::Named(targets.into_iter().collect()),
            },
            use_rslora: false,
            use_dora: false,
            modules_to_save: saved.into_iter().collect(),
        },
        ensure_weight_tying: configs[0].ensure_weight_tying,
        base_model: configs.iter().find_map(|c| c.base_model.clone()),
    }
}

/// One module's combination.
struct Job<'a> {
    inputs: &'a [(&'a str, &'a PeftAdapter)],
    options: &'a CombineOptions,
    module: &'a str,
    members: &'a [usize],
    rank: usize,
}

impl Job<'_> {
    /// Of each adapter that has the module: its number, its A and B, and its weight times its scaling.
    fn parts(&self) -> impl Iterator<Item = (usize, &Tensor, &Tensor, f64)> {
        self.members.iter().filter_map(|&i| {
            let adapter = self.inputs[i].1;
            let (a, b) = adapter.pair(self.module)?;
            Some((
                i,
                a,
                b,
                self.options.weights[i] * adapter.config.lora.scaling(),
            ))
        })
    }

    /// [w₁s₁A₁; w₂s₂A₂; ..] and [B₁ B₂ ..], in f64, with zeros up to the rank.
    fn concatenated(&self) -> Result<(Tensor, Tensor)> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (_, a, b, factor) in self.parts() {
            right.push((a.to_dtype(DType::F64)? * factor)?);
            left.push(b.to_dtype(DType::F64)?);
        }
        let (a, b) = (Tensor::cat(&right, 0)?, Tensor::cat(&left, 1)?);
        let missing = self.rank - a.dim(0)?;
        Ok((
            a.pad_with_zeros(0, 0, missing)?,
            b.pad_with_zeros(1, 0, missing)?,
        ))
    }

    /// The method on A and on B, with √|wᵢsᵢ| on each side, the sign on A's.
    fn on_factors(&self) -> Result<(Tensor, Tensor)> {
        let (mut a_parts, mut b_parts) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        let (mut a_shape, mut b_shape) = ((0, 0), (0, 0));
        for (i, a, b, factor) in self.parts() {
            let root = factor.abs().sqrt();
            a_parts
                .0
                .push(self.pruned(i, a, &Key::A(self.module).to_string())?);
            a_parts.1.push(if factor < 0.0 { -root } else { root });
            b_parts
                .0
                .push(self.pruned(i, b, &Key::B(self.module).to_string())?);
            b_parts.1.push(root);
            (a_shape, b_shape) = (a.dims2()?, b.dims2()?);
        }
        let a = self.mixed(&a_parts.0, &a_parts.1);
        let b = self.mixed(&b_parts.0, &b_parts.1);
        Ok((
            Tensor::from_vec(a, a_shape, &Device::Cpu)?,
            Tensor::from_vec(b, b_shape, &Device::Cpu)?,
        ))
    }

    /// The method on the updates sᵢ Bᵢ Aᵢ, its result cut down to the rank; and the kept and the whole ‖Δ‖².
    fn on_updates(&self) -> Result<(Tensor, Tensor, (f64, f64))> {
        let name = format!("{}.weight", self.module);
        let (mut updates, mut weights) = (Vec::new(), Vec::new());
        let mut shape = (0, 0);
        for (i, a, b, _) in self.parts() {
            let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            let scaling = self.inputs[i].1.config.lora.scaling();
            let update = (product(&b, Op::Plain, &a, Op::Plain)? * scaling)?;
            shape = update.dims2()?;
            updates.push(self.pruned(i, &update, &name)?);
            weights.push(self.options.weights[i]);
        }
        if self.rank > shape.0.min(shape.1) {
            return Err(super::resize::too_large(self.rank, self.module, shape));
        }
        let mixed = self.mixed(&updates, &weights);
        drop(updates);
        let mixed = Tensor::from_vec(mixed, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        let found = of_matrix(&mixed, self.rank, Stream::new(0, &name))?;
        let energy = (found.kept(), found.total);
        let (a, b) = found.factors(self.rank)?;
        Ok((a, b, energy))
    }

    /// The numbers of one adapter's tensor that are left.
    fn pruned(&self, adapter: usize, tensor: &Tensor, name: &str) -> Result<Vec<f32>> {
        let mut values = tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let density = self.options.density.unwrap_or(1.0);
        if density < 1.0 && self.options.method.drops_at_random() {
            let stream = Stream::new(self.options.seed, &format!("dare {adapter} {name}"));
            drop_and_rescale(&mut values, density, stream);
        } else if density < 1.0 {
            trim(&mut values, density);
        }
        Ok(values)
    }

    fn mixed(&self, tensors: &[Vec<f32>], weights: &[f64]) -> Vec<f64> {
        match self.options.method.elects_signs() {
            true => elected_mean(tensors, weights),
            false => weighted_sum(tensors, weights),
        }
    }
}
