//! The evaluation stage: the recipe's tasks, asked of the base and of what was made of it, and of models beside them.
//!
//! What was answered is kept in `eval.journal/` until `eval/` has it: an evaluation that is stopped, or killed, goes on
//! from there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use datasets::Tokenized;
use eval::metrics::{MetricName, Needs};
use eval::recipe::EvalSection;
use eval::report::FORGETTING;
use eval::{
    BertScorer, Endpoint, EndpointSection, FlaggedItems, Item, Journals, LanguageModel, Report,
    Session, Settings, ShotReport, Task, TaskNotes, resume_perplexity, resume_task_with,
};
use indicatif::ProgressBar;
use ledger::files::{StagedDir, write_atomic};
use ledger::{AccessClass, Manifest};
use serde_json::{Value, json};

use super::bert_score::Encoder;
use super::eval_input::access_of_model;
use super::room::Room;
use super::stop::{Stop, command_line};
use super::watch::chose_checkpoint;
use super::{Tuned, Work, asked_by, done, given_adapter, load_as, template_of, tokens, tuned};
use crate::credentials;
use crate::plan::{Plan, PlannedTask};
use crate::run::Clock;
use crate::terminal::{bar, note};

/// The report for programs, in `eval/`.
const REPORT_FILE: &str = "report.json";
/// The report for people.
const TABLE_FILE: &str = "report.txt";
/// The folder of unfinished answers, beside `eval/`.
const JOURNAL_FOLDER: &str = "eval.journal";

/// A task with the items that are asked.
pub(super) struct Asked<'a> {
    pub task: &'a Task,
    pub items: Vec<Item>,
    shots: Option<ShotReport>,
    pub limit: Option<usize>,
}

impl Asked<'_> {
    /// The strictest terms of its items.
    pub(super) fn access(&self) -> AccessClass {
        AccessClass::strictest(self.items.iter().map(|item| item.access))
    }
}

/// Who is asked.
pub(super) enum Who {
    /// A model on this machine.
    Local(Tuned),
    /// `eval.endpoint` with this number.
    Endpoint(usize),
}

/// What came of asking.
struct Answered {
    report: Report,
    /// The strictest terms of the models.
    access: AccessClass,
    /// What differs from run to run.
    measured: Value,
}

