//! What will happen: a recipe with its paths resolved and its stages in order.
//!
//! A relative path in a recipe starts from the folder of the file in which it is written, one given with `--set`
//! from the current folder; sources' paths start from the data root, by default the folder of the recipe.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use eval::Task;
use finetune::Base;
use ledger::recipe::{Document, nearest};

use crate::args::{DataFlags, RecipeFlags, StageArgs};
use crate::device::Compute;
use crate::failure::Failure;
use crate::library;
use crate::recipe::{Recipe, problem};
use crate::stages::{endpoints, judging, known_metrics};
use crate::validation::{check_best_metric, watching};

/// A step of a run, in the order of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `[data]`, into `data/`.
    Data,
    /// `[train]`, into `adapter/` or `model/`, with its logs and checkpoints in `train/`.
    Train,
    /// `[merge]`, into `merged/`.
    Merge,
    /// `[eval]`, into `eval/`.
    Eval,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Train => "train",
            Self::Merge => "merge",
            Self::Eval => "eval",
        })
    }
}

/// What will happen.
pub struct Plan {
    /// The recipe, with where everything in it comes from.
    pub document: Document<Recipe>,
    /// The run's folder.
    pub out: PathBuf,
    /// Where sources' paths start.
    pub data_root: PathBuf,
    /// The base model.
    pub base: Base,
    /// The stages that the recipe has.
    pub stages: Vec<Stage>,
    /// The tasks of `[eval]`.
    pub tasks: Vec<PlannedTask>,
    /// The tasks of `train.eval_tasks`.
    pub train_tasks: Vec<PlannedTask>,
    /// The tasks of `merge.validate`.
    pub merge_tasks: Vec<PlannedTask>,
    /// The tasks whose items must not be trained on.
    pub decontaminate: Vec<PlannedTask>,
    /// How the data is built.
    pub build: BuildFlags,
    /// Whether an evaluation's report has the texts of what is not open.
    pub reveal: bool,
    /// What computes.
    pub device: Compute,
}

/// What the command line says of building data.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildFlags {
    /// Goes on without sources that are not there.
    pub allow_missing: bool,
    /// Writes Parquet too.
    pub parquet: bool,
    /// The user may see credentialed text.
    pub credentials: bool,
}

impl From<&DataFlags> for BuildFlags {
    fn from(flags: &DataFlags) -> Self {
        Self {
            allow_missing: flags.allow_missing,
            parquet: false,
            credentials: flags.i_have_credentials,
        }
    }
}

/// An entry of `eval.tasks`, found.
#[derive(Debug, Clone)]
pub struct PlannedTask {
    /// The task's file.
    pub file: PathBuf,
    /// How many items are asked; all where not given.
    pub limit: Option<usize>,
    /// The tasks of the file that are asked, one a way of answering.
    pub tasks: Vec<Task>,
}

impl Plan {
    /// Reads a recipe and resolves it. Opens no model and no data.
    pub fn new(recipe: &Path, flags: &RecipeFlags) -> Result<Self> {
        let device = Compute::open(&flags.device)?;
        Ok(Self {
            device,
            ..Self::resolve(recipe, flags)?
        })
    }

