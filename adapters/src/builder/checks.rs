//! That every name in the settings and every tensor of the adapter found its layer.

use super::{Builder, Method};
use crate::error::nearest;
use crate::lora::answers_to;
use crate::peft::{PeftAdapter, module_of};
use crate::{Error, Result, TargetModules};

impl Builder<'_> {
    fn modules(&self) -> impl Iterator<Item = &str> {
        let others = self.tables.iter().chain(&self.norms);
        self.linears.iter().chain(others).map(String::as_str)
    }

    pub(super) fn check_all(&self) -> Result<()> {
        if let Method::Lora(config) = &self.method {
            self.check_targets(&config.target_modules)?;
            self.check_saved(&config.modules_to_save)?;
        }
        match &self.adapter {
            Some(adapter) => self.check_modules(adapter),
            None => Ok(()),
        }
    }

    /// Every tensor of the adapter belongs to a layer.
    fn check_modules(&self, adapter: &PeftAdapter) -> Result<()> {
        let has_linear = |module: &str| self.linears.iter().any(|l| l == module);
        let pairs = adapter.modules().find(|m| !has_linear(m));
        let mut saved = adapter.saved().map(module_of);
        let Some(module) = pairs.or_else(|| saved.find(|m| !self.modules().any(|has| has == *m)))
        else {
            return Ok(());
        };
        Err(Error::AdapterModule {
            module: module.into(),
            nearest: nearest(module, self.modules()),
        })
    }

    fn check_saved(&self, names: &[String]) -> Result<()> {
        let Some(i) = (0..names.len()).find(|i| !self.saved.contains(i)) else {
            return Ok(());
        };
        let available = leaves(self.modules());
        let candidates = available.iter().map(String::as_str).chain(self.modules());
        Err(Error::SavedMatchesNothing {
            name: names[i].clone(),
            nearest: nearest(&names[i], candidates),
            available,
        })
    }

    fn check_targets(&self, targets: &TargetModules) -> Result<()> {
        let TargetModules::Named(names) = targets else {
            return Ok(());
        };
        for (i, target) in names.iter().enumerate() {
            if self.matched.contains(&i) || self.linears.iter().any(|l| answers_to(l, target)) {
                continue;
            }
            if self
                .tables
                .iter()
                .chain([&"lm_head".to_owned()])
                .any(|t| answers_to(t, target))
            {
                let why =
                    "embeddings and the output head are not linear layers of the decoder's blocks";
                return Err(Error::TargetUnsupported {
                    target: target.clone(),
                    why,
                });
            }
            let available = leaves(self.linears.iter().map(String::as_str));
            let candidates = available.iter().chain(&self.linears).map(String::as_str);
            let nearest = nearest(target, candidates);
            return Err(Error::TargetMatchesNothing {
                target: target.clone(),
                nearest,
                available,
            });
        }
        Ok(())
    }

    /// Refuses to go on training with a whole module fewer or more. The modules share one table, or are one.
    pub(super) fn check_same_saved(&self, modules: &[&str], wanted: bool) -> Result<()> {
        let (Method::Lora(_), Some(adapter)) = (&self.method, &self.adapter) else {
            return Ok(());
        };
        let has = |module: &&str| adapter.saved().any(|name| module_of(name) == *module);
        let says = |with: bool| {
            let with = if with {
                "modules with"
            } else {
                "modules without"
            };
            format!("{with} {}", modules.join(" or "))
        };
        match modules.iter().any(has) {
            has if has == wanted => Ok(()),
            has => Err(Error::AdapterDiffers {
                key: "modules_to_save",
                adapter: says(has),
                asked: says(wanted),
            }),
        }
    }
}

/// The last parts of the modules' names, each once.
fn leaves<'a>(modules: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut leaves: Vec<String> = Vec::new();
    for module in modules {
        let leaf = module.rsplit('.').next().unwrap_or(module);
        if !leaves.iter().any(|l| l == leaf) {
            leaves.push(leaf.into());
        }
    }
    leaves
}
