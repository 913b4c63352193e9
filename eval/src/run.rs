//! Asking a task and marking the answers.

use datasets::{Record, Tokenized};
use ledger::AccessClass;

use serde_json::json;

use crate::ask::{Answer, Session, ask};
use crate::journal::{Exact, Header, Losses};
use crate::judge::{Judged, Judgement};
use crate::metrics::bert_score::{BertScoreNote, BertScorer, BertScores};
use crate::metrics::{Answered, Marks, MetricName, Needs};
use crate::statistics::{self, Bootstrap, Interval};
use crate::task::{Answering, Item, Task};
use crate::{Error, LanguageModel, ModelError, OptionScore, Perplexity, Result, Unanswered};

/// How much is asked, and how sure one wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Most items to ask, chosen by the bootstrap's seed; all where not given.
    pub items: Option<usize>,
    /// How many items are given to the model at a time.
    pub batch_items: usize,
    /// How intervals are computed.
    pub bootstrap: Bootstrap,
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The task, or the name of the held-out split.
    pub task: &'a str,
    /// Items answered.
    pub done: usize,
    /// Items in all.
    pub total: usize,
}

/// A model's answers to a task, marked.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The task's name.
    pub task: String,
    /// The task's version.
    pub version: u32,
    /// How the model answered.
    pub answering: &'static str,
    /// The model's name.
    pub model: String,
    /// The strictest class among the items' sources.
    pub access: AccessClass,
    /// One score a metric, in the task's order; those of judged metrics once they are judged.
    pub scores: Vec<Score>,
    /// The task's metrics that were not computed, for want of an encoder.
    pub not_computed: Vec<MetricName>,
    /// How BERTScore was computed, where it was.
    pub bert_score: Option<BertScoreNote>,
    /// Answers that the filter could not extract; `None` where options were scored.
    pub unextracted: Option<usize>,
    /// Items that the model or its server would not answer; they count as not right.
    pub unanswered: usize,
    /// How it was judged, for tasks with a `[judge]`; see [`Report::judge`](crate::Report::judge).
    pub judgement: Option<Judgement>,
    /// The published set that the task asks; see [`PublishedSet::scores`](crate::PublishedSet::scores).
    pub published: Option<crate::PublishedSet>,
    /// Every item, in the order asked.
    pub items: Vec<ItemResult>,
}

/// One metric's score.
#[derive(Debug, Clone)]
pub struct Score {
    /// The metric.
    pub metric: MetricName,
    /// Its value over all items.
    pub value: f64,
    /// The value's 95 % interval.
    pub interval: Option<Interval>,
    /// What it was computed from.
    pub marks: Marks,
}

/// One item's answer. The texts are the record's or the model's and as confidential as the record.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemResult {
    /// The item's id.
    pub id: String,
    /// SHA-256 of the prompt.
    pub prompt_sha256: String,
    /// What there was to choose from.
    pub options: Vec<String>,
    /// The right answer.
    pub gold: String,
    /// What the model wrote; empty where options were scored.
    pub answer: String,
    /// The answer that was taken from it, or the option picked.
    pub extracted: Option<String>,
    /// The task's first metric on this item alone.
    pub score: f64,
    /// How likely each option was; empty where text was generated.
    pub option_scores: Vec<OptionScore>,
    /// Whose terms its text is under.
    pub access: AccessClass,
    /// Why there is no answer, where there is none.
    pub unanswered: Option<Unanswered>,
    /// Whether the training data was found to hold it; see
    /// [`FlaggedItems::mark`](crate::FlaggedItems::mark).
    pub flagged: bool,
    /// What a judge found of its candidates, best first, up to the first that is right.
    pub judged: Vec<Judged>,
    /// What a judge is shown of it.
    pub case: Option<Box<Record>>,
}

impl Score {
    pub(crate) fn new(metric: MetricName, marks: Marks, bootstrap: &Bootstrap) -> Self {
        Score {
            metric,
            value: marks.score(),
            interval: bootstrap.interval(&marks),
            marks,
        }
    }
}

