//! What a recipe sends to other machines: whose items go to which host, under which terms.

use eval::EndpointSection;
use ledger::AccessClass;
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::stages::judging::{judged_tasks, learned};

/// An endpoint and what it is sent.
pub struct Sent<'a> {
    endpoint: &'a EndpointSection,
    tasks: Vec<Task<'a>>,
}

/// A task's items on their way to an endpoint.
struct Task<'a> {
    name: &'a str,
    /// `answers`, or `judges` what the models answered.
    does: &'static str,
    /// The strictest terms of what is sent.
    access: AccessClass,
    /// How many items; all where not given.
    limit: Option<usize>,
}

/// Every endpoint of a recipe's `[eval]`.
pub fn of(plan: &Plan) -> Vec<Sent<'_>> {
    let recipe = plan.recipe();
    let Some(section) = &recipe.eval else {
        return Vec::new();
    };
    let tasks = || {
        let each = plan.tasks.iter();
        each.flat_map(|planned| planned.tasks.iter().map(|task| (task, planned.limit)))
    };
    let judge = section.judge().map(|(i, _)| i);
    let judged = judged_tasks(&plan.tasks);
    let is_judged = |name: &str| judged.iter().any(|task| task.name == name);
    let sent = |(i, endpoint): (usize, &'_ EndpointSection)| {
        let answers = tasks().filter(|(task, _)| endpoint.asks(&task.name));
        let answers = answers.map(|(task, limit)| Task {
            name: &task.name,
            does: "answers",
            access: task.source.access,
            limit,
        });
        let judges = tasks().filter(|(task, _)| judge == Some(i) && is_judged(&task.name));
        let judges = judges.map(|(task, limit)| Task {
            name: &task.name,
            does: "judges",
            // A model may repeat what it was trained on.
            access: task.source.access.max(learned(recipe)),
            limit,
        });
        answers.chain(judges).collect()
    };
    let endpoints = section.endpoint.iter().enumerate();
    let endpoints = endpoints.map(|(i, endpoint)| Sent {
        endpoint,
        tasks: sent((i, endpoint)),
    });
    endpoints.collect()
}

impl Sent<'_> {
    /// For programs.
    pub fn json(&self) -> Value {
        let endpoint = self.endpoint;
        let tasks = self.tasks.iter().map(|task| {
            json!({"task": task.name, "does": task.does, "access": task.access, "items": task.limit})
        });
        json!({
            "name": endpoint.name,
            "host": endpoint.host().ok(),
            "this_machine": endpoint.is_local().ok(),
            "model": endpoint.model,
            "api_key_env": endpoint.api_key_env,
            "agreement": endpoint.agreement,
            "tasks": tasks.collect::<Vec<_>>(),
        })
    }

    /// For people; every line begins with `start`.
    pub fn shown(&self, start: &str) -> String {
        let endpoint = self.endpoint;
        let host = endpoint.host().unwrap_or_default();
        let place = match endpoint.is_local() {
            Ok(true) => ", this machine",
            _ => "",
        };
        let (name, model) = (&endpoint.name, &endpoint.model);
        let mut text = format!("{start}{name} at {host}{place}: {model}");
        if let Some(variable) = &endpoint.api_key_env {
            text.push_str(&format!(", key from {variable}"));
        }
        if let Some(agreement) = &endpoint.agreement {
            text.push_str(&format!(", agreement {agreement:?}"));
        }
        text.push('\n');
        for task in &self.tasks {
            let items = items(task.limit);
            text.push_str(&format!(
                "{start}  {:<7}  {} ({}), {items}\n",
                task.does, task.name, task.access
            ));
        }
        if self.tasks.is_empty() {
            text.push_str(&format!("{start}  is asked nothing\n"));
        }
        text
    }
}

/// How many items are asked, in words.
pub fn items(limit: Option<usize>) -> String {
    limit.map_or("all items".to_owned(), |limit| format!("{limit} items"))
}
