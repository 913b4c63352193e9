//! One record on its way to a sample: chosen, cleaned, rendered. The same
//! function for both passes of a build, so that they cannot differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::scan::Fate;
use crate::clean::phi::{self, PhiClass, Scanner};
use crate::clean::{Changes, Normaliser};
use crate::formats::Format;
use crate::recipe::{CleanSection, OnBadRecord, PhiPolicy, SourceSection};
use crate::record::{Record, Sample};
use crate::source::is_empty;
use crate::task::{RecordTemplate, Task};
use crate::{Error, Result};
use ledger::AccessClass;

/// A source's settings, compiled.
pub(super) struct Preparer<'a> {
    source: &'a SourceSection,
    format: &'static Format,
    task: Option<Task>,
    condition: Option<RecordTemplate>,
    split_group: Option<RecordTemplate>,
    normaliser: Normaliser,
    phi: PhiPolicy,
    scanner: Option<Scanner>,
    /// The fields that the task's templates read; `None`: the messages.
    text_fields: Option<Vec<String>>,
}

/// What became of a record.
pub(super) enum Prepared {
    /// It is not used, for this reason.
    Left(Fate),
    /// It is a sample.
    Ready(Box<Ready>),
}

/// A record as a sample.
pub(super) struct Ready {
    pub sample: Sample,
    /// What duplicates and contamination are judged by: the values of the
    /// fields that its templates read, without the templates' own words, before
    /// anything is redacted.
    pub text: String,
    /// What must stay on one side of the split; `None`: the record.
    pub group: Option<String>,
    /// What was found that may identify a patient.
    pub phi: BTreeMap<PhiClass, u64>,
    pub changes: Changes,
}

impl<'a> Preparer<'a> {
    pub(super) fn new(source: &'a SourceSection, clean: &CleanSection) -> Result<Self> {
        let format = source.format.0;
        let task = source.task.as_ref().map(Task::new).transpose()?;
        if task.is_none() && format.sample.is_none() {
            return Err(Error::NeedsTask {
                source_name: source.name.clone(),
                format: format.name,
            });
        }
        let condition = source.condition.as_deref();
        let condition = condition.map(crate::source::condition);
        let split_group = source.split_group.as_deref();
        let split_group = split_group.map(|text| RecordTemplate::new("split_group", text));
        let phi = phi_policy(source);
        Ok(Self {
            source,
            format,
            text_fields: task.as_ref().map(Task::fields),
            task,
            condition: condition.transpose()?,
            split_group: split_group.transpose()?,
            normaliser: Normaliser::new(clean.normalise, source.html, source.marks),
            phi,
            scanner: (phi != PhiPolicy::Allow).then(Scanner::new),
        })
    }

    /// The policy for what may identify a patient.
    pub(super) fn phi(&self) -> PhiPolicy {
        self.phi
    }

    pub(super) fn prepare(&self, mut record: Record) -> Result<Prepared> {
        if let Some(condition) = &self.condition
            && condition.render(&record)?.is_empty()
        {
            return Ok(Prepared::Left(Fate::NotSelected));
        }
        let missing = |name: &String| is_empty(record.fields.get(name));
        if let Some(field) = self.source.require.iter().position(missing) {
            return Ok(Prepared::Left(Fate::Without(field as u32)));
        }
        let mut changes = Changes::default();
        for_each_text(&mut record.fields, &mut |text| {
            let (clean, changed) = self.normaliser.apply(text);
            changes |= changed;
            match clean {
                std::borrow::Cow::Borrowed(_) => None,
                std::borrow::Cow::Owned(clean) => Some(clean),
            }
        });
        let group = match &self.split_group {
            Some(template) => Some(template.render(&record)?),
            None => None,
        };
        let text = self.fields_text(&record);
        let phi = self.search(&mut record.fields);
        let mut sample = match (&self.task, self.format.sample) {
            (Some(task), _) => task.sample(&record)?,
            (None, Some(sample)) => match sample(&record) {
                Err(Error::Field { .. } | Error::Role { .. })
                    if self.source.on_bad_record == OnBadRecord::Drop =>
                {
                    return Ok(Prepared::Left(Fate::Unfit));
                }
                made => made?,
            },
            (None, None) => unreachable!("checked in new"),
        };
        match check(&sample) {
            Err(Error::EmptyAnswer { .. } | Error::NoTarget { .. })
                if self.source.on_bad_record == OnBadRecord::Drop =>
            {
                return Ok(Prepared::Left(Fate::Empty));
            }
            checked => checked?,
        }
        sample.provenance_mut().transforms = transforms(changes, self.phi, &phi);
        let text = text.unwrap_or_else(|| messages_text(&sample));
        Ok(Prepared::Ready(Box::new(Ready {
            sample,
            text,
            group,
            phi,
            changes,
        })))
    }

