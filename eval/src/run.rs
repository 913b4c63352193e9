//! Asking a task and marking the answers.

use datasets::Tokenized;
use ledger::AccessClass;

use crate::filters::answer_in;
use crate::metrics::bert_score::BertScorer;
use crate::metrics::{Answered, Marks, MetricName, Needs};
use crate::statistics::{self, Bootstrap, Interval};
use crate::task::{Answering, Item, Normalisation, Task};
use crate::{
    Error, GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Result,
    ScoreRequest,
};

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
    /// One score a metric, in the task's order.
    pub scores: Vec<Score>,
    /// Answers that the filter could not extract; `None` where options were scored.
    pub unextracted: Option<usize>,
    /// The scores without the items that the training data was found to hold, where some are
    /// among these; see [`FlaggedItems::clean`](crate::FlaggedItems::clean).
    pub clean: Option<crate::CleanScores>,
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
}

/// An answer before it is marked.
#[derive(Default)]
struct Answer {
    text: String,
    extracted: Option<String>,
    option_scores: Vec<OptionScore>,
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
    run_task_with(task, items, model, None, settings, progress)
}

/// As [`run_task`], with what `bert_score` is computed by.
///
/// # Errors
/// Before anything is asked, where a metric needs the encoder and there is none.
pub fn run_task_with(
    task: &Task,
    items: &[Item],
    model: &mut dyn LanguageModel,
    bert: Option<&mut BertScorer<'_>>,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<TaskResult> {
    let embedded = task.metrics.iter().find(|m| m.needs == Needs::Embeddings);
    if let (Some(metric), None) = (embedded, &bert) {
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
    let mut answers = Vec::with_capacity(asked.len());
    for batch in asked.chunks(settings.batch_items.max(1)) {
        answers.extend(answer(task, batch, model)?);
        progress(Progress {
            task: &task.name,
            done: answers.len(),
            total: asked.len(),
        });
    }
    let bert_scores = match (embedded, bert) {
        (Some(_), Some(bert)) => bert_scores(task, &asked, &answers, bert)?,
        _ => vec![None; asked.len()],
    };
    Ok(mark(
        task,
        &asked,
        answers,
        &bert_scores,
        model.name(),
        &settings.bootstrap,
    ))
}

fn choose<'i>(items: &'i [Item], settings: &Settings) -> Vec<&'i Item> {
    let count = settings.items.unwrap_or(items.len());
    // A file's first items can all have one answer (PubMedQA's split lists its labels one after
    // another), so a limit draws from all of it.
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let chosen = statistics::sample(&ids, count, settings.bootstrap.seed);
    chosen.into_iter().map(|index| &items[index]).collect()
}

fn answer(task: &Task, items: &[&Item], model: &mut dyn LanguageModel) -> Result<Vec<Answer>> {
    match &task.answering {
        Answering::LogLikelihood {
            normalisation,
            before_option,
        } => score(task, *normalisation, before_option, items, model),
        Answering::Generate {
            max_new_tokens,
            stop,
            pattern,
            filter,
        } => {
            let requests: Vec<GenerateRequest> = items
                .iter()
                .map(|item| GenerateRequest {
                    id: item.id.clone(),
                    prompt: item.prompt.clone(),
                    max_new_tokens: *max_new_tokens,
                    stop: stop.clone(),
                })
                .collect();
            let texts = model
                .generate(&requests)
                .map_err(|e| failed(&task.name, model.name(), e))?;
            check_count(task, model, "answers", items.len(), texts.len())?;
            let answers = items.iter().zip(texts).map(|(item, text)| Answer {
                extracted: answer_in(&text, &item.options, pattern.as_ref(), filter),
                text,
                ..Answer::default()
            });
            Ok(answers.collect())
        }
    }
}

