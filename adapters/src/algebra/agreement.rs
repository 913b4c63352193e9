//! Whether adapters can be combined: what the settings and the adapters themselves must have in common.

use super::AlgebraError;
use super::combine::CombineOptions;
use crate::{Belonging, PeftAdapter, Result};
use std::collections::BTreeMap;

pub(super) fn rank_of(inputs: &[(&str, &PeftAdapter)], i: usize) -> usize {
    inputs[i].1.config.lora.rank
}

/// Refuses settings that the method does not take, and adapters that it does not.
pub(super) fn check_options(
    inputs: &[(&str, &PeftAdapter)],
    options: &CombineOptions,
) -> Result<()> {
    let (method, density) = (options.method, options.density);
    if inputs.len() < 2 {
        let given = inputs.len();
        return Err(AlgebraError::TooFew { given }.into());
    }
    let (weights, adapters) = (options.weights.len(), inputs.len());
    if weights != adapters {
        return Err(AlgebraError::Weights { weights, adapters }.into());
    }
    if let Some(i) = options.weights.iter().position(|w| !w.is_finite()) {
        let (position, value) = (i + 1, options.weights[i]);
        return Err(AlgebraError::Weight { position, value }.into());
    }
    let in_range = density.is_some_and(|d| d > 0.0 && d <= 1.0);
    if method.prunes() != in_range || (!method.prunes() && density.is_some()) {
        return Err(AlgebraError::Density { method, density }.into());
    }
    if options.rank.is_some() && !method.forms_updates() {
        return Err(AlgebraError::Rank { method }.into());
    }
    if let Some((name, _)) = inputs.iter().find(|(_, a)| a.config.lora.use_dora) {
        let adapter = (*name).into();
        return Err(AlgebraError::Dora { adapter }.into());
    }
    let differs = (1..inputs.len()).find(|i| rank_of(inputs, *i) != rank_of(inputs, 0));
    if let (Some(i), true) = (differs, method.prunes() && !method.forms_updates()) {
        return Err(AlgebraError::RanksDiffer {
            method,
            first: inputs[0].0.into(),
            first_rank: rank_of(inputs, 0),
            second: inputs[i].0.into(),
            second_rank: rank_of(inputs, i),
        }
        .into());
    }
    Ok(())
}

/// The base and tokenizer that those who name one agree on.
pub(super) fn common_belonging(
    inputs: &[(&str, &PeftAdapter)],
    force: bool,
) -> Result<(Option<Belonging>, Vec<String>)> {
    let known = inputs
        .iter()
        .filter_map(|(name, adapter)| Some((*name, adapter.belonging.as_ref()?)));
    let known: Vec<(&str, &Belonging)> = known.collect();
    let mut notes = Vec::new();
    for (name, adapter) in inputs {
        if adapter.belonging.is_none() {
            notes.push(format!("`{name}` does not say which base it belongs to"));
        }
    }
    let Some(((first, mine), rest)) = known.split_first() else {
        return Ok((None, notes));
    };
    for (second, other) in rest {
        let of_base = (Some(&mine.base_fingerprint), Some(&other.base_fingerprint));
        let of_tokenizer = (
            mine.tokenizer_fingerprint.as_ref(),
            other.tokenizer_fingerprint.as_ref(),
        );
        for (what, (mine, other)) in [("base", of_base), ("tokenizer", of_tokenizer)] {
            let (Some(mine), Some(other)) = (mine, other) else {
                continue;
            };
            if mine == other {
                continue;
            }
            let cut = |hash: &str| hash.chars().take(12).collect::<String>();
            let error = AlgebraError::Belonging {
                what,
                first: (*first).into(),
                first_hash: cut(mine),
                second: (*second).into(),
                second_hash: cut(other),
            };
            if !force {
                return Err(error.into());
            }
            notes.push(format!("forced: {error}"));
        }
    }
    let agreed = !notes.iter().any(|note| note.starts_with("forced"));
    Ok((agreed.then(|| (*mine).clone()), notes))
}

/// The adapters that have each module, by number, which all must shape it alike.
pub(super) fn members<'a>(
    inputs: &[(&str, &'a PeftAdapter)],
) -> Result<BTreeMap<&'a str, Vec<usize>>> {
    let mut modules: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, (_, adapter)) in inputs.iter().enumerate() {
        for module in adapter.modules() {
            modules.entry(module).or_default().push(i);
        }
    }
    let shape = |module: &str, i: usize| {
        let (a, b) = inputs[i].1.pair(module)?;
        Some(format!("{} × {}", b.dim(0).ok()?, a.dim(1).ok()?))
    };
    for (module, members) in &modules {
        let first = members[0];
        for &second in &members[1..] {
            let (first_shape, second_shape) = (shape(module, first), shape(module, second));
            if first_shape != second_shape {
                return Err(AlgebraError::ShapesDiffer {
                    module: (*module).into(),
                    first: inputs[first].0.into(),
                    first_shape: first_shape.unwrap_or_default(),
                    second: inputs[second].0.into(),
                    second_shape: second_shape.unwrap_or_default(),
                }
                .into());
            }
        }
    }
    Ok(modules)
}