    fn fields_text(&self, record: &Record) -> Option<String> {
        let names = self.text_fields.as_ref()?;
        let mut text = String::new();
        for (_, value) in record
            .fields
            .iter()
            .filter(|(name, _)| names.contains(name))
        {
            append_text(value, &mut text);
        }
        Some(text)
    }

    /// Counts what may identify a patient in the fields that the sample is made
    /// of, and writes surrogates over it if the policy is to.
    fn search(&self, fields: &mut Map<String, Value>) -> BTreeMap<PhiClass, u64> {
        let mut counts = BTreeMap::new();
        let Some(scanner) = &self.scanner else {
            return counts;
        };
        let names = self.text_fields.as_deref();
        for (name, value) in fields.iter_mut() {
            if names.is_some_and(|names| !names.contains(name)) {
                continue;
            }
            for_each_text_of(value, &mut |text| {
                let findings = scanner.scan(text);
                for finding in &findings {
                    *counts.entry(finding.class).or_insert(0) += 1;
                }
                let redact = self.phi == PhiPolicy::Redact && !findings.is_empty();
                redact.then(|| phi::redact(text, &findings))
            });
        }
        counts
    }
}

/// What a source's text is searched for: credentialed text is, unless its
/// recipe says otherwise.
pub(super) fn phi_policy(source: &SourceSection) -> PhiPolicy {
    source.phi.unwrap_or(match source.access {
        AccessClass::Credentialed => PhiPolicy::Block,
        _ => PhiPolicy::Allow,
    })
}

fn check(sample: &Sample) -> Result<()> {
    match sample {
        Sample::Conversation(conversation) => conversation.check(),
        Sample::Document(document) if document.text.trim().is_empty() => Err(Error::NoTarget {
            at: document.site(),
        }),
        Sample::Document(_) => Ok(()),
    }
}

fn transforms(changes: Changes, policy: PhiPolicy, phi: &BTreeMap<PhiClass, u64>) -> Vec<String> {
    let mut names: Vec<String> = changes.names().map(str::to_owned).collect();
    if policy == PhiPolicy::Redact {
        let redacted = phi
            .iter()
            .map(|(class, n)| format!("redacted {} x{n}", class.name()));
        names.extend(redacted);
    }
    names
}

/// Gives every text in the fields to `change`, which says what to write instead.
fn for_each_text(fields: &mut Map<String, Value>, change: &mut dyn FnMut(&str) -> Option<String>) {
    for (_, value) in fields.iter_mut() {
        for_each_text_of(value, change);
    }
}

fn for_each_text_of(value: &mut Value, change: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(changed) = change(text) {
                *text = changed;
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| for_each_text_of(item, change)),
        Value::Object(fields) => for_each_text(fields, change),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn append_text(value: &Value, text: &mut String) {
    match value {
        Value::String(part) => {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(part);
        }
        Value::Array(items) => items.iter().for_each(|item| append_text(item, text)),
        Value::Object(fields) => fields.values().for_each(|field| append_text(field, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn messages_text(sample: &Sample) -> String {
    match sample {
        Sample::Document(document) => document.text.clone(),
        Sample::Conversation(conversation) => {
            let contents = conversation.messages.iter().map(|m| m.content.as_str());
            contents.collect::<Vec<_>>().join("\n")
        }
    }
}
