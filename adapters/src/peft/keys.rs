//! What the tensors of `adapter_model.safetensors` are called, and that they are an adapter.

use super::PeftConfig;
use crate::safetensors_file::Stored;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A tensor of an adapter. Written as PEFT's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A of a module.
    A(&'a str),
    /// B of a module.
    B(&'a str),
    /// DoRA's magnitudes of a module.
    Magnitude(&'a str),
    /// The full copy of a tensor, by its checkpoint name.
    Saved(&'a str),
}

const PREFIX: &str = "base_model.model.";

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Key::A(module) => write!(f, "{PREFIX}{module}.lora_A.weight"),
            Key::B(module) => write!(f, "{PREFIX}{module}.lora_B.weight"),
            Key::Magnitude(module) => write!(f, "{PREFIX}{module}.lora_magnitude_vector"),
            Key::Saved(name) => write!(f, "{PREFIX}{name}"),
        }
    }
}

impl<'a> Key<'a> {
    /// What a key names; nothing where it is no key of a LoRA or a DoRA.
    pub(crate) fn parse(key: &'a str) -> Option<Self> {
        let name = key.strip_prefix(PREFIX)?;
        let found = if let Some(module) = name.strip_suffix(".lora_A.weight") {
            Key::A(module)
        } else if let Some(module) = name.strip_suffix(".lora_B.weight") {
            Key::B(module)
        } else if let Some(module) = name.strip_suffix(".lora_magnitude_vector") {
            Key::Magnitude(module)
        } else if module_of(name) != name {
            Key::Saved(name)
        } else {
            return None;
        };
        let module = found.module();
        (!module.is_empty() && !module.contains("lora_")).then_some(found)
    }

    pub(crate) fn module(self) -> &'a str {
        match self {
            Key::A(module) | Key::B(module) | Key::Magnitude(module) => module,
            Key::Saved(name) => module_of(name),
        }
    }
}

/// The module that a tensor of this checkpoint name belongs to.
pub(crate) fn module_of(name: &str) -> &str {
    let parts = [".weight", ".bias"];
    (parts.iter().find_map(|part| name.strip_suffix(part))).unwrap_or(name)
}

/// The shapes of one module's tensors.
#[derive(Default)]
struct Shapes<'a> {
    a: Option<&'a [usize]>,
    b: Option<&'a [usize]>,
    magnitude: Option<&'a [usize]>,
}

/// Every tensor is one that the settings speak of: pairs of the configured rank, the right way round, with magnitudes
/// where it is a DoRA, and full copies of modules to save.
pub(super) fn check(
    path: &Path,
    stored: &BTreeMap<String, Stored>,
    config: &PeftConfig,
) -> Result<()> {
    let mut modules: BTreeMap<&str, Shapes> = BTreeMap::new();
    let mut copies = Vec::new();
    for (text, tensor) in stored {
        let refused = || Error::AdapterKey {
            path: path.into(),
            key: text.clone(),
        };
        let key = Key::parse(text).ok_or_else(refused)?;
        let shape = Some(&tensor.shape[..]);
        let (ranks, known) = match key {
            Key::A(_) | Key::B(_) => (2..=2, true),
            Key::Magnitude(_) => (1..=1, config.lora.use_dora),
            Key::Saved(_) => (1..=2, may_be_saved(key.module(), config)),
        };
        if !known || !ranks.contains(&tensor.shape.len()) {
            return Err(refused());
        }
        match key {
            Key::A(module) => modules.entry(module).or_default().a = shape,
            Key::B(module) => modules.entry(module).or_default().b = shape,
            Key::Magnitude(module) => modules.entry(module).or_default().magnitude = shape,
            Key::Saved(_) => copies.push((key.module(), text)),
        }
    }
    for (module, shapes) in &modules {
        check_module(path, module, shapes, config)?;
    }
    // What is saved whole carries no adapter.
    if let Some((_, key)) = copies.iter().find(|(m, _)| modules.contains_key(m)) {
        return Err(Error::AdapterKey {
            path: path.into(),
            key: (*key).clone(),
        });
    }
    if modules.is_empty() && copies.is_empty() {
        return Err(Error::AdapterEmpty { path: path.into() });
    }
    Ok(())
}

/// Whether the settings account for a full copy: the module, or one that it is part of, is named among the modules to
/// save, or it is one of the tables, which PEFT also saves where the vocabulary has grown.
fn may_be_saved(module: &str, config: &PeftConfig) -> bool {
    let ends = module.match_indices('.').map(|(at, _)| at);
    let parts = ends.chain([module.len()]).map(|end| &module[..end]);
    let leaf = module.rsplit('.').next().unwrap_or(module);
    let named = |part: &str| config.lora.saved_as(part).next().is_some();
    ["embed_tokens", "lm_head"].contains(&leaf) || parts.into_iter().any(named)
}

fn check_module(path: &Path, module: &str, shapes: &Shapes, config: &PeftConfig) -> Result<()> {
    let lacks = |missing| Error::AdapterPair {
        path: path.into(),
        module: module.into(),
        missing,
    };
    let a = shapes.a.ok_or_else(|| lacks("lora_A.weight"))?;
    let b = shapes.b.ok_or_else(|| lacks("lora_B.weight"))?;
    if config.lora.use_dora && shapes.magnitude.is_none() {
        return Err(lacks("lora_magnitude_vector"));
    }
    let rank = config.lora.rank;
    if a[0] == rank && b[1] == rank {
        return match shapes.magnitude {
            Some(found) if found != [b[0]] => Err(Error::AdapterShape {
                key: Key::Magnitude(module).to_string(),
                expected: vec![b[0]],
                found: found.into(),
            }),
            _ => Ok(()),
        };
    }
    if a[1] == rank && b[0] == rank {
        return Err(Error::AdapterSwapped {
            path: path.into(),
            module: module.into(),
            a: a.into(),
            b: b.into(),
        });
    }
    let (key, found) = if a[0] != rank {
        (Key::A(module), a)
    } else {
        (Key::B(module), b)
    };
    Err(Error::AdapterRank {
        path: path.into(),
        key: key.to_string(),
        rank,
        found: found.into(),
    })
}