/// Asks the items of a task in their order and marks the answers. `progress` is called after each
/// batch.
pub fn run_task(
    task: &Task,
    items: &[Item],
    model: &mut dyn LanguageModel,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TaskResult> {
    let session = &mut Session::unkept();
    resume_task_with(task, items, model, None, settings, session, progress)
}

/// As [`run_task`], with what `bert_score` is computed by. Without it the metrics that need it are
/// left out, and the result says which.
///
/// # Errors
/// Before anything is asked, where there is none and the first metric needs it.
pub fn run_task_with(
    task: &Task,
    items: &[Item],
    model: &mut dyn LanguageModel,
    bert: Option<&mut BertScorer<'_>>,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TaskResult> {
    let session = &mut Session::unkept();
    resume_task_with(task, items, model, bert, settings, session, progress)
}

/// As [`run_task`], going on from the answers that the session keeps.
///
/// # Errors
/// As [`run_task`]'s, and [`Error::Stopped`] where the session was stopped before the end.
pub fn resume_task(
    task: &Task,
    items: &[Item],
    model: &mut dyn LanguageModel,
    settings: &Settings,
    session: &mut Session<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TaskResult> {
    resume_task_with(task, items, model, None, settings, session, progress)
}

/// As [`resume_task`], with what `bert_score` is computed by.
///
/// # Errors
/// As [`resume_task`]'s and [`run_task_with`]'s.
pub fn resume_task_with(
    task: &Task,
    items: &[Item],
    model: &mut dyn LanguageModel,
    bert: Option<&mut BertScorer<'_>>,
    settings: &Settings,
    session: &mut Session<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TaskResult> {
    let needs = |metric: &&MetricName| metric.needs == Needs::Embeddings;
    let embedded: Vec<MetricName> = task.metrics.iter().filter(needs).copied().collect();
    if let (None, Some(metric)) = (&bert, task.metrics.first().filter(needs)) {
        return Err(Error::NoEmbedder {
            task: task.name.clone(),
            metric: metric.name,
        });
    }
    let asked = choose(items, settings);
    if asked.is_empty() {
        return Err(Error::NoItems {
            task: task.name.clone(),
        });
    }
    let batch_items = settings.batch_items.max(1);
    let answers = ask(task, &asked, model, batch_items, session, progress)?;
    let (not_computed, bert) = match bert {
        Some(bert) if !embedded.is_empty() => {
            let scores = bert_scores(task, &asked, &answers, bert)?;
            (Vec::new(), Some((bert.note(&scores), scores)))
        }
        Some(_) => (Vec::new(), None),
        None => (embedded, None),
    };
    let by = MarkedBy {
        not_computed,
        bert,
        bootstrap: &settings.bootstrap,
    };
    Ok(mark(task, &asked, answers, by, model.name()))
}

/// What answers are marked by, beside the task's metrics.
struct MarkedBy<'a> {
    not_computed: Vec<MetricName>,
    bert: Option<(BertScoreNote, BertScores)>,
    bootstrap: &'a Bootstrap,
}

fn choose<'i>(items: &'i [Item], settings: &Settings) -> Vec<&'i Item> {
    let count = settings.items.unwrap_or(items.len());
    // A file's first items can all have one answer (PubMedQA's split lists its labels one after
    // another), so a limit draws from all of it.
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let chosen = statistics::sample(&ids, count, settings.bootstrap.seed);
    chosen.into_iter().map(|index| &items[index]).collect()
}

/// Each item's BERTScore.
fn bert_scores(
    task: &Task,
    items: &[&Item],
    answers: &[Answer],
    bert: &mut BertScorer<'_>,
) -> Result<BertScores> {
    let pairs: Vec<(&str, Option<&str>)> = items
        .iter()
        .zip(answers)
        .map(|(item, answer)| (item.gold.as_str(), answer.extracted.as_deref()))
        .collect();
    bert.score(&pairs).map_err(|source| Error::Embedder {
        task: task.name.clone(),
        embedder: bert.embedder.name().to_owned(),
        source,
    })
}

fn mark(
    task: &Task,
    items: &[&Item],
    answers: Vec<Answer>,
    by: MarkedBy<'_>,
    model: &str,
) -> TaskResult {
    let bert_score = |index: usize| by.bert.as_ref().map(|(_, all)| all.scores[index]);
    let answered = || {
        let answers = items.iter().zip(&answers).enumerate();
        answers.map(|(index, (item, answer))| Answered {
            options: &item.options,
            gold: &item.gold,
            answer: answer.extracted.as_deref(),
            written: &answer.text,
            option_scores: &answer.option_scores,
            bert_score: bert_score(index),
            judged: &[],
        })
    };
    let scores: Vec<Score> = task
        .metrics
        .iter()
        .filter(|metric| !metric.is_judged() && !by.not_computed.contains(metric))
        .map(|metric| Score::new(*metric, Marks::new(metric, answered()), by.bootstrap))
        .collect();
    let unextracted = match task.answering {
        Answering::LogLikelihood { .. } => None,
        Answering::Generate { .. } => Some(
            answers
                .iter()
                .filter(|answer| answer.extracted.is_none() && answer.unanswered.is_none())
                .count(),
        ),
    };
    let unanswered = answers
        .iter()
        .filter(|answer| answer.unanswered.is_some())
        .count();
    let results = items
        .iter()
        .zip(answers)
        .enumerate()
        .map(|(index, (item, answer))| ItemResult {
            id: item.id.clone(),
            prompt_sha256: item.prompt.sha256(),
            options: item.options.clone(),
            gold: item.gold.clone(),
            answer: answer.text,
            extracted: answer.extracted,
            score: scores[0].marks.score_of([index].into_iter()),
            option_scores: answer.option_scores,
            access: item.access,
            unanswered: answer.unanswered,
            flagged: false,
            judged: Vec::new(),
            case: item.case.clone(),
        });
    TaskResult {
        task: task.name.clone(),
        version: task.version,
        answering: task.answering.name(),
        model: model.to_owned(),
        access: AccessClass::strictest(items.iter().map(|item| item.access)),
        not_computed: by.not_computed,
        bert_score: by.bert.map(|(note, _)| note),
        unextracted,
        unanswered,
        judgement: task.judge.as_ref().map(|section| Judgement {
            prompt_sha256: section.prompt_sha256(),
            by: None,
        }),
        published: task.published.clone(),
        items: results.collect(),
        scores,
    }
}

