//! Who judges the answers to tasks that have a `[judge]`: what it may be shown, and what the run records of it.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use eval::recipe::EvalSection;
use eval::{Endpoint, EndpointSection, Journals, Judge, JudgedBy, Report, Session, Task};
use ledger::AccessClass;
use ledger::recipe::{Document, nearest};
use serde_json::{Map, Value};

use super::Work;
use super::eval_input::access_of_model;
use super::evaluate::{Asked, Who, shown_on};
use crate::plan::PlannedTask;
use crate::recipe::{Recipe, problem};
use crate::terminal::bar;

/// Refuses, before anything runs, a judge that is not there, that has nothing to judge, or that must not be shown what
/// it would judge.
pub fn check(document: &Document<Recipe>, tasks: &[PlannedTask]) -> Result<()> {
    let recipe = &document.value;
    let Some(section) = &recipe.eval else {
        return Ok(());
    };
    let Some(judge) = &section.judge else {
        return Ok(());
    };
    let refused = |message: String, hint: &str| {
        let problem = problem(document, "eval.judge.endpoint", message, Some(hint));
        Err(ledger::Error::Recipe(vec![problem]).into())
    };
    let Some((_, endpoint)) = section.judge() else {
        let name = &judge.endpoint;
        let names: Vec<&str> = section.endpoint.iter().map(|e| e.name.as_str()).collect();
        let message =
            format!("`eval.judge.endpoint` is {name:?}, and no [[eval.endpoint]] is called so");
        return match nearest(name, &names) {
            Some(near) => refused(message, &format!("did you mean `{near}`?")),
            None => refused(message, "add one with that `name`, a `url` and a `model`"),
        };
    };
    let judged = judged_tasks(tasks);
    if judged.is_empty() {
        return refused(
            "[eval.judge] has nothing to judge: no task of `eval.tasks` has a [judge]".into(),
            "remove it, or ask a task that has one, such as `case-diagnosis`",
        );
    }
    for task in judged {
        let allowed = endpoint.permit(&task.name, task.source.access);
        allowed.map_err(eval::Error::from)?;
    }
    let allowed = endpoint.permit_answers("tuned", learned(recipe));
    Ok(allowed.map_err(eval::Error::from)?)
}

/// Those that have a `[judge]`.
pub fn judged_tasks(tasks: &[PlannedTask]) -> Vec<&Task> {
    let tasks = tasks.iter().flat_map(|planned| &planned.tasks);
    tasks.filter(|task| task.judge.is_some()).collect()
}

/// The terms of what a recipe trains on, which its model may repeat.
pub fn learned(recipe: &Recipe) -> AccessClass {
    let data = recipe.data.iter().filter(|_| recipe.train.is_some());
    let sources = data.flat_map(|data| data.sources());
    AccessClass::strictest(sources.map(|source| source.access))
}

impl Work<'_> {
    /// The judge, with its key. It is asked at temperature 0, however freely it answers tasks.
    pub(super) fn judge<'s>(
        &self,
        section: &EvalSection,
        stop: &'s AtomicBool,
    ) -> Result<Option<Endpoint<'s>>> {
        let Some((i, endpoint)) = section.judge() else {
            return Ok(None);
        };
        let endpoint = EndpointSection {
            temperature: 0.0,
            ..endpoint.clone()
        };
        self.endpoint(i, &endpoint, stop).map(Some)
    }

    /// Holds the judge against the terms of every item and every model whose answers it will see. What the manifest
    /// says of it.
    pub(super) fn judge_terms(
        &self,
        section: &EvalSection,
        asked: &[Asked<'_>],
    ) -> Result<Option<Value>> {
        let Some((_, endpoint)) = section.judge() else {
            return Ok(None);
        };
        let mut repeated = AccessClass::Open;
        for (label, who) in self.models()? {
            if let Who::Local(model) = who {
                let access = access_of_model(&model);
                let allowed = endpoint.permit_answers(&label, access);
                allowed.map_err(eval::Error::from)?;
                repeated = repeated.max(access);
            }
        }
        let judged = || asked.iter().filter(|asked| asked.task.judge.is_some());
        let shown = judged().map(|asked| (asked.task.name.as_str(), repeated.max(asked.access())));
        let mut facts = self.sent(endpoint, shown)?;
        let prompts = judged().filter_map(|asked| {
            let judge = asked.task.judge.as_ref()?;
            Some((asked.task.name.clone(), judge.prompt_sha256().into()))
        });
        facts["prompts_sha256"] = Value::Object(prompts.collect::<Map<_, _>>());
        Ok(Some(facts))
    }

    /// Lets the judge judge what all models have answered.
    pub(super) fn judge_answers(
        &self,
        section: &EvalSection,
        endpoint: &mut Endpoint<'_>,
        asked: &[Asked<'_>],
        report: &mut Report,
        journals: &mut Journals,
        stop: &AtomicBool,
    ) -> Result<()> {
        let Some((_, named)) = section.judge() else {
            return Ok(());
        };
        let by = JudgedBy {
            endpoint: named.name.clone(),
            model: named.model.clone(),
        };
        let mut session = Session {
            journals: Some(journals),
            identity: endpoint.identity().map_err(eval::Error::from)?,
            stop,
        };
        let bar = bar(0, "judge");
        for asked in asked {
            let mut judge = Judge {
                model: endpoint,
                by: by.clone(),
            };
            report.judge(asked.task, &mut judge, &mut session, &mut shown_on(&bar))?;
        }
        bar.finish_and_clear();
        Ok(())
    }
}
