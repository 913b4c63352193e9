//! The model card of a folder that medtune writes: what the weights were made of, under whose terms, and what was shown of
//! them. It holds what the manifests hold, and no text of a record; the same run gives the same bytes.
//!
//! The front matter is that of Hugging Face model cards, the sections follow "Model Cards for Model Reporting"
//! (Mitchell et al. 2019), as far as a program can know them.

mod metrics;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use adapters::hub::{HubCache, HubName, Stated};
use adapters::recipe::{AdapterSection, Quantization};
use adapters::{Belonging, LoraConfig, PeftAdapter};
use anyhow::{Context, Result};
use finetune::Base;
use ledger::files::write_atomic;
use ledger::{AccessClass, Manifest};
use serde_json::Value;

use crate::plan::Plan;
use crate::stages::given_adapter;

/// The file that a card is written to.
pub const CARD_FILE: &str = "README.md";

/// What is known of a model; nothing is said of what is not there but that it is unknown.
#[derive(Debug, Default)]
pub struct ModelCard {
    /// What it is called.
    pub name: String,
    /// The model that it was made of.
    pub base: CardBase,
    /// The adapter that was merged; none where all weights were trained.
    pub adapter: Option<LoraConfig>,
    /// `data/manifest.json` of its run.
    pub data: Option<Manifest>,
    /// The manifest of its training, beside the adapter or the trained model.
    pub train: Option<Manifest>,
    /// What the merge says of itself: numbers and the proof.
    pub merge: Option<Value>,
    /// `eval/manifest.json`, where it is of this very model.
    pub eval: Option<Manifest>,
    /// The recipe with every default, as TOML.
    pub recipe: Option<String>,
    /// In what the base is not the adapter's, where they were put together all the same.
    pub forced: Vec<String>,
    /// The strictest terms of everything that went in.
    pub access: Option<AccessClass>,
}

/// The base of a model.
#[derive(Debug, Default)]
pub struct CardBase {
    /// `ORG/NAME`, or a path as the user wrote it.
    pub name: Option<String>,
    /// Whether it lies in the hub's cache, so that the name is one of the hub and not of a folder.
    pub published: bool,
    /// [`adapters::Weights::fingerprint`].
    pub fingerprint: Option<String>,
    /// What its publisher says of it.
    pub stated: Stated,
    /// What its linear layers were quantized to in training.
    pub quantization: Option<Quantization>,
}

impl CardBase {
    /// A base by its name and where it lies.
    pub fn of(name: Option<&str>, folder: Option<&Path>, fingerprint: Option<String>) -> Self {
        let readme = folder.and_then(|folder| std::fs::read_to_string(folder.join(CARD_FILE)).ok());
        Self {
            name: name.map(str::to_owned),
            published: folder.is_some_and(|folder| folder.starts_with(HubCache::from_env().root())),
            fingerprint,
            stated: Stated::of(&readme.unwrap_or_default()),
            quantization: None,
        }
    }

    /// The name, where it is one of the hub.
    fn hub_name(&self) -> Option<HubName> {
        HubName::parse(self.name.as_deref()?).filter(|_| self.published)
    }
}

