//! Makes conversations of records by the recipe's own templates.

use std::collections::{BTreeSet, HashSet};

use minijinja::{Environment, UndefinedBehavior};

use crate::jinja;
use crate::recipe::TaskSection;
use crate::record::{Conversation, Document, Message, Record, Role, Sample};
use crate::{Error, Result};

/// A Jinja template over a record's fields. A field that the record does not
/// have is an error, never an empty text.
#[derive(Debug)]
pub struct RecordTemplate {
    env: Environment<'static>,
    name: &'static str,
}

impl RecordTemplate {
    /// Compiles `source`; `name` is the recipe's key, for errors.
    ///
    /// # Errors
    /// The template's syntax.
    pub fn new(name: &'static str, source: &str) -> Result<Self> {
        let mut env = Environment::new();
        // Which name is undefined is said only in debug mode, which is off in release builds.
        env.set_debug(true);
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        Ok(Self {
            env: jinja::compile(env, name, source)?,
            name,
        })
    }

    /// The names of the fields that it reads.
    pub fn fields(&self) -> HashSet<String> {
        let template = self.env.get_template(self.name);
        template.map_or_else(|_| HashSet::new(), |t| t.undeclared_variables(false))
    }

    /// Fills the template with the record's fields.
    ///
    /// # Errors
    /// A field that is not there, or a filter given the wrong kind of value;
    /// the error names the record.
    pub fn render(&self, record: &Record) -> Result<String> {
        let rendered = jinja::render(&self.env, self.name, jinja::object(&record.fields));
        rendered.map_err(|mut error| {
            if let Error::Template { available, .. } = &mut error {
                available.extend(record.fields.keys().cloned());
            }
            error.at(record.site())
        })
    }
}

/// A compiled `[source.task]`.
#[derive(Debug)]
pub struct Task(Maker);

#[derive(Debug)]
enum Maker {
    Conversation(Box<Turn>),
    Document(Box<RecordTemplate>),
}

/// One question with its answer.
#[derive(Debug)]
struct Turn {
    system: Option<RecordTemplate>,
    prompt: RecordTemplate,
    answer: RecordTemplate,
}

impl Task {
    /// Compiles a task's templates.
    ///
    /// # Errors
    /// A template's syntax, or a task that is neither a prompt with an answer
    /// nor a document.
    pub fn new(section: &TaskSection) -> Result<Self> {
        let given = (
            section.prompt.is_empty(),
            section.answer.is_empty(),
            &section.document,
        );
        let maker = match given {
            (true, true, Some(document)) if section.system.is_none() => {
                Maker::Document(Box::new(RecordTemplate::new("task.document", document)?))
            }
            (false, false, None) => Maker::Conversation(Box::new(Turn {
                system: section
                    .system
                    .as_deref()
                    .map(|source| RecordTemplate::new("task.system", source))
                    .transpose()?,
                prompt: RecordTemplate::new("task.prompt", &section.prompt)?,
                answer: RecordTemplate::new("task.answer", &section.answer)?,
            })),
            _ => return Err(Error::TaskTemplates),
        };
        Ok(Self(maker))
    }

    /// The names of the record's fields that the templates read, sorted.
    pub(crate) fn fields(&self) -> Vec<String> {
        let templates: Vec<&RecordTemplate> = match &self.0 {
            Maker::Document(document) => vec![&**document],
            Maker::Conversation(turn) => turn
                .system
                .iter()
                .chain([&turn.prompt, &turn.answer])
                .collect(),
        };
        let names: BTreeSet<String> = templates.into_iter().flat_map(|t| t.fields()).collect();
        names.into_iter().collect()
    }

    /// Makes a sample of a record.
    ///
    /// # Errors
    /// As [`RecordTemplate::render`].
    pub fn sample(&self, record: &Record) -> Result<Sample> {
        let (id, provenance) = (record.id.clone(), record.provenance.clone());
        match &self.0 {
            Maker::Document(document) => {
                let text = document.render(record)?;
                Ok(Sample::Document(Document {
                    id,
                    text,
                    provenance,
                }))
            }
            Maker::Conversation(_) => self.conversation(record).map(Sample::Conversation),
        }
    }

    /// Makes a conversation of a record.
    ///
    /// # Errors
    /// As [`RecordTemplate::render`]; [`Error::TaskTemplates`] for a task that
    /// makes documents.
    pub fn conversation(&self, record: &Record) -> Result<Conversation> {
        let Maker::Conversation(turn) = &self.0 else {
            return Err(Error::TaskTemplates);
        };
        let Turn {
            system,
            prompt,
            answer,
        } = turn.as_ref();
        let mut messages = Vec::with_capacity(3);
        if let Some(system) = system {
            messages.push(Message::new(Role::System, system.render(record)?));
        }
        messages.push(Message::new(Role::User, prompt.render(record)?));
        messages.push(Message::new(Role::Assistant, answer.render(record)?));
        Ok(Conversation {
            id: record.id.clone(),
            messages,
            provenance: record.provenance.clone(),
        })
    }
}
