//! LoRA's settings, and which linear layers they apply to.
//!
//! Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; rank-stabilised scaling from
//! Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023; matching of
//! `target_modules` as PEFT does it.

use crate::{Error, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;

/// LoRA: y = x Wᵀ + scaling · dropout(x) Aᵀ Bᵀ with A (r, in) and B (out, r).
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// r, the rank of the update.
    pub rank: usize,
    /// alpha; the update is scaled by alpha / r.
    pub alpha: f64,
    /// Probability that an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// Which linear layers carry an adapter.
    pub target_modules: TargetModules,
    /// Scale by alpha / √r instead.
    pub use_rslora: bool,
    /// DoRA: train the length of each row of an adapted weight apart from its direction.
    pub use_dora: bool,
    /// Modules of which a full copy is trained: embeddings, the output head, norms, linear layers. A module is meant
    /// whose full name ends in one of these.
    pub modules_to_save: Vec<String>,
}

impl LoraConfig {
    /// The factor of the low-rank update.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Refuses values outside their range.
    pub fn check(&self) -> Result<()> {
        let wrong = |key, value: String, rule| Err(Error::LoraSetting { key, value, rule });
        if self.rank == 0 {
            return wrong("rank", "0".into(), "it must be at least 1");
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return wrong("alpha", self.alpha.to_string(), "it must be greater than 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(
                "dropout",
                self.dropout.to_string(),
                "it must be at least 0 and less than 1",
            );
        }
        if let TargetModules::Named(names) = &self.target_modules
            && names.is_empty()
        {
            return wrong(
                "target_modules",
                "[]".into(),
                "it must name at least one layer",
            );
        }
        if self.modules_to_save.iter().any(String::is_empty) {
            return wrong(
                "modules_to_save",
                "[\"\"]".into(),
                "an empty name would mean every module",
            );
        }
        Ok(())
    }

    /// Whether a full copy of `module` is trained.
    pub fn saves(&self, module: &str) -> bool {
        self.saved_as(module).next().is_some()
    }

    /// Indices of the modules to save that `module` answers to: as in PEFT, those it ends in, dot or no dot.
    pub(crate) fn saved_as(&self, module: &str) -> impl Iterator<Item = usize> {
        let names = self.modules_to_save.iter().enumerate();
        names.filter_map(move |(i, name)| module.ends_with(name.as_str()).then_some(i))
    }
}

/// Which linear layers carry an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TargetModules {
    /// Every linear layer except the output head. Written `"all-linear"`.
    #[default]
    AllLinear,
    /// Layers by full name or by the end of their name after a dot. Written as a list.
    Named(Vec<String>),
}

impl TargetModules {
    /// Index of the first target that `module` answers to; 0 for all-linear.
    pub fn position(&self, module: &str) -> Option<usize> {
        match self {
            TargetModules::AllLinear => Some(0),
            TargetModules::Named(names) => {
                names.iter().position(|target| answers_to(module, target))
            }
        }
    }
}

/// PEFT's rule: the same name, or one that ends in `.target`.
pub(crate) fn answers_to(module: &str, target: &str) -> bool {
    match module.strip_suffix(target) {
        Some(before) => before.is_empty() || before.ends_with('.'),
        None => false,
    }
}

// Serialised by hand: an untagged enum's error names neither what was found nor what would do.
impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            TargetModules::AllLinear => serializer.serialize_str("all-linear"),
            TargetModules::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let wrong = || {
            D::Error::custom(
                "expected \"all-linear\" or a list of layer names, such as [\"q_proj\", \"v_proj\"]",
            )
        };
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "all-linear" => Ok(TargetModules::AllLinear),
            Value::Array(items) => {
                let names = items.into_iter().map(|item| match item {
                    Value::String(name) => Ok(name),
                    _ => Err(wrong()),
                });
                names
                    .collect::<std::result::Result<_, _>>()
                    .map(TargetModules::Named)
            }
            _ => Err(wrong()),
        }
    }
}

impl JsonSchema for TargetModules {
    fn schema_name() -> Cow<'static, str> {
        "TargetModules".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"all-linear\" (every linear layer except the output head), or a list of layers by full name or by its last parts",
            "anyOf": [
                {"type": "string", "enum": ["all-linear"]},
                {"type": "array", "items": {"type": "string"}},
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_as_in_peft() {
        let module = "model.layers.1.self_attn.q_proj";
        for (target, matches) in [
            ("q_proj", true),
            ("self_attn.q_proj", true),
            (module, true),
            ("proj", false),
            ("_proj", false),
            ("model.layers.11.self_attn.q_proj", false),
            ("layers.1.self_attn.q_proj.", false),
        ] {
            assert_eq!(answers_to(module, target), matches, "{target}");
        }
    }

    #[test]
    fn rank_stabilised_scaling_divides_by_the_root() {
        let mut config = LoraConfig {
            rank: 16,
            alpha: 8.0,
            dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            use_rslora: false,
            use_dora: false,
            modules_to_save: vec![],
        };
        assert_eq!(config.scaling(), 0.5);
        config.use_rslora = true;
        assert_eq!(config.scaling(), 2.0);
    }

    #[test]
    fn target_modules_read_back_what_they_write() {
        for text in ["\"all-linear\"", "[\"q_proj\",\"v_proj\"]"] {
            let targets: TargetModules = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&targets).unwrap(), text);
        }
        let error = serde_json::from_str::<TargetModules>("\".*_proj\"").unwrap_err();
        insta::assert_snapshot!(error, @r#"expected "all-linear" or a list of layer names, such as ["q_proj", "v_proj"]"#);
    }
}