fn score(
    task: &Task,
    normalisation: Normalisation,
    before_option: &str,
    items: &[&Item],
    model: &mut dyn LanguageModel,
) -> Result<Vec<Answer>> {
    let requests: Vec<ScoreRequest> = items
        .iter()
        .map(|item| ScoreRequest {
            id: item.id.clone(),
            prompt: item.prompt.clone(),
            options: item
                .options
                .iter()
                .map(|o| format!("{before_option}{o}"))
                .collect(),
        })
        .collect();
    let scores = model
        .score(&requests)
        .map_err(|e| failed(&task.name, model.name(), e))?;
    check_count(task, model, "lists of scores", items.len(), scores.len())?;
    let mut answers = Vec::with_capacity(items.len());
    for (item, mut option_scores) in items.iter().zip(scores) {
        check_count(
            task,
            model,
            "option scores",
            item.options.len(),
            option_scores.len(),
        )?;
        for (option, score) in item.options.iter().zip(&mut option_scores) {
            // What stands before the option is the task's doing, not the option's length.
            score.bytes = option.len();
        }
        let picked = pick(&option_scores, normalisation).map_err(|option| Error::NotANumber {
            task: task.name.clone(),
            item: item.id.clone(),
            model: model.name().to_owned(),
            option: option + 1,
        })?;
        let extracted = picked.map(|index| item.options[index].clone());
        answers.push(Answer {
            extracted,
            option_scores,
            ..Answer::default()
        });
    }
    Ok(answers)
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

/// Each item's BERTScore F1.
fn bert_scores(
    task: &Task,
    items: &[&Item],
    answers: &[Answer],
    bert: &mut BertScorer<'_>,
) -> Result<Vec<Option<f64>>> {
    let pairs: Vec<(&str, Option<&str>)> = items
        .iter()
        .zip(answers)
        .map(|(item, answer)| (item.gold.as_str(), answer.extracted.as_deref()))
        .collect();
    let scores = bert.score(&pairs).map_err(|source| Error::Embedder {
        task: task.name.clone(),
        embedder: bert.embedder.name().to_owned(),
        source,
    })?;
    Ok(scores.into_iter().map(|score| Some(score.f1)).collect())
}

fn mark(
    task: &Task,
    items: &[&Item],
    answers: Vec<Answer>,
    bert_scores: &[Option<f64>],
    model: &str,
    bootstrap: &Bootstrap,
) -> TaskResult {
    let answered = || {
        let answers = answers.iter().zip(bert_scores);
        items
            .iter()
            .zip(answers)
            .map(|(item, (answer, bert_score))| Answered {
                options: &item.options,
                gold: &item.gold,
                answer: answer.extracted.as_deref(),
                written: &answer.text,
                option_scores: &answer.option_scores,
                bert_score: *bert_score,
            })
    };
    let scores: Vec<Score> = task
        .metrics
        .iter()
        .map(|metric| {
            let marks = Marks::new(metric, answered());
            Score {
                metric: *metric,
                value: marks.score(),
                interval: bootstrap.interval(&marks),
                marks,
            }
        })
        .collect();
    let unextracted = match task.answering {
        Answering::LogLikelihood { .. } => None,
        Answering::Generate { .. } => Some(
            answers
                .iter()
                .filter(|answer| answer.extracted.is_none())
                .count(),
        ),
    };
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
        });
    TaskResult {
        task: task.name.clone(),
        version: task.version,
        answering: task.answering.name(),
        model: model.to_owned(),
        access: AccessClass::strictest(items.iter().map(|item| item.access)),
        unextracted,
        clean: None,
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
    if samples.is_empty() {
        return Err(Error::NoItems {
            task: name.to_owned(),
        });
    }
    let mut total = Perplexity {
        loss_sum: 0.0,
        tokens: 0,
    };
    let mut done = 0;
    for batch in samples.chunks(settings.batch_items.max(1)) {
        let part = model
            .perplexity(batch)
            .map_err(|e| failed(name, model.name(), e))?;
        total.loss_sum += part.loss_sum;
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

fn failed(task: &str, model: &str, source: ModelError) -> Error {
    Error::Model {
        task: task.to_owned(),
        model: model.to_owned(),
        source,
    }
}

fn check_count(
    task: &Task,
    model: &dyn LanguageModel,
    what: &'static str,
    asked: usize,
    given: usize,
) -> Result<()> {
    if asked == given {
        return Ok(());
    }
    let (task, model) = (task.name.clone(), model.name().to_owned());
    Err(Error::AnswerCount {
        task,
        model,
        what,
        asked,
        given,
    })
}
