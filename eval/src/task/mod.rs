//! What is asked: one TOML file a task.

mod file;
mod find;
mod items;

use std::path::Path;

use datasets::recipe::{SourceSection, TaskSection};
use serde::Serialize;

use crate::filters::{FilterName, Pattern};
use crate::judge::{JudgeSection, Question};
use crate::metrics::{MetricName, Needs};
use crate::published::PublishedSet;
use crate::shots::FewShot;
use crate::{Error, Result, TaskProblem};

pub use file::{AnsweringName, Generate, LogLikelihood, Normalisation, Options, TaskFile};
pub use find::{
    ChosenTask, FoundTasks, TaskChoice, choose_tasks, find_task, load_tasks, suite_files,
};
pub use items::{Item, asked_items};
pub(crate) use items::{ItemMaker, check_options};

/// A task with one way of answering, checked. Serialized, it is what a manifest keeps as settings.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    /// Its name in reports, unique within one: the file's, with the way of answering where it is
    /// not the file's first (`medqa-generate`) and the number of shots (`medqa-generate@3`).
    pub name: String,
    /// The file's name for it. Tasks of one family ask the same items.
    pub family: String,
    /// Changes with the prompt, the items or the marking: scores of different versions don't
    /// compare.
    pub version: u32,
    /// Where the records come from.
    pub source: SourceSection,
    /// How a record is asked; its `answer` is the gold answer.
    #[serde(skip)] // a part of `source`
    pub templates: TaskSection,
    /// What there is to choose from.
    pub options: Option<Options>,
    /// Whether the model's chat template goes around the prompt.
    pub chat_template: bool,
    /// How the model answers.
    pub answering: Answering,
    /// How answers are marked; the first metric is the one that says whether an item is right.
    pub metrics: Vec<MetricName>,
    /// How many solved examples stand before each question.
    pub shots: usize,
    /// Where they come from.
    pub few_shot: Option<FewShot>,
    /// The published set that the items are.
    pub published: Option<PublishedSet>,
    /// How candidates are judged; only where answers are generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSection>,
}

/// How the model answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answering {
    /// The option that the model finds likeliest.
    LogLikelihood {
        /// What an option's log-probability is divided by.
        normalisation: Normalisation,
        /// What stands between the prompt and an option.
        before_option: String,
    },
    /// What the filter finds in generated text.
    Generate {
        /// Most tokens to generate.
        max_new_tokens: usize,
        /// Texts that end the answer.
        stop: Vec<String>,
        /// What the filter looks at, where that isn't all of the text.
        #[serde(skip_serializing_if = "Option::is_none")]
        pattern: Option<Pattern>,
        /// How the answer is taken out of the text.
        filter: FilterName,
    },
}

impl Answering {
    /// Its name in task files and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Answering::LogLikelihood { .. } => AnsweringName::LogLikelihood.name(),
            Answering::Generate { .. } => AnsweringName::Generate.name(),
        }
    }
}

impl Task {
    /// Reads a task file: one task for each way of answering that it asks for, the second named
    /// `NAME-WAY`.
    pub fn load(path: &Path, sets: &[String]) -> Result<Vec<Task>> {
        let document = ledger::recipe::read::<TaskFile>(path, sets)?;
        Task::from_file(document.value)
    }

    /// The source of what is asked, and that of its shots where there are any.
    pub fn sources(&self) -> impl Iterator<Item = &SourceSection> {
        let few_shot = self.few_shot.as_ref().filter(|_| self.shots > 0);
        std::iter::once(&self.source).chain(few_shot.map(|few_shot| &few_shot.source))
    }

    /// Checks what a task file says.
    pub fn from_file(file: TaskFile) -> Result<Vec<Task>> {
        let invalid = |problem| Error::InvalidTask {
            task: file.name.clone(),
            problem,
        };
        check_answering(&file.answering).map_err(invalid)?;
        if file.metrics.is_empty() {
            return Err(invalid(TaskProblem::NoMetrics));
        }
        let Some(templates) = &file.source.task else {
            return Err(invalid(TaskProblem::NoSourceTask));
        };
        if let Some(Options::Fixed(options) | Options::Templates(options)) = &file.options {
            items::check_options(options).map_err(|problem| invalid(problem.into()))?;
        }
        let mut tasks = Vec::new();
        for (index, answering) in file.answering.iter().enumerate() {
            let generates = *answering == AnsweringName::Generate;
            let name = match index {
                0 => file.name.clone(),
                _ => format!("{}-{}", file.name, answering.name()),
            };
            let task = Task {
                name,
                family: file.name.clone(),
                version: file.version,
                source: file.source.clone(),
                templates: templates.clone(),
                options: file.options.clone(),
                chat_template: file.chat_template,
                answering: file.answering(*answering).map_err(invalid)?,
                metrics: file.metrics_of(*answering),
                shots: 0,
                few_shot: file.few_shot.clone(),
                published: file.published.clone(),
                judge: file.judge.clone().filter(|_| generates),
            };
            task.check().map_err(invalid)?;
            task.check_judge()?;
            tasks.push(task);
        }
        Ok(tasks)
    }