    /// As [`Plan::new`], for any device: for a command that only looks.
    pub fn resolve(recipe: &Path, flags: &RecipeFlags) -> Result<Self> {
        let document = Recipe::read(recipe, &flags.sets)?;
        let recipe = &document.value;
        let folder = document
            .files
            .first()
            .and_then(|path| path.parent())
            .unwrap_or(Path::new(""));
        let out = flags
            .out
            .clone()
            .unwrap_or_else(|| Path::new("runs").join(&recipe.name));
        let data_root = flags.data_root.clone().unwrap_or_else(|| folder.to_owned());
        let stages = [
            (Stage::Data, recipe.data.is_some()),
            (Stage::Train, recipe.train.is_some()),
            (Stage::Merge, recipe.merge.is_some()),
            (Stage::Eval, recipe.eval.is_some()),
        ];
        let stages = stages
            .into_iter()
            .filter_map(|(stage, has)| has.then_some(stage))
            .collect();
        let entries = recipe.eval.as_ref().map(|eval| eval.tasks.as_slice());
        let shots = recipe.eval.as_ref().and_then(|eval| eval.shots);
        let entries = entries.unwrap_or_default();
        let tasks = tasks(&document, folder, "eval.tasks", entries, shots)?;
        let entries = recipe.data.as_ref();
        let entries = entries.map(|data| data.clean.decontaminate.as_slice());
        let key = "data.clean.decontaminate";
        let entries = entries.unwrap_or_default();
        let decontaminate = self::tasks(&document, folder, key, entries, Some(0))?;
        let train = recipe.train.as_ref();
        let train_tasks = watching(
            &document,
            folder,
            "train.eval_tasks",
            train.map_or(&[], |train| &train.eval_tasks),
        )?;
        let merge_tasks = watching(
            &document,
            folder,
            "merge.validate",
            recipe.merge.as_ref().map_or(&[], |merge| &merge.validate),
        )?;
        check_best_metric(&document, &train_tasks)?;
        check_expectations(&document, &tasks, &train_tasks)?;
        endpoints::check(&document, &tasks, folder)?;
        judging::check(&document, &tasks)?;
        Ok(Self {
            out,
            data_root,
            base: base(&document),
            stages,
            tasks,
            train_tasks,
            merge_tasks,
            decontaminate,
            build: BuildFlags::default(),
            reveal: false,
            device: Compute::default(),
            document,
        })
    }

    /// As [`Plan::new`], of a command's arguments.
    pub fn of(args: &StageArgs) -> Result<Self> {
        let device = Compute::open(&args.flags.device)?;
        Ok(Self {
            device,
            ..Self::to_look_at(args)?
        })
    }

    /// As [`Plan::resolve`], of a command's arguments.
    pub fn to_look_at(args: &StageArgs) -> Result<Self> {
        let mut plan = Self::resolve(&args.recipe, &args.flags)?;
        plan.build = BuildFlags::from(&args.data);
        Ok(plan)
    }

    /// Whether the recipe has a model; one that only builds data, or asks other models, may do without.
    pub fn has_model(&self) -> bool {
        let model = &self.recipe().model;
        model.path.is_some() || model.init.is_some()
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.document.value
    }

    /// The config.json that the recipe says a stored model has, to plan with where the model is elsewhere.
    pub fn expected_config(&self) -> Option<PathBuf> {
        let model = &self.recipe().model;
        let config = model.config.as_deref().filter(|_| model.path.is_some())?;
        Some(self.document.folder_of("model.config").join(config))
    }

    /// A stage's folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Refuses a command whose stage the recipe does not have.
    pub fn require(&self, stage: Stage) -> Result<()> {
        if self.stages.contains(&stage) {
            return Ok(());
        }
        let message = format!("the recipe `{}` has no [{stage}]", self.recipe().name);
        Err(Failure::user(message)
            .hint(format!("add a [{stage}] table to it"))
            .into())
    }
}

/// The base model, with its paths resolved.
fn base(document: &Document<Recipe>) -> Base {
    let model = &document.value.model;
    let resolve = |key: &str, path: &str| document.folder_of(key).join(path);
    let base = match (&model.path, &model.config) {
        (None, Some(config)) => Base::Random {
            config: resolve("model.config", config),
            tokenizer: model
                .tokenizer
                .as_deref()
                .map(|path| resolve("model.tokenizer", path)),
            seed: document.value.seed,
        },
        (path, _) => Base::find(
            Path::new(path.as_deref().unwrap_or_default()),
            &document.folder_of("model.path"),
        ),
    };
    match model.quantization {
        Some(quantization) => Base::Quantized {
            base: Box::new(base),
            quantization,
        },
        None => base,
    }
}

