//! From a task's source to the items that are asked.

use std::path::Path;

use datasets::recipe::{SourceSection, TaskSection};
use datasets::source::selected_records;
use datasets::task::RecordTemplate;
use datasets::{Conversation, Message, Record};
use ledger::AccessClass;
use serde_json::Value;

use super::{Answering, Options, Task};
use crate::error::{ItemProblem, OptionsProblem};
use crate::judge::Question;
use crate::metrics::{join_labels, labels_of};
use crate::{Error, Prompt, Result, statistics};

/// One question with its right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The record's id.
    pub id: String,
    /// What the model is shown.
    pub prompt: Prompt,
    /// What there is to choose from; empty where the answer is free text.
    pub options: Vec<String>,
    /// The right answer: one of the options, several joined by `; `, marked-up or free text.
    pub gold: String,
    /// Whose terms its text is under.
    pub access: AccessClass,
    /// What a judge is shown of it, for tasks that have one; see [`Task::judge`].
    pub case: Option<Box<Record>>,
}

impl Task {
    /// Reads the source and makes an item of every record that its `where` and `require` choose, in
    /// the order of its files. No shots stand before the questions: see [`Task::asked`].
    pub fn items(&self, data_root: &Path) -> Result<Vec<Item>> {
        let records = self.own_records(data_root)?;
        let maker = ItemMaker::new(self, &self.templates)?;
        self.own_items(&maker, &records)
    }

    /// The items of the task's own records, with what a judge is shown of them.
    pub(crate) fn own_items(&self, maker: &ItemMaker<'_>, records: &[Record]) -> Result<Vec<Item>> {
        let judge = self.judge.as_ref();
        let question = judge.map(|section| Question::new(&self.name, section));
        let question = question.transpose()?;
        let item = |record: &Record| {
            let mut item = maker.item(record)?;
            if let Some(question) = &question {
                item.case = Some(Box::new(question.case(record, &item.gold)?));
            }
            Ok(item)
        };
        records.iter().map(item).collect()
    }

    /// The records that are asked, one or more.
    pub(crate) fn own_records(&self, data_root: &Path) -> Result<Vec<Record>> {
        let records = self.records(&self.source, data_root)?;
        if records.is_empty() {
            return Err(Error::NoItems {
                task: self.name.clone(),
            });
        }
        Ok(records)
    }

    /// The records of the task's own source or of the one that its shots come from.
    pub(crate) fn records(&self, source: &SourceSection, data_root: &Path) -> Result<Vec<Record>> {
        // The source's own `limit` is part of the task, so no recipe's seed may move it.
        let selected = selected_records(source, data_root, 0).map_err(|e| self.data_error(e))?;
        Ok(selected.records)
    }

    pub(crate) fn data_error(&self, source: datasets::Error) -> Error {
        Error::Data {
            task: self.name.clone(),
            source: Box::new(source),
        }
    }

    pub(crate) fn prompt(&self, messages: Vec<Message>) -> Prompt {
        if self.chat_template {
            return Prompt::Chat(messages);
        }
        let texts: Vec<String> = messages
            .into_iter()
            .map(|message| message.content)
            .collect();
        Prompt::Text(texts.join("\n\n"))
    }

    /// The gold answer in the options' own words, and in their order where it names several.
    fn gold_option(&self, gold: &str, options: &[String]) -> Result<String, ItemProblem> {
        let missing = ItemProblem::GoldNotAnOption {
            options: options.len(),
        };
        if !self.many_labels() {
            return options
                .iter()
                .find(|o| o.trim() == gold.trim())
                .cloned()
                .ok_or(missing);
        }
        let named: Vec<&str> = labels_of(gold).collect();
        if named
            .iter()
            .any(|label| !options.iter().any(|option| option == label))
        {
            return Err(missing);
        }
        Ok(join_labels(
            options
                .iter()
                .map(String::as_str)
                .filter(|o| named.contains(o)),
        ))
    }
}

/// Those of a task's items that a limited evaluation asks, in their order: the same for a limit and a seed whoever asks.
pub fn asked_items(items: Vec<Item>, limit: Option<usize>, seed: u64) -> Vec<Item> {
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let chosen = statistics::sample(&ids, limit.unwrap_or(items.len()), seed);
    let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    let chosen = chosen.into_iter();
    chosen.filter_map(|index| items[index].take()).collect()
}

/// Why a record made no item.
enum Fault {
    Data(Box<datasets::Error>),
    Item(ItemProblem),
}

impl From<datasets::Error> for Fault {
    fn from(error: datasets::Error) -> Self {
        Fault::Data(Box::new(error))
    }
}

