//! What a judge was asked and answered, by the hash of what it was asked: nothing is asked twice,
//! whoever wrote the candidate and however often the evaluation was begun.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::JudgeSection;
use crate::ask::Session;
use crate::journal::{Header, Journal};
use crate::run::{Progress, check_count, failed};
use crate::task::Task;
use crate::{Error, GenerateRequest, LanguageModel, Prompt, Reply, Result};

/// A line of a judge's journal.
#[derive(Serialize, Deserialize)]
struct Line {
    prompt_sha256: String,
    reply: Reply,
}

/// A judge's answers about one task.
pub(super) struct Replies<'t> {
    task: &'t Task,
    max_new_tokens: usize,
    said: BTreeMap<String, Reply>,
    journal: Option<Journal>,
}

impl<'t> Replies<'t> {
    /// Goes on from the answers that the session keeps. They are kept by what was asked, so that
    /// they stand when the models that are judged, or their items, change.
    pub fn open(
        task: &'t Task,
        section: &JudgeSection,
        judge: &str,
        session: &mut Session<'_>,
    ) -> Result<Self> {
        let max_new_tokens = section.max_new_tokens;
        let settings = json!({"judge": {"max_new_tokens": max_new_tokens}});
        let mut journal = session.open(1, |identity| {
            Header::new(&task.name, judge, settings, identity, json!([]))
        })?;
        let mut said = BTreeMap::new();
        if let Some(journal) = &mut journal {
            let lines = journal.entries::<Line>()?.into_iter();
            said.extend(lines.map(|line| (line.prompt_sha256, line.reply)));
        }
        Ok(Replies {
            task,
            max_new_tokens,
            said,
            journal,
        })
    }

    /// The answer to a prompt that was asked.
    pub fn to(&self, prompt_sha256: &str) -> Option<&Reply> {
        self.said.get(prompt_sha256)
    }

    /// Asks what has not been asked yet, each with its item's id.
    pub fn ask<'p>(
        &mut self,
        prompts: impl Iterator<Item = (&'p str, &'p Prompt)>,
        judge: &mut dyn LanguageModel,
        session: &Session<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let mut hashes: Vec<String> = Vec::new();
        let mut requests = Vec::new();
        let mut known: BTreeSet<String> = self.said.keys().cloned().collect();
        for (id, prompt) in prompts {
            let hash = prompt.sha256();
            if !known.insert(hash.clone()) {
                continue;
            }
            hashes.push(hash);
            requests.push(GenerateRequest {
                id: id.to_owned(),
                prompt: prompt.clone(),
                max_new_tokens: self.max_new_tokens,
                stop: Vec::new(),
            });
        }
        if requests.is_empty() {
            return Ok(());
        }
        session.go_on(&self.task.name)?;
        let name = judge.name().to_owned();
        let (mut count, mut failure) = (0, None);
        let total = requests.len();
        let asked = judge.generate_each(&requests, &mut |at, reply| {
            count += 1;
            // More answers than questions are counted, and refused below.
            let Some(hash) = hashes.get(at) else {
                return ControlFlow::Continue(());
            };
            progress(Progress {
                task: &self.task.name,
                done: count,
                total,
            });
            match self.keep(hash.clone(), reply) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        asked.map_err(|source| failed(&self.task.name, &name, source))?;
        if count < total {
            // A judge that was told to stop leaves the rest out.
            session.go_on(&self.task.name)?;
        }
        check_count(self.task, &name, "verdicts", total, count)
    }

    fn keep(&mut self, prompt_sha256: String, reply: Reply) -> Result<(), Error> {
        let line = Line {
            prompt_sha256,
            reply,
        };
        if let Some(journal) = &mut self.journal {
            journal.append(&line)?;
        }
        self.said.insert(line.prompt_sha256, line.reply);
        Ok(())
    }
}