    /// The split that its items are, as its source or the published set says: `test`, `validation`, `dev`. `None` where
    /// its file does not say.
    pub fn split(&self) -> Option<&str> {
        let published = self.published.as_ref().map(|set| set.split.as_str());
        self.source.split.as_deref().or(published)
    }

    /// The task over another official split of its source; its name then ends in `[SPLIT]`, and no published score
    /// stands beside its own.
    pub fn of_split(mut self, split: &str) -> Result<Task> {
        if self.source.split.is_none() {
            return Err(Error::InvalidTask {
                problem: TaskProblem::NoSplits {
                    split: split.to_owned(),
                },
                task: self.name,
            });
        }
        self.name = format!("{}[{split}]", self.name);
        self.source.name = format!("{}-{split}", self.family);
        self.source.split = Some(split.to_owned());
        self.published = None;
        Ok(self)
    }

    /// The task with this many solved examples before each question, or as many as its file says;
    /// its name then ends in `@N`.
    pub fn with_shots(mut self, shots: Option<usize>) -> Result<Task> {
        let usual = self.few_shot.as_ref().map_or(0, |few_shot| few_shot.count);
        self.shots = shots.unwrap_or(usual);
        if self.shots == 0 {
            return Ok(self);
        }
        if self.few_shot.is_none() {
            return Err(Error::InvalidTask {
                problem: TaskProblem::NoFewShot { shots: self.shots },
                task: self.name,
            });
        }
        self.name = format!("{}@{}", self.name, self.shots);
        Ok(self)
    }

    fn check(&self) -> Result<(), TaskProblem> {
        if let Some(few_shot) = &self.few_shot {
            few_shot.check(self)?;
        }
        let needs_options = |what: String| match self.options {
            Some(_) => Ok(()),
            None => Err(TaskProblem::NeedsOptions { what }),
        };
        match &self.answering {
            Answering::LogLikelihood { .. } => {
                if self.metrics.iter().any(|m| m.needs != Needs::GoldScore) {
                    needs_options("answering by log-likelihood".to_owned())?;
                }
                if let Some(metric) = self.metrics.iter().find(|m| m.needs_generation()) {
                    return Err(TaskProblem::NeedsGeneration {
                        metric: metric.name,
                    });
                }
            }
            Answering::Generate {
                max_new_tokens: 0, ..
            } => return Err(TaskProblem::NoNewTokens { key: "generate" }),
            Answering::Generate { filter, .. } if filter.needs_options => {
                needs_options(format!("the filter `{}`", filter.name))?;
            }
            Answering::Generate { .. } => {}
        }
        if matches!(self.answering, Answering::Generate { .. })
            && let Some(metric) = self.metrics.iter().find(|m| m.needs_option_scores())
        {
            return Err(TaskProblem::NeedsLikelihood {
                metric: metric.name,
            });
        }
        for metric in &self.metrics {
            if matches!(metric.needs, Needs::Choice | Needs::Labels) {
                needs_options(format!("the metric `{}`", metric.name))?;
            }
        }
        let with = |needs| self.metrics.iter().find(|metric| metric.needs == needs);
        if let (Some(one), Some(several)) = (with(Needs::Choice), with(Needs::Labels)) {
            return Err(TaskProblem::OneOrSeveral {
                one: one.name,
                several: several.name,
            });
        }
        let other = |metric: &&MetricName| metric.needs != Needs::TrueOptions;
        if let (Some(several), Some(one)) =
            (with(Needs::TrueOptions), self.metrics.iter().find(other))
        {
            return Err(TaskProblem::OneOrSeveral {
                one: one.name,
                several: several.name,
            });
        }
        Ok(())
    }

    fn check_judge(&self) -> Result<()> {
        let invalid = |problem| Error::InvalidTask {
            task: self.name.clone(),
            problem,
        };
        let judged = self.metrics.iter().find(|metric| metric.is_judged());
        match (&self.judge, judged) {
            (None, None) => return Ok(()),
            (None, Some(metric)) => {
                let metric = metric.name;
                return Err(invalid(TaskProblem::NoJudge { metric }));
            }
            (Some(section), _) => {
                let question = Question::new(&self.name, section)?;
                section.check(&self.metrics, &question).map_err(invalid)?;
            }
        }
        match self.metrics.first().filter(|first| first.is_judged()) {
            Some(first) => {
                let metric = first.name;
                Err(invalid(TaskProblem::JudgedFirst { metric }))
            }
            None => Ok(()),
        }
    }

    /// Whether an item's gold answer is a list of options instead of one.
    pub(crate) fn many_labels(&self) -> bool {
        self.metrics
            .iter()
            .any(|metric| matches!(metric.needs, Needs::Labels | Needs::TrueOptions))
    }
}

fn check_answering(answering: &[AnsweringName]) -> Result<(), TaskProblem> {
    if answering.is_empty() {
        return Err(TaskProblem::NoAnswering);
    }
    let repeated = |(index, name): &(usize, &AnsweringName)| answering[..*index].contains(*name);
    match answering.iter().enumerate().find(repeated) {
        Some((_, name)) => Err(TaskProblem::AnsweringTwice {
            answering: name.name(),
        }),
        None => Ok(()),
    }
}
