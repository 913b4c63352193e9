//! Asking the items of a task batch by batch, going on from what a journal has.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::filters::answer_in;
use crate::journal::{Answers, Exact, Header, Journal, Journals, Written};
use crate::run::{Progress, check_count, failed};
use crate::task::{Answering, Item, Normalisation, Task};
use crate::{
    Error, GenerateRequest, LanguageModel, OptionScore, Reply, Result, ScoreRequest, Unanswered,
};

/// How an evaluation is kept, and stopped.
pub struct Session<'a> {
    /// Where answers are kept until there is a result; nowhere if not given.
    pub journals: Option<&'a mut Journals>,
    /// What the model's answers depend on beside its name: hashes of weights, a URL. Answers of a
    /// model with another identity are not gone on from.
    pub identity: Value,
    /// Once it is set, no further batch is asked.
    pub stop: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Session<'_> {
    /// Keeps nothing and is not stopped.
    pub fn unkept() -> Self {
        Session {
            journals: None,
            identity: Value::Null,
            stop: &NEVER,
        }
    }

    /// Refuses to go on once it is stopped.
    pub(crate) fn go_on(&self, task: &str) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped {
                task: task.to_owned(),
            }),
            false => Ok(()),
        }
    }

    pub(crate) fn open(
        &mut self,
        batch_items: usize,
        header: impl FnOnce(&Value) -> Header,
    ) -> Result<Option<Journal>> {
        let Some(journals) = self.journals.as_deref_mut() else {
            return Ok(None);
        };
        let header = header(&self.identity);
        journals.open(&header, batch_items).map(Some)
    }
}

/// An answer before it is marked.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub text: String,
    pub extracted: Option<String>,
    pub option_scores: Vec<OptionScore>,
    pub unanswered: Option<Unanswered>,
}

/// Asks every item; the answers in their order.
pub(crate) fn ask(
    task: &Task,
    items: &[&Item],
    model: &mut dyn LanguageModel,
    batch_items: usize,
    session: &mut Session<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Answer>> {
    let name = model.name().to_owned();
    let settings = json!({"version": task.version, "answering": task.answering});
    let journal = session.open(batch_items, |identity| {
        Header::new(&task.name, &name, settings, identity, hashes(items))
    })?;
    let mut asking = Asking {
        task,
        items,
        model: name,
        answers: items.iter().map(|_| None).collect(),
        batch_items,
        journal: None,
    };
    if let Some(journal) = journal {
        asking.go_on_from(journal)?;
    }
    for batch in asking.batches(model.answers_singly()) {
        session.go_on(&task.name)?;
        asking.ask(&batch, model, session, progress)?;
        progress(asking.progress());
    }
    Ok(asking.answers.into_iter().flatten().collect())
}

/// The items by id and hash, as a journal has them.
fn hashes(items: &[&Item]) -> Value {
    let hash = |item: &&Item| {
        let options = json!(item.options).to_string();
        json!({
            "id": item.id,
            "prompt_sha256": item.prompt.sha256(),
            "options_sha256": ledger::hash::sha256_bytes(options.as_bytes()),
        })
    };
    items.iter().map(hash).collect()
}

/// A task that is being asked.
struct Asking<'a> {
    task: &'a Task,
    items: &'a [&'a Item],
    model: String,
    /// Those that are there so far.
    answers: Vec<Option<Answer>>,
    batch_items: usize,
    journal: Option<Journal>,
}