/// A model's perplexity on a set of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct PerplexityResult {
    /// What the set is called in reports.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// How many samples were read.
    pub samples: usize,
    /// The summed loss.
    pub total: Perplexity,
}

/// Measures perplexity, `batch_items` samples at a time.
pub fn run_perplexity(
    name: &str,
    samples: &[Tokenized],
    model: &mut dyn LanguageModel,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PerplexityResult> {
    let session = &mut Session::unkept();
    resume_perplexity(name, samples, model, settings, session, progress)
}

/// As [`run_perplexity`], going on from the sums that the session keeps.
///
/// # Errors
/// As [`run_perplexity`]'s, and [`Error::Stopped`] where the session was stopped before the end.
pub fn resume_perplexity(
    name: &str,
    samples: &[Tokenized],
    model: &mut dyn LanguageModel,
    settings: &Settings,
    session: &mut Session<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PerplexityResult> {
    if samples.is_empty() {
        return Err(Error::NoItems {
            task: name.to_owned(),
        });
    }
    let given = settings.batch_items.max(1);
    let mut journal = session.open(given, |identity| {
        Header::new(
            name,
            model.name(),
            json!("perplexity"),
            identity,
            sample_hashes(samples),
        )
    })?;
    let batch_items = journal
        .as_ref()
        .map_or(given, |journal| journal.batch_items);
    let mut kept = match &mut journal {
        Some(journal) => journal.entries::<Losses>()?.into_iter(),
        None => Vec::new().into_iter(),
    };
    let mut total = Perplexity {
        loss_sum: 0.0,
        tokens: 0,
    };
    let mut done = 0;
    for batch in samples.chunks(batch_items) {
        // Batches are summed in their order, so that the sum has the same bits.
        let part = match kept.next() {
            Some(losses) => losses,
            None => {
                session.go_on(name)?;
                let part = model
                    .perplexity(batch)
                    .map_err(|e| failed(name, model.name(), e))?;
                let losses = Losses {
                    loss_sum: Exact(part.loss_sum),
                    tokens: part.tokens,
                };
                if let Some(journal) = &mut journal {
                    journal.append(&losses)?;
                }
                losses
            }
        };
        total.loss_sum += part.loss_sum.0;
        total.tokens += part.tokens;
        done += batch.len();
        progress(Progress {
            task: name,
            done,
            total: samples.len(),
        });
    }
    Ok(PerplexityResult {
        name: name.to_owned(),
        model: model.name().to_owned(),
        samples: samples.len(),
        total,
    })
}

/// The samples by id and hash, as a journal has them.
fn sample_hashes(samples: &[Tokenized]) -> serde_json::Value {
    let hash = |sample: &Tokenized| {
        let text = json!([sample.input_ids, sample.loss_mask]).to_string();
        json!({"id": sample.id, "sha256": ledger::hash::sha256_bytes(text.as_bytes())})
    };
    samples.iter().map(hash).collect()
}

pub(crate) fn failed(task: &str, model: &str, source: ModelError) -> Error {
    Error::Model {
        task: task.to_owned(),
        model: model.to_owned(),
        source,
    }
}

pub(crate) fn check_count(
    task: &Task,
    model: &str,
    what: &'static str,
    asked: usize,
    given: usize,
) -> Result<()> {
    if asked == given {
        return Ok(());
    }
    let (task, model) = (task.name.clone(), model.to_owned());
    Err(Error::AnswerCount {
        task,
        model,
        what,
        asked,
        given,
    })
}