/// Where the tasks are that a recipe in a folder names.
pub fn task_folders(folder: &Path) -> [PathBuf; 5] {
    [
        folder.join("eval"),
        folder.join("../eval"),
        folder.join("../../eval"),
        // Where `medtune recipes copy` puts them, and where the source tree has them.
        PathBuf::from("eval"),
        PathBuf::from("recipes/eval"),
    ]
}

/// Finds the evaluation tasks that a list of the recipe names. `shots` stand before each question where an entry
/// does not say how many.
fn tasks(
    document: &Document<Recipe>,
    folder: &Path,
    key: &str,
    entries: &[String],
    shots: Option<usize>,
) -> Result<Vec<PlannedTask>> {
    let base = document.folder_of(key);
    let folders = task_folders(folder);
    let mut planned = Vec::new();
    for entry in entries {
        add_tasks(&mut planned, entry, shots, &base, &folders).map_err(not_on_disk)?;
    }
    Ok(planned)
}

fn not_on_disk(error: eval::Error) -> anyhow::Error {
    match how_to_get(&error) {
        Some(hint) => Failure::user(error.to_string()).hint(hint).into(),
        None => error.into(),
    }
}

/// How to get a task that medtune has and this machine's disk has not.
pub fn how_to_get(error: &eval::Error) -> Option<String> {
    let eval::Error::UnknownTask { name, .. } = error else {
        return None;
    };
    let file = library::copied_as(name)?;
    Some(format!(
        "it comes with medtune: `medtune recipes copy {file}` gives you its file"
    ))
}

/// Adds what one entry of a list of tasks names.
pub fn add_tasks(
    planned: &mut Vec<PlannedTask>,
    entry: &str,
    shots: Option<usize>,
    base: &Path,
    folders: &[PathBuf],
) -> eval::Result<()> {
    for found in eval::load_tasks(entry, shots, base, folders)? {
        let mut known = planned.iter().flat_map(|planned| &planned.tasks);
        let twice = known.find(|known| found.tasks.iter().any(|task| task.name == known.name));
        if let Some(twice) = twice {
            let task = twice.name.clone();
            return Err(eval::Error::TaskTwice { task });
        }
        planned.push(PlannedTask {
            file: found.file,
            limit: found.limit,
            tasks: found.tasks,
        });
    }
    Ok(())
}

/// Finds a misspelt metric now and not after hours of training.
fn check_expectations(
    document: &Document<Recipe>,
    tasks: &[PlannedTask],
    train_tasks: &[PlannedTask],
) -> Result<()> {
    let known = known_metrics(&document.value, tasks, train_tasks);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let mut problems = Vec::new();
    for (i, expect) in document.value.expect.iter().enumerate() {
        let named = [
            ("metric", Some(&expect.metric)),
            ("above", expect.above.as_ref()),
            ("below", expect.below.as_ref()),
        ];
        for (field, metric) in named {
            let Some(metric) = metric.filter(|metric| !known.contains(&metric.as_str())) else {
                continue;
            };
            let encoder = document.value.eval.as_ref().map(|eval| &eval.bert_score);
            let embedded = metric.contains(".bert_score") && encoder == Some(&None);
            let hint = match nearest(metric, &known) {
                _ if embedded => "name an encoder's folder as `model` in [eval.bert_score]".into(),
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => "only [train] and [eval] measure anything".into(),
                None => {
                    let shown = known.len().min(8);
                    let more = if shown < known.len() { ", ..." } else { "" };
                    format!("it measures {}{more}", known[..shown].join(", "))
                }
            };
            let message = format!("this recipe does not measure `{metric}`");
            problems.push(problem(
                document,
                &format!("expect[{i}].{field}"),
                message,
                Some(&hint),
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ledger::Error::Recipe(problems).into())
    }
}