impl Asking<'_> {
    /// Takes over what the journal has, and its batches.
    fn go_on_from(&mut self, mut journal: Journal) -> Result<()> {
        self.batch_items = journal.batch_items;
        for (number, entry) in journal.entries::<Answers>()?.into_iter().enumerate() {
            let known = |index: &usize| *index < self.items.len();
            if entry.items.len() != entry.answers.len() || !entry.items.iter().all(known) {
                return Err(journal.damaged(number));
            }
            for (index, written) in entry.items.into_iter().zip(entry.answers) {
                self.keep(index, &written)?;
            }
        }
        self.journal = Some(journal);
        Ok(())
    }

    /// What is still to be asked. Batches are the same as if nothing had been asked before: a
    /// batch with a gap is asked as a whole.
    fn batches(&self, singly: bool) -> Vec<Vec<usize>> {
        let missing = |index: &usize| self.answers[*index].is_none();
        let all: Vec<usize> = (0..self.items.len()).collect();
        if singly {
            let all: Vec<usize> = all.into_iter().filter(missing).collect();
            return if all.is_empty() { vec![] } else { vec![all] };
        }
        let batches = all.chunks(self.batch_items).map(<[usize]>::to_vec);
        batches.filter(|batch| batch.iter().any(missing)).collect()
    }

    fn ask(
        &mut self,
        batch: &[usize],
        model: &mut dyn LanguageModel,
        session: &Session<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let (task, items) = (self.task, self.items);
        let singly = model.answers_singly();
        let (mut count, mut together, mut failure) = (0, Vec::new(), None);
        let mut given = |at: usize, written: Written| {
            count += 1;
            // More answers than questions are counted, and refused below.
            let Some(&index) = batch.get(at) else {
                return ControlFlow::Continue(());
            };
            let mut kept = self.keep(index, &written);
            if singly {
                kept = kept.and_then(|()| self.write(vec![index], vec![written]));
                progress(self.progress());
            } else {
                together.push(written);
            }
            match kept {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let (asked, what) = match &task.answering {
            Answering::LogLikelihood { before_option, .. } => {
                let request = |&index: &usize| score_request(items[index], before_option);
                let requests: Vec<_> = batch.iter().map(request).collect();
                let each = &mut |at, scores: Vec<OptionScore>| given(at, Written::from(&*scores));
                (model.score_each(&requests, each), "lists of scores")
            }
            Answering::Generate {
                max_new_tokens,
                stop,
                ..
            } => {
                let request = |&index: &usize| GenerateRequest {
                    id: items[index].id.clone(),
                    prompt: items[index].prompt.clone(),
                    max_new_tokens: *max_new_tokens,
                    stop: stop.clone(),
                };
                let requests: Vec<_> = batch.iter().map(request).collect();
                let each = &mut |at, reply| given(at, Written::Reply(reply));
                (model.generate_each(&requests, each), "answers")
            }
        };
        if let Some(error) = failure {
            return Err(error);
        }
        asked.map_err(|source| failed(&task.name, &self.model, source))?;
        if count < batch.len() {
            // A model that was told to stop leaves the rest out.
            session.go_on(&task.name)?;
        }
        check_count(task, &self.model, what, batch.len(), count)?;
        match singly {
            true => Ok(()),
            false => self.write(batch.to_vec(), together),
        }
    }

    fn write(&mut self, items: Vec<usize>, answers: Vec<Written>) -> Result<()> {
        match &mut self.journal {
            Some(journal) => journal.append(&Answers { items, answers }),
            None => Ok(()),
        }
    }

    /// Takes an answer to the item with this number.
    fn keep(&mut self, index: usize, written: &Written) -> Result<()> {
        let (task, item) = (self.task, self.items[index]);
        let answer = match (&task.answering, written) {
            (Answering::LogLikelihood { normalisation, .. }, Written::Scores(scores)) => {
                let (asked, given) = (item.options.len(), scores.len());
                check_count(task, &self.model, "option scores", asked, given)?;
                self.picked(item, *normalisation, scores)?
            }
            (
                Answering::Generate {
                    pattern, filter, ..
                },
                Written::Reply(Reply::Text(text)),
            ) => Answer {
                extracted: answer_in(text, &item.options, pattern.as_ref(), filter),
                text: text.clone(),
                ..Answer::default()
            },
            (_, Written::Reply(Reply::Unanswered(why))) => Answer {
                unanswered: Some(*why),
                ..Answer::default()
            },
            // A journal is of one way of answering.
            _ => return check_count(task, &self.model, "answers", 1, 0),
        };
        self.answers[index] = Some(answer);
        Ok(())
    }

    fn picked(
        &self,
        item: &Item,
        normalisation: Normalisation,
        scores: &[(Exact, usize, usize, bool)],
    ) -> Result<Answer> {
        let score = |(option, written): (&String, &(Exact, usize, usize, bool))| OptionScore {
            log_prob: written.0.0,
            tokens: written.1,
            // What stands before the option is the task's doing, not the option's length.
            bytes: option.len(),
            greedy: written.3,
        };
        let option_scores: Vec<_> = item.options.iter().zip(scores).map(score).collect();
        let picked = pick(&option_scores, normalisation).map_err(|option| Error::NotANumber {
            task: self.task.name.clone(),
            item: item.id.clone(),
            model: self.model.clone(),
            option: option + 1,
        })?;
        Ok(Answer {
            extracted: picked.map(|index| item.options[index].clone()),
            option_scores,
            ..Answer::default()
        })
    }

    fn progress(&self) -> Progress<'_> {
        Progress {
            task: &self.task.name,
            done: self.answers.iter().flatten().count(),
            total: self.items.len(),
        }
    }
}

fn score_request(item: &Item, before_option: &str) -> ScoreRequest {
    let options = item.options.iter();
    ScoreRequest {
        id: item.id.clone(),
        prompt: item.prompt.clone(),
        options: options.map(|o| format!("{before_option}{o}")).collect(),
    }
}

/// The option with the highest normalised log-probability, the first of equals; as error the
/// option whose score is no number.
fn pick(scores: &[OptionScore], normalisation: Normalisation) -> Result<Option<usize>, usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in scores.iter().enumerate() {
        let length = match normalisation {
            Normalisation::None => 1,
            Normalisation::Tokens => score.tokens.max(1),
            Normalisation::Bytes => score.bytes.max(1),
        };
        let value = score.log_prob / length as f64;
        if value.is_nan() {
            return Err(index);
        }
        if best.is_none_or(|(_, highest)| value > highest) {
            best = Some((index, value));
        }
    }
    Ok(best.map(|(index, _)| index))
}
