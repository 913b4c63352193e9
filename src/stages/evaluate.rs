//! The evaluation stage: the recipe's tasks, asked of the base and of what was made of it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use datasets::Tokenized;
use eval::{Item, LanguageModel, Report, Settings, Task, TaskNotes, run_perplexity, run_task};
use ledger::files::{StagedDir, write_atomic};
use ledger::recipe as language;
use ledger::{AccessClass, FileHash, Manifest};
use serde_json::json;

use super::{Tuned, Work, done, given_adapter, load, template_of, tokens, tuned};
use crate::run::{Clock, StageInput, access_of};
use crate::terminal::bar;

/// The report for programs, in `eval/`.
const REPORT_FILE: &str = "report.json";
/// The report for people.
const TABLE_FILE: &str = "report.txt";

/// A task with the items that are asked.
struct Asked<'a> {
    task: &'a Task,
    items: Vec<Item>,
    limit: Option<usize>,
}

impl Work<'_> {
    /// The manifest, and the report's table.
    pub(super) fn evaluate(
        &mut self,
        made: &BTreeMap<&str, Manifest>,
    ) -> Result<(Manifest, String)> {
        let input = self.eval_input(made)?;
        let folder = self.run.folder("eval");
        if let Some(manifest) = self.run.kept("eval", &input)? {
            let path = folder.join(TABLE_FILE);
            let table = fs::read_to_string(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            return Ok((manifest, table));
        }
        let clock = Clock::start();
        let section = self.plan.recipe().eval.clone().unwrap_or_default();
        let asked = self.asked()?;
        let mut report = Report::new(section.bootstrap());
        for asked in &asked {
            report.describe(&asked.task.name, TaskNotes::of(asked.task));
        }
        let (mut access, mut secs) = (self.base_access(), BTreeMap::new());
        for (label, model) in self.models()? {
            let label_clock = std::time::Instant::now();
            access = access.max(
                model
                    .adapter
                    .as_deref()
                    .map_or(AccessClass::Open, access_of),
            );
            self.ask(label, &model, &asked, &mut report)?;
            secs.insert(label, label_clock.elapsed().as_secs_f64());
        }
        let staged = StagedDir::create(&folder)?;
        // Texts of what is not open stay out; what the model made of it is in the scores.
        let file = report.file(false);
        write_atomic(&staged.path().join(REPORT_FILE), file.text().as_bytes())?;
        let table = file.table();
        write_atomic(&staged.path().join(TABLE_FILE), table.as_bytes())?;
        let made_access = AccessClass::strictest(made.values().map(|manifest| manifest.access));
        let access = access.max(report.access()).max(made_access);
        let manifest = input.manifest(staged.path(), access, json!({"metrics": file.metrics}))?;
        manifest.write(staged.path())?;
        clock.write(staged.path(), json!({"secs_by_model": secs}))?;
        staged.commit()?;
        done("eval", &format!("done, in {}", clock.shown()));
        Ok((manifest, table))
    }

    fn eval_input(&mut self, made: &BTreeMap<&str, Manifest>) -> Result<StageInput> {
        let recipe = self.plan.recipe();
        let section = recipe.eval.clone().unwrap_or_default();
        let mut inputs = vec![self.base_hash()?];
        for (stage, manifest) in made {
            let outputs = manifest.outputs.iter();
            inputs.extend(outputs.map(|file| FileHash {
                path: format!("{stage}/{}", file.path),
                ..file.clone()
            }));
        }
        if let Some(adapter) = self.given_adapter() {
            let files = FileHash::tree(&adapter)?.into_iter();
            inputs.extend(files.map(|file| FileHash {
                path: format!("given/{}", file.path),
                ..file
            }));
        }
        let mut tasks = Vec::new();
        for planned in &self.plan.tasks {
            for file in
                datasets::files::source_files(&planned.tasks[0].source, &self.plan.data_root)?
            {
                inputs.push(FileHash::of(&file.path, format!("items/{}", file.name))?);
            }
            let file = language::read::<eval::TaskFile>(&planned.file, &[])?;
            tasks.push(json!({"limit": planned.limit, "task": file.value}));
        }
        inputs.sort();
        inputs.dedup();
        let mut settings = serde_json::to_value(&section)?;
        if let Some(settings) = settings.as_object_mut() {
            // How many are asked at a time changes no answer.
            settings.remove("batch_items");
            settings.insert("tasks".into(), json!(tasks));
            settings.insert("dtype".into(), json!(recipe.model.dtype));
            settings.insert(
                "template".into(),
                json!(recipe.data.as_ref().map(|data| data.template)),
            );
            settings.insert(
                "max_seq_len".into(),
                json!(recipe.data.as_ref().map(|data| data.max_seq_len)),
            );
        }
        Ok(StageInput {
            stage: "eval",
            inputs,
            settings,
        })
    }

    fn asked(&self) -> Result<Vec<Asked<'_>>> {
        let mut asked = Vec::new();
        for planned in &self.plan.tasks {
            for task in &planned.tasks {
                let items = task.items(&self.plan.data_root)?;
                asked.push(Asked {
                    task,
                    items,
                    limit: planned.limit,
                });
            }
        }
        Ok(asked)
    }

    /// The models in the order of the report. A recipe that tunes nothing has only its base.
    fn models(&self) -> Result<Vec<(&'static str, Tuned)>> {
        let recipe = self.plan.recipe();
        let given = given_adapter(self.plan);
        let trains = recipe.train.is_some();
        // Before tuning: the base, and the adapter that tuning goes on from.
        let base = Tuned {
            base: self.plan.base.clone(),
            adapter: given.clone().filter(|_| trains),
        };
        if !trains && given.is_none() {
            return Ok(vec![("base", base)]);
        }
        let tuned = ("tuned", tuned(self.plan)?);
        let baseline = recipe.eval.as_ref().is_some_and(|section| section.baseline);
        Ok(if baseline {
            vec![("base", base), tuned]
        } else {
            vec![tuned]
        })
    }

    fn ask(
        &self,
        label: &str,
        model: &Tuned,
        asked: &[Asked<'_>],
        report: &mut Report,
    ) -> Result<()> {
        let section = self.plan.recipe().eval.clone().unwrap_or_default();
        let chat = asked.iter().any(|asked| asked.task.chat_template);
        let mut model = load(self.plan, model, label, chat)?;
        let settings = |items| Settings {
            items,
            batch_items: section.batch_items,
            bootstrap: section.bootstrap(),
        };
        let bar = bar(0, label);
        let mut progress = |progress: eval::Progress<'_>| {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(progress.task.to_owned());
        };
        if section.perplexity {
            let held_out = self.held_out(&model)?;
            if !held_out.is_empty() {
                let language_model: &mut dyn LanguageModel = &mut model;
                let result = run_perplexity(
                    "validation",
                    &held_out,
                    language_model,
                    &settings(None),
                    &mut progress,
                )?;
                report.add_perplexity(label, result);
            }
        }
        for asked in asked {
            let result = run_task(
                asked.task,
                &asked.items,
                &mut model,
                &settings(asked.limit),
                &mut progress,
            )?;
            report.add_task(label, result);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The held-out samples, as this model's tokenizer writes them.
    fn held_out(&self, model: &finetune::Model) -> Result<Vec<Tokenized>> {
        let Some(section) = &self.plan.recipe().data else {
            return Ok(Vec::new());
        };
        let built = datasets::load_built(&self.run.folder("data"))?;
        let chat = matches!(built.validation, datasets::Samples::Conversations(_))
            && !built.validation.is_empty();
        let template = template_of(self.plan, &model.tokenizer, chat)?;
        Ok(tokens(&built.validation, section, &model.tokenizer, &template)?.samples)
    }
}

/// The names under which a report has its numbers, for a task and for perplexity.
pub(super) fn metric_names(task: &Task) -> Vec<String> {
    let own = task.metrics.iter().map(|metric| metric.name);
    own.chain(["items", "unextracted"])
        .map(|name| format!("{}.{name}", task.name))
        .collect()
}
