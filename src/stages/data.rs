//! The data stage: sources to training and validation samples.

use std::path::Path;

use anyhow::Result;
use datasets::clean::Probe;
use datasets::recipe::DataSection;
use datasets::{BuildOptions, Counter, Template, Tokenizer};
use finetune::Checkpoint;
use ledger::files::StagedDir;
use ledger::{FileHash, Manifest};
use serde_json::{Value, json};

use super::samples::template_of;
use super::{Work, done};
use crate::credentials;
use crate::plan::Plan;
use crate::run::{Clock, StageInput};
use crate::terminal::{count, note};

/// What a build reads beside its sources: a tokenizer to count with, and the evaluation items that must not be
/// trained on.
pub struct Materials {
    counting: Option<(Tokenizer, Template)>,
    probes: Vec<Probe>,
    /// The tasks' own files.
    inputs: Vec<FileHash>,
}

impl Materials {
    /// Opens them.
    pub fn open(plan: &Plan) -> Result<Self> {
        let (mut probes, mut inputs) = (Vec::new(), Vec::new());
        for planned in &plan.decontaminate {
            // Other ways of answering ask the same items.
            let Some(task) = planned.tasks.first() else {
                continue;
            };
            if plan.build.allow_missing && !plan.data_root.join(&task.source.path).exists() {
                note(&format!(
                    "data   nothing is compared with {}: {} is missing",
                    task.name, task.source.path
                ));
                continue;
            }
            for item in task.items(&plan.data_root)? {
                probes.push(Probe {
                    task: task.family.clone(),
                    item_id: item.id.clone(),
                    text: item.prompt.text(),
                    options: match &task.options {
                        Some(eval::Options::Templates(_)) => item.options.clone(),
                        _ => Vec::new(),
                    },
                });
            }
            let name = format!("task/{}", task.name);
            inputs.push(FileHash::of(&planned.file, name)?);
            for file in datasets::files::source_files(&task.source, &plan.data_root)? {
                inputs.push(FileHash::of(&file.path, file.name)?);
            }
        }
        let conversations = plan.recipe().data.as_ref().is_some_and(makes_conversations);
        let counting = match plan.has_model() {
            true => {
                let tokenizer = Checkpoint::open(&plan.base)?.tokenizer;
                let template = template_of(plan, &tokenizer, conversations)?;
                inputs.push(FileHash::of_bytes(
                    tokenizer.fingerprint()?.as_bytes(),
                    "tokenizer",
                ));
                Some((tokenizer, template))
            }
            false => None,
        };
        Ok(Self {
            counting,
            probes,
            inputs,
        })
    }

    /// The options of a build with them.
    pub fn options<'a>(&'a self, plan: &'a Plan, section: &DataSection) -> BuildOptions<'a> {
        let counting = self.counting.as_ref();
        BuildOptions {
            name: &plan.recipe().name,
            seed: plan.recipe().seed,
            probes: self.probes.clone(),
            counter: counting
                .map(|(tokenizer, template)| Counter::new(section, tokenizer, template)),
            allow_missing: plan.build.allow_missing,
            parquet: plan.build.parquet,
        }
    }
}

fn makes_conversations(section: &DataSection) -> bool {
    let sources = section.sources();
    let mut tasks = sources.map(|source| match &source.task {
        Some(task) => task.document.is_none(),
        None => source.format.0.name != "text",
    });
    tasks.any(|conversation| conversation)
}

impl Work<'_> {
    pub(super) fn data(&mut self) -> Result<Manifest> {
        let (plan, recipe) = (self.plan, self.plan.recipe());
        let section = recipe.data.clone().unwrap_or_default();
        let data_root = &plan.data_root;
        if plan.build.parquet {
            let sources = section.sources();
            credentials::require(
                &plan.out,
                plan.build.credentials,
                "build --parquet",
                sources,
            )?;
        }
        let mut inputs = datasets::inputs(&section, data_root, plan.build.allow_missing)?;
        let materials = Materials::open(plan)?;
        inputs.extend(materials.inputs.iter().cloned());
        inputs.sort();
        inputs.dedup();
        let input = StageInput {
            stage: "data",
            inputs,
            settings: json!({
                "source": section.source,
                "validation": section.validation,
                "validation_fraction": section.validation_fraction,
                "clean": section.clean,
                "group": section.group,
                "token_budget": section.token_budget,
                // Tokens and packs are counted as training will have them.
                "template": section.template,
                "max_seq_len": section.max_seq_len,
                "parquet": plan.build.parquet,
                "seed": recipe.seed,
            }),
        };
        if let Some(manifest) = self.run.kept("data", &input)? {
            return Ok(manifest);
        }
        let clock = Clock::start();
        let staged = StagedDir::create(&self.run.folder("data"))?;
        let options = materials.options(plan, &section);
        let built = datasets::build(&section, data_root, staged.path(), &options)?;
        for source in built.report.sources.iter().filter(|source| source.missing) {
            note(&format!("data   {} is missing and left out", source.name));
        }
        for source in &built.report.sources {
            if let Some(expected) = source.expected_records {
                note(&format!(
                    "data   {}: {} records read; its publisher's files have {}",
                    source.name,
                    count(source.read),
                    count(expected)
                ));
            }
        }
        let details = serde_json::to_value(&built.report)?;
        let mut manifest = input.manifest(staged.path(), built.access, details)?;
        manifest.counts = built.counts;
        manifest.write(staged.path())?;
        let absolute = |path: &Path| std::path::absolute(Path::new(".").join(path)).ok();
        let measured: Value = json!({
            "data_root": absolute(data_root),
            "recipe": plan.document.files.first().and_then(|path| absolute(path)),
        });
        clock.write(staged.path(), measured)?;
        staged.commit()?;
        let number = |name: &str| count(manifest.counts.get(name).copied().unwrap_or(0));
        let what = format!(
            "{} training and {} validation samples, in {}",
            number("train"),
            number("validation"),
            clock.shown()
        );
        done("data", &what);
        Ok(manifest)
    }
}