impl ModelCard {
    /// The card of what a run has made so far, merged or with every weight trained, and the folder that it belongs in.
    pub fn of_run(plan: &Plan) -> Result<Option<(Self, std::path::PathBuf)>> {
        let recipe = plan.recipe();
        let read = |name: &str| Manifest::read(&plan.folder(name));
        let merged = read("merged")?.filter(|_| recipe.merge.is_some());
        let trained = read("model")?.filter(|_| recipe.train.is_some());
        let (made, folder) = match (merged, trained) {
            (Some(merged), _) => (merged, "merged"),
            (None, Some(trained)) => (trained, "model"),
            (None, None) => return Ok(None),
        };
        let adapter_folder = match recipe.train {
            Some(_) => plan.folder("adapter"),
            None => given_adapter(plan).unwrap_or_default(),
        };
        let train = match folder {
            "merged" => Manifest::read(&adapter_folder)?,
            _ => Some(made.clone()),
        };
        let lora = match &recipe.adapter {
            Some(AdapterSection::Lora(lora)) if recipe.train.is_some() => {
                Some(LoraConfig::from(lora))
            }
            _ if folder == "merged" => Some(PeftAdapter::load(&adapter_folder)?.config.lora),
            _ => None,
        };
        let fingerprint = made.inputs.iter().find(|file| file.path == "base");
        let base_folder = match plan.base.stored() {
            Base::Path(path) => Some(path.as_path()),
            _ => None,
        };
        let name = recipe.model.path.as_deref();
        let fingerprint = fingerprint.map(|file| file.sha256.clone());
        let card = Self {
            name: recipe.name.clone(),
            base: CardBase {
                quantization: recipe.model.quantization,
                ..CardBase::of(name, base_folder, fingerprint)
            },
            adapter: lora,
            data: read("data")?.filter(|data| train.as_ref().is_some_and(|train| fed(data, train))),
            eval: read("eval")?.filter(|eval| is_of(eval, &made)),
            recipe: Some(
                toml::to_string(recipe).context("cannot write the recipe into the model card")?,
            ),
            forced: forced(&made.details),
            access: train.is_some().then_some(made.access),
            merge: (folder == "merged").then_some(made.details),
            train,
        };
        Ok(Some((card, plan.folder(folder))))
    }

    /// The card of any adapter merged into any base. `merge` is what the merge's manifest would say of it. An adapter of
    /// medtune brings its training's manifest along, and the data's where it still lies in its run.
    pub fn of_merge(
        name: &str,
        base: CardBase,
        adapter_folder: &Path,
        adapter: &PeftAdapter,
        merge: Value,
    ) -> Result<Self> {
        let train = Manifest::read(adapter_folder)?;
        let data = match (&train, adapter_folder.parent()) {
            (Some(train), Some(run)) => {
                Manifest::read(&run.join("data"))?.filter(|data| fed(data, train))
            }
            _ => None,
        };
        let belonging = adapter.belonging.as_ref();
        Ok(Self {
            name: name.to_owned(),
            base: CardBase {
                quantization: belonging.and_then(Belonging::quantization),
                ..base
            },
            adapter: Some(adapter.config.lora.clone()),
            data,
            access: train.as_ref().map(|train| train.access),
            forced: forced(&merge),
            merge: Some(merge),
            train,
            ..Self::default()
        })
    }

    /// Writes the card into a model's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        Ok(write_atomic(
            &folder.join(CARD_FILE),
            self.text().as_bytes(),
        )?)
    }
}

/// Writes the card of what a run has made so far, if it has made a model.
pub fn write_of_run(plan: &Plan) -> Result<()> {
    match ModelCard::of_run(plan)? {
        Some((card, folder)) => card.write(&folder),
        None => Ok(()),
    }
}

/// What a merge says that it was made in spite of.
fn forced(details: &Value) -> Vec<String> {
    let listed = details["forced"].as_array().into_iter().flatten();
    listed
        .filter_map(|line| line.as_str().map(str::to_owned))
        .collect()
}

/// Whether an evaluation asked the model that this manifest is of.
fn is_of(eval: &Manifest, made: &Manifest) -> bool {
    let asked = |output: &ledger::FileHash| {
        let name = format!("{}/{}", made.stage, output.path);
        let same = |input: &&ledger::FileHash| input.path == name;
        eval.inputs.iter().find(same).map(|input| &input.sha256) == Some(&output.sha256)
    };
    !made.outputs.is_empty() && made.outputs.iter().all(asked)
}

/// Whether these are the data that this training read.
fn fed(data: &Manifest, train: &Manifest) -> bool {
    let read = |output: &ledger::FileHash| {
        let name = format!("data/{}", output.path);
        train
            .inputs
            .iter()
            .any(|input| input.path == name && input.sha256 == output.sha256)
    };
    !data.outputs.is_empty() && data.outputs.iter().all(read)
}