impl Work<'_> {
    /// The manifest, and the report's table; `None` where it was stopped before its end.
    pub(super) fn evaluate(
        &mut self,
        made: &BTreeMap<&str, Manifest>,
    ) -> Result<Option<(Manifest, String)>> {
        let plan = self.plan;
        if plan.reveal {
            let tasks = plan.tasks.iter().flat_map(|planned| &planned.tasks);
            let sources = tasks.flat_map(Task::sources);
            let given = plan.build.credentials;
            credentials::require(&plan.out, given, "eval --reveal", sources)?;
        }
        let input = self.eval_input(made)?;
        let folder = self.run.folder("eval");
        if let Some(manifest) = self.run.kept("eval", &input)? {
            let path = folder.join(TABLE_FILE);
            let table = fs::read_to_string(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            return Ok(Some((manifest, table)));
        }
        let clock = Clock::start();
        let section = plan.recipe().eval.clone().unwrap_or_default();
        let asked = asked(plan, &plan.tasks, "eval")?;
        let mut endpoints = Vec::new();
        for endpoint in &section.endpoint {
            endpoints.push(self.terms(endpoint, &asked)?);
        }
        let judge = self.judge_terms(&section, &asked)?;
        let mut journals = Journals::new(self.run.folder(JOURNAL_FOLDER));
        let mut encoder = self.encoder.take();
        let mut bert = encoder.as_mut().map(Encoder::scorer);
        let answered = self.ask_everyone(&section, &asked, bert.as_mut(), &mut journals)?;
        let Some(answered) = answered else {
            let command = command_line();
            done(
                "eval",
                &format!("stopped, with a journal; to go on: {command}"),
            );
            return Ok(None);
        };
        let report = &answered.report;
        let staged = StagedDir::create(&folder)?;
        // Texts of what is not open stay out unless asked for; what the model made of it is in the scores.
        let file = report.file(plan.reveal);
        write_atomic(&staged.path().join(REPORT_FILE), file.text().as_bytes())?;
        let table = file.table();
        write_atomic(&staged.path().join(TABLE_FILE), table.as_bytes())?;
        let made_access = AccessClass::strictest(made.values().map(|manifest| manifest.access));
        let access = answered.access.max(report.access()).max(made_access);
        let few_shot: Vec<&ShotReport> = asked.iter().filter_map(|a| a.shots.as_ref()).collect();
        let mut details = json!({"metrics": file.metrics, "few_shot": few_shot});
        if !endpoints.is_empty() {
            details["endpoints"] = endpoints.into();
        }
        if let Some((_, chose)) = chose_checkpoint(plan) {
            details["chose_checkpoint"] = json!(chose);
            let names = chose.join(", ");
            note(&format!(
                "eval   note: the checkpoint was chosen by items that {names} asks: expect less on new ones"
            ));
        }
        if let Some(judge) = judge {
            details["judge"] = judge;
        }
        if let Some(bert) = &bert {
            details["bert_score"] =
                json!({"signature": bert.signature(), "encoder_sha256": bert.embedder.sha256()});
        }
        let manifest = input.manifest(staged.path(), access, details)?;
        manifest.write(staged.path())?;
        clock.write(staged.path(), answered.measured)?;
        staged.commit()?;
        finish(journals, &self.run.folder(JOURNAL_FOLDER))?;
        done("eval", &format!("done, in {}", clock.shown()));
        Ok(Some((manifest, table)))
    }

    /// Asks every model every task; `None` where it was stopped before its end.
    fn ask_everyone(
        &mut self,
        section: &EvalSection,
        asked: &[Asked<'_>],
        mut bert: Option<&mut BertScorer<'_>>,
        journals: &mut Journals,
    ) -> Result<Option<Answered>> {
        let stop = Stop::listen()?;
        // A key that is missing is missed before the first model has worked for hours.
        let mut endpoints = Vec::new();
        for (i, wanted) in section.endpoint.iter().enumerate() {
            endpoints.push(self.endpoint(i, wanted, stop.flag())?);
        }
        let mut judge = self.judge(section, stop.flag())?;
        let mut report = Report::new(section.bootstrap());
        let chose = chose_checkpoint(self.plan);
        for planned in &self.plan.tasks {
            for task in &planned.tasks {
                let mut notes = notes(task, &planned.file);
                if let Some((by, tasks)) = &chose
                    && tasks.contains(&task.name.as_str())
                {
                    notes.chose_checkpoint = Some(by.clone());
                }
                report.describe(&task.name, notes);
            }
        }
        let mut access = self.base_access();
        let (mut secs, mut usage) = (BTreeMap::new(), BTreeMap::new());
        for (label, who) in self.models()? {
            let clock = Instant::now();
            let answered = match &who {
                Who::Local(model) => {
                    access = access.max(access_of_model(model));
                    let (report, bert) = (&mut report, bert.as_deref_mut());
                    self.ask_model(&label, model, asked, bert, report, journals, &stop)
                }
                Who::Endpoint(i) => {
                    let (wanted, endpoint) = (&section.endpoint[*i], &mut endpoints[*i]);
                    let report = &mut report;
                    let bert = bert.as_deref_mut();
                    let answered =
                        self.ask_endpoint(wanted, endpoint, asked, bert, report, journals, &stop);
                    usage.insert(label.clone(), usage_json(endpoint));
                    answered
                }
            };
            match answered {
                Err(error) if is_stop(&error) => return Ok(None),
                answered => answered?,
            }
            secs.insert(label, clock.elapsed().as_secs_f64());
        }
        let mut measured = json!({"secs_by_model": secs, "endpoints": usage});
        if let Some(judge) = &mut judge {
            let judged =
                self.judge_answers(section, judge, asked, &mut report, journals, stop.flag());
            match judged {
                Err(error) if is_stop(&error) => return Ok(None),
                judged => judged?,
            }
            measured["judge"] = usage_json(judge);
        }
        Ok(Some(Answered {
            report,
            access,
            measured,
        }))
    }

    /// The models in the order of the report: what it was like before, others beside, what the recipe made of it. A
    /// recipe that tunes nothing has only its base.
    pub(super) fn models(&self) -> Result<Vec<(String, Who)>> {
        let recipe = self.plan.recipe();
        let section = recipe.eval.clone().unwrap_or_default();
        let given = given_adapter(self.plan);
        let trains = recipe.train.is_some();
        let tunes = trains || given.is_some();
        let mut models = Vec::new();
        if self.plan.has_model() && (section.baseline || !tunes) {
            // Before tuning: the base, and the adapter that tuning goes on from.
            let base = Tuned {
                base: self.plan.base.clone(),
                adapter: given.filter(|_| trains),
            };
            models.push(("base".to_owned(), Who::Local(base)));
        }
        for (i, model) in section.model.iter().enumerate() {
            models.push((model.name.clone(), Who::Local(self.other(i))));
        }
        for (i, endpoint) in section.endpoint.iter().enumerate() {
            models.push((endpoint.name.clone(), Who::Endpoint(i)));
        }
        if self.plan.has_model() && tunes {
            models.push(("tuned".to_owned(), Who::Local(tuned(self.plan)?)));
        }
        Ok(models)
    }

    fn ask_model(
        &mut self,
        label: &str,
        model: &Tuned,
        asked: &[Asked<'_>],
        bert: Option<&mut BertScorer<'_>>,
        report: &mut Report,
        journals: &mut Journals,
        stop: &Stop,
    ) -> Result<()> {
        let identity = self.identity(model)?;
        let chat = asked.iter().any(|asked| asked.task.chat_template);
        let template = asked_by(self.plan.recipe());
        let mut model = load_as(self.plan, model, label, template, chat)?;
        let section = self.plan.recipe().eval.clone().unwrap_or_default();
        let held_out = match section.perplexity {
            true => self.held_out(&model)?,
            false => Vec::new(),
        };
        let session = Session {
            journals: Some(journals),
            identity,
            stop: stop.flag(),
        };
        let wanted = |asked: &&Asked<'_>| label != "tuned" || section.asks_tuned(asked.task.shots);
        let asked: Vec<&Asked<'_>> = asked.iter().filter(wanted).collect();
        self.ask(label, &mut model, &held_out, &asked, bert, report, session)
    }

    fn ask_endpoint(
        &self,
        section: &EndpointSection,
        endpoint: &mut Endpoint<'_>,
        asked: &[Asked<'_>],
        bert: Option<&mut BertScorer<'_>>,
        report: &mut Report,
        journals: &mut Journals,
        stop: &Stop,
    ) -> Result<()> {
        let wanted = |asked: &&Asked<'_>| section.asks(&asked.task.name);
        let asked: Vec<&Asked<'_>> = asked.iter().filter(wanted).collect();
        let session = Session {
            journals: Some(journals),
            identity: endpoint.identity().map_err(eval::Error::from)?,
            stop: stop.flag(),
        };
        self.ask(&section.name, endpoint, &[], &asked, bert, report, session)
    }

    fn ask(
        &self,
        label: &str,
        model: &mut dyn LanguageModel,
        held_out: &[Tokenized],
        asked: &[&Asked<'_>],
        mut bert: Option<&mut BertScorer<'_>>,
        report: &mut Report,
        mut session: Session<'_>,
    ) -> Result<()> {
        let section = self.plan.recipe().eval.clone().unwrap_or_default();
        let settings = |items| Settings {
            items,
            batch_items: section.batch_items,
            bootstrap: section.bootstrap(),
        };
        let bar = bar(0, label);
        let mut progress = shown_on(&bar);
        if !held_out.is_empty() {
            let result = resume_perplexity(
                "validation",
                held_out,
                model,
                &settings(None),
                &mut session,
                &mut progress,
            )?;
            report.add_perplexity(label, result);
        }
        let flagged = self.flagged()?;
        for asked in asked {
            let mut result = resume_task_with(
                asked.task,
                &asked.items,
                model,
                bert.as_deref_mut(),
                &settings(asked.limit),
                &mut session,
                &mut progress,
            )?;
            flagged.mark(&asked.task.family, &mut result);
            report.add_task(label, result);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The evaluation items that the run's data was found to hold.
    fn flagged(&self) -> Result<FlaggedItems> {
        let list = self.run.folder("data").join(datasets::DROPPED_FILE);
        match list.is_file() {
            true => Ok(FlaggedItems::read(&list)?),
            false => Ok(FlaggedItems::default()),
        }
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

/// Shows how far an evaluation is.
pub(super) fn shown_on(bar: &ProgressBar) -> impl FnMut(eval::Progress<'_>) {
    |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.task.to_owned());
    }
}

/// The names under which a report has a task's numbers: with those of a judge where one is asked, and those of embeddings
/// where there is an encoder.
pub(super) fn metric_names(task: &Task, section: &EvalSection) -> Vec<String> {
    let (judge, encoder) = (section.judge.is_some(), section.bert_score.is_some());
    let measured = |metric: &&MetricName| {
        (judge || !metric.is_judged()) && (encoder || metric.needs != Needs::Embeddings)
    };
    let own = task.metrics.iter().filter(measured);
    let of_judge = (judge && task.judge.is_some()).then_some("judge_failed");
    own.map(|metric| metric.name)
        .chain(["items", "unextracted", "unanswered"])
        .chain(of_judge)
        .map(|name| format!("{}.{name}", task.name))
        .collect()
}

/// Every task's items, with their shots, for a stage that says what became of those.
pub(super) fn asked<'p>(
    plan: &Plan,
    planned: &'p [PlannedTask],
    stage: &str,
) -> Result<Vec<Asked<'p>>> {
    let asked = items(plan, planned)?;
    for shots in asked.iter().filter_map(|asked| asked.shots.as_ref()) {
        if let Some(line) = shots.line() {
            note(&format!("{stage:<6} {line}"));
        }
    }
    Ok(asked)
}

/// Every task's items, with their shots.
pub(super) fn items<'p>(plan: &Plan, planned: &'p [PlannedTask]) -> Result<Vec<Asked<'p>>> {
    let section = plan.recipe().eval.as_ref();
    let seed = section.map_or(0, |section| section.seed);
    let mut tasks = planned.iter().flat_map(|planned| &planned.tasks);
    // How long a prompt an endpoint takes is known to nobody here.
    let room = match plan.has_model() && tasks.any(|task| task.shots > 0) {
        true => Some(Room::of(plan, planned)?),
        false => None,
    };
    let mut asked = Vec::new();
    for planned in planned {
        for task in &planned.tasks {
            let mut fits = |prompt: &eval::Prompt| {
                let room = room.as_ref();
                room.is_none_or(|room| room.fits(task, prompt))
            };
            let eval::Asked { items, shots } = task.asked(&plan.data_root, seed, &mut fits)?;
            asked.push(Asked {
                task,
                items,
                shots,
                limit: planned.limit,
            });
        }
    }
    Ok(asked)
}

/// What the report says of a task beside its scores.
fn notes(task: &Task, file: &Path) -> TaskNotes {
    let suite = file.parent().and_then(Path::file_name);
    let forgetting = suite.is_some_and(|suite| suite == FORGETTING);
    TaskNotes {
        tags: forgetting
            .then(|| FORGETTING.to_owned())
            .into_iter()
            .collect(),
        ..TaskNotes::of(task)
    }
}

/// Removes the journals whose answers are in the result, and says which are left.
fn finish(journals: Journals, folder: &Path) -> Result<()> {
    let others = journals.others().len();
    journals.finish()?;
    if others > 0 {
        note(&format!(
            "eval   {} has {others} more, of interrupted evaluations with other items, settings or models",
            folder.display()
        ));
    }
    Ok(())
}

fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(eval::Error::Stopped { .. }))
}

/// What an endpoint was sent and what that cost, which differs from run to run.
fn usage_json(endpoint: &Endpoint<'_>) -> Value {
    let usage = endpoint.usage();
    json!({
        "requests": usage.requests,
        "retries": usage.retries,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "models": usage.models,
    })
}
