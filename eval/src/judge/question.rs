//! What a judge is asked about one candidate, and how its answer is read.

use datasets::task::RecordTemplate;
use datasets::{Message, Record, Role};
use serde_json::Value;

use super::{JudgeSection, Verdict};
use crate::filters::{Pattern, answer_in};
use crate::{Error, Prompt, Reply, Result};

/// A task's `[judge]` with its templates compiled.
pub(crate) struct Question<'t> {
    section: &'t JudgeSection,
    task: &'t str,
    prompt: RecordTemplate,
    system: Option<RecordTemplate>,
    pattern: Option<Pattern>,
}

impl<'t> Question<'t> {
    /// # Errors
    /// The syntax of a template or of the pattern.
    pub(crate) fn new(task: &'t str, section: &'t JudgeSection) -> Result<Self> {
        let pattern = section.compiled_pattern();
        let pattern = pattern.map_err(|problem| Error::InvalidTask {
            task: task.to_owned(),
            problem,
        })?;
        let compiled = || -> datasets::Result<_> {
            let system = section.system.as_deref();
            let system = system.map(|source| RecordTemplate::new("judge.system", source));
            let prompt = RecordTemplate::new("judge.prompt", &section.prompt)?;
            Ok((prompt, system.transpose()?))
        };
        let (prompt, system) = compiled().map_err(|source| failed(task, source))?;
        Ok(Question {
            section,
            task,
            prompt,
            system,
            pattern,
        })
    }

    /// Whether the prompt uses a name.
    pub(crate) fn reads(&self, name: &str) -> bool {
        self.prompt.fields().contains(name)
    }

    /// What the question is filled with beside the candidate: the record, without the fields that
    /// no template reads.
    ///
    /// # Errors
    /// A field that a template reads and the record does not have.
    pub(crate) fn case(&self, record: &Record, gold: &str) -> Result<Record> {
        let mut case = record.clone();
        case.fields.insert("gold".into(), gold.into());
        // Before a model has worked for hours.
        self.about(&case, gold)?;
        let templates = || std::iter::once(&self.prompt).chain(&self.system);
        let read = |name: &String| templates().any(|template| template.fields().contains(name));
        case.fields.retain(|name, _| read(name));
        Ok(case)
    }

    /// The question about a candidate.
    ///
    /// # Errors
    /// As [`Question::case`]'s.
    pub(crate) fn about(&self, case: &Record, candidate: &str) -> Result<Prompt> {
        let mut case = case.clone();
        case.fields
            .insert("candidate".into(), Value::from(candidate));
        let rendered = |template: &RecordTemplate| {
            let rendered = template.render(&case);
            rendered.map_err(|source| failed(self.task, source))
        };
        let mut messages = Vec::with_capacity(2);
        if let Some(system) = &self.system {
            messages.push(Message::new(Role::System, rendered(system)?));
        }
        messages.push(Message::new(Role::User, rendered(&self.prompt)?));
        Ok(Prompt::Chat(messages))
    }

    /// What the judge's answer says of the candidate.
    pub(super) fn verdict(&self, reply: &Reply) -> Verdict {
        let text = match reply {
            Reply::Text(text) => text,
            Reply::Unanswered(why) => return Verdict::Unanswered(*why),
        };
        let JudgeSection {
            verdicts, filter, ..
        } = self.section;
        let found = answer_in(text, verdicts, self.pattern.as_ref(), filter);
        match found.and_then(|found| verdicts.iter().position(|verdict| *verdict == found)) {
            Some(0) => Verdict::Right,
            Some(_) => Verdict::Wrong,
            None => Verdict::Unreadable,
        }
    }
}

fn failed(task: &str, source: datasets::Error) -> Error {
    Error::Data {
        task: task.to_owned(),
        source: Box::new(source),
    }
}