impl From<ItemProblem> for Fault {
    fn from(problem: ItemProblem) -> Self {
        Fault::Item(problem)
    }
}

impl From<OptionsProblem> for Fault {
    fn from(problem: OptionsProblem) -> Self {
        Fault::Item(problem.into())
    }
}

/// A task with its templates compiled.
pub(crate) struct ItemMaker<'t> {
    task: &'t Task,
    conversation: datasets::task::Task,
    templates: Vec<RecordTemplate>,
}

impl<'t> ItemMaker<'t> {
    /// For records that are asked by these templates: the task's own, or its shots'.
    pub(crate) fn new(task: &'t Task, asked_by: &TaskSection) -> Result<Self> {
        Self::compiled(task, asked_by).map_err(|error| task.data_error(error))
    }

    fn compiled(task: &'t Task, asked_by: &TaskSection) -> datasets::Result<Self> {
        let compile = |source: &String| RecordTemplate::new("options.templates", source);
        let templates = match &task.options {
            Some(Options::Templates(sources)) => sources
                .iter()
                .map(compile)
                .collect::<datasets::Result<_>>()?,
            _ => Vec::new(),
        };
        Ok(ItemMaker {
            task,
            conversation: datasets::task::Task::new(asked_by)?,
            templates,
        })
    }

    /// The item of a record.
    pub(crate) fn item(&self, record: &Record) -> Result<Item> {
        self.made(record).map_err(|fault| match fault {
            Fault::Data(source) => self.task.data_error(*source),
            Fault::Item(problem) => Error::InvalidItem {
                task: self.task.name.clone(),
                item: record.id.clone(),
                problem,
            },
        })
    }

    /// The messages before the answer, and the answer as the template writes it.
    pub(crate) fn solved(&self, record: &Record) -> Result<(Vec<Message>, String)> {
        let made = self.conversation.conversation(record);
        let mut messages = made.map_err(|error| self.task.data_error(error))?.messages;
        let answer = messages.pop().map(|message| message.content);
        Ok((messages, answer.unwrap_or_default()))
    }

    fn made(&self, record: &Record) -> Result<Item, Fault> {
        let Conversation {
            id,
            mut messages,
            provenance,
        } = self.conversation.conversation(record)?;
        // The conversation ends with what `answer` in [source.task] gives.
        let gold = messages
            .pop()
            .map(|message| message.content)
            .unwrap_or_default();
        let options = match (&self.task.options, &self.task.answering) {
            // Nothing to choose from, but the gold answer can be scored.
            (None, Answering::LogLikelihood { .. }) if gold.trim().is_empty() => {
                return Err(ItemProblem::EmptyGold.into());
            }
            (None, Answering::LogLikelihood { .. }) => vec![gold.clone()],
            _ => self.options(record)?,
        };
        let gold = match self.task.options {
            Some(_) => self.task.gold_option(&gold, &options)?,
            None => gold,
        };
        let prompt = self.task.prompt(messages);
        Ok(Item {
            id,
            prompt,
            options,
            gold,
            access: provenance.access,
            case: None,
        })
    }

    fn options(&self, record: &Record) -> Result<Vec<String>, Fault> {
        let options = match &self.task.options {
            None => return Ok(Vec::new()),
            Some(Options::Fixed(options)) => options.clone(),
            Some(Options::Templates(_)) => {
                let render = |template: &RecordTemplate| template.render(record);
                self.templates
                    .iter()
                    .map(render)
                    .collect::<datasets::Result<_>>()?
            }
            Some(Options::Field(field)) => {
                texts(inside(record, field)).ok_or_else(|| ItemProblem::OptionField {
                    field: field.clone(),
                })?
            }
        };
        check_options(&options)?;
        Ok(options)
    }
}

/// A field, or one inside of it by a dotted path.
fn inside<'r>(record: &'r Record, path: &str) -> Option<&'r Value> {
    if let Some(value) = record.fields.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let first = record.fields.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn texts(field: Option<&Value>) -> Option<Vec<String>> {
    field?
        .as_array()?
        .iter()
        .map(|text| text.as_str().map(String::from))
        .collect()
}

/// Whether these can be chosen from.
pub(crate) fn check_options(options: &[String]) -> Result<(), OptionsProblem> {
    if options.len() < 2 {
        return Err(OptionsProblem::TooFew {
            count: options.len(),
        });
    }
    for (index, option) in options.iter().enumerate() {
        if option.trim().is_empty() {
            return Err(OptionsProblem::Empty { option: index + 1 });
        }
        if options[..index].contains(option) {
            return Err(OptionsProblem::Repeated { option: index + 1 });
        }
    }
    Ok(())
}
