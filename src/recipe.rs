//! A recipe, as it is written: each section belongs to the crate that does what it says.

use std::path::{Path, PathBuf};

use adapters::recipe::{AdapterSection, MergeSection, ModelSection};
use anyhow::Result;
use datasets::recipe::DataSection;
use eval::recipe::EvalSection;
use finetune::recipe::{TrainMethod, TrainSection};
use ledger::recipe::{Document, Origin, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What is to be made of what. A stage is run for each section that is there: `[data]`, `[train]`, `[merge]`,
/// `[eval]`; then `[[expect]]` is held against what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the run's folder is called: runs/NAME
    pub name: String,
    /// One line for people: what this makes, and what it needs
    #[serde(default)]
    pub about: String,
    /// Everything random follows from it
    #[serde(default)]
    pub seed: u64,
    /// The base model
    #[serde(default)]
    pub model: ModelSection,
    /// What the model is tuned on
    #[serde(default)]
    pub data: Option<DataSection>,
    /// What is trained beside the base; without it, `train.method` must be "full"
    #[serde(default)]
    pub adapter: Option<AdapterSection>,
    /// How it is trained
    #[serde(default)]
    pub train: Option<TrainSection>,
    /// How the adapter is merged into the base
    #[serde(default)]
    pub merge: Option<MergeSection>,
    /// What the model is asked, before and after
    #[serde(default)]
    pub eval: Option<EvalSection>,
    /// What must hold at the end; the exit code is 1 where it does not
    #[serde(default)]
    pub expect: Vec<Expect>,
}

/// A limit on something that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What was measured: `tuned.TASK.METRIC`, `base.TASK.METRIC`, `tuned.validation.perplexity`, `train.eval_loss`
    pub metric: String,
    /// It must be this much or more
    #[serde(default)]
    pub at_least: Option<f64>,
    /// It must be this much or less
    #[serde(default)]
    pub at_most: Option<f64>,
    /// It must be more than this other metric, such as `base.TASK.METRIC`
    #[serde(default)]
    pub above: Option<String>,
    /// It must be less than this other metric
    #[serde(default)]
    pub below: Option<String>,
}

impl Recipe {
    /// Reads a recipe: a path, or the name of a recipe in ./recipes.
    pub fn read(given: &Path, sets: &[String]) -> Result<Document<Self>> {
        let path = find(given);
        let document = ledger::recipe::read::<Self>(&path, sets).map_err(|error| {
            let missing = matches!(&error, ledger::Error::Read { path: failed, source }
                if *failed == path && source.kind() == std::io::ErrorKind::NotFound);
            if !missing {
                return anyhow::Error::from(error);
            }
            Failure::user(format!("there is no recipe `{}`", given.display()))
                .hint("`medtune recipes list` names those that come with medtune, `recipes copy` gives you one")
                .into()
        })?;
        let problems = problems(&document);
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(ledger::Error::Recipe(problems).into())
        }
    }
}

/// `quickstart` means ./recipes/quickstart.toml where there is no such file here.
pub fn find(given: &Path) -> PathBuf {
    let named = Path::new("recipes").join(given).with_extension("toml");
    if !given.exists() && named.is_file() {
        named
    } else {
        given.to_owned()
    }
}

/// What a schema cannot say: the sections against themselves and against one another.
fn problems(document: &Document<Recipe>) -> Vec<Problem> {
    let mut found = Finder {
        document,
        problems: Vec::new(),
    };
    let recipe = &document.value;
    found.name(&recipe.name);
    found.sections(recipe);
    // An evaluation of other models needs none of its own.
    let asks_own = |eval: &EvalSection| eval.model.is_empty() && eval.endpoint.is_empty();
    let needs_model = recipe.train.is_some()
        || recipe.merge.is_some()
        || recipe.eval.as_ref().is_some_and(asks_own);
    found.model(&recipe.model, needs_model);
    if let Some(train) = &recipe.train {
        for (key, message) in train.problems() {
            found.add(
                &format!("train.{key}"),
                format!("`train.{key}` {message}"),
                None,
            );
        }
    }
    for (key, wrong) in recipe.eval.iter().flat_map(EvalSection::problems) {
        let key = format!("eval.{key}");
        found.add(&key, format!("`{key}` {wrong}"), None);
    }
    for (i, expect) in recipe.expect.iter().enumerate() {
        found.expect(i, expect);
    }
    found
        .problems
        .sort_by(|a, b| (&a.path, a.line, &a.key).cmp(&(&b.path, b.line, &b.key)));
    found.problems
}

/// A problem of the value at a key, with the line where it is written; that of its section where it is not.
pub fn problem(
    document: &Document<Recipe>,
    key: &str,
    message: String,
    hint: Option<&str>,
) -> Problem {
    let (path, line) = match document.origin(key) {
        Origin::File { path, line } => (path.clone(), *line),
        Origin::Set(text) => (format!("--set {text}").into(), 0),
        Origin::Default => section_of(document, key),
    };
    Problem {
        path,
        line,
        column: 1,
        key: key.to_owned(),
        message,
        hint: hint.map(str::to_owned),
    }
}

/// The first line that is written of a key's section, or the recipe's first.
fn section_of(document: &Document<Recipe>, key: &str) -> (PathBuf, usize) {
    let section = key.split(['.', '[']).next().unwrap_or(key);
    let inside = |other: &str| {
        other
            .strip_prefix(section)
            .is_some_and(|rest| rest.starts_with(['.', '[']) || rest.is_empty())
    };
    let written = document.origins.iter().filter(|(other, _)| inside(other));
    let places = written.filter_map(|(_, origin)| match origin {
        Origin::File { path, line } => Some((path.clone(), *line)),
        _ => None,
    });
    let first = places.min_by_key(|(_, line)| *line);
    first.unwrap_or_else(|| (document.files.first().cloned().unwrap_or_default(), 1))
}

struct Finder<'a> {
    document: &'a Document<Recipe>,
    problems: Vec<Problem>,
}

impl Finder<'_> {
    fn add(&mut self, key: &str, message: String, hint: Option<&str>) {
        self.problems
            .push(problem(self.document, key, message, hint));
    }

    fn name(&mut self, name: &str) {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
            let message = format!("`name` is {name:?}, and names a folder");
            self.add(
                "name",
                message,
                Some("use letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    fn sections(&mut self, recipe: &Recipe) {
        let adapts = recipe
            .train
            .as_ref()
            .is_some_and(|train| train.method == TrainMethod::Adapter);
        if recipe.train.is_some() && recipe.data.is_none() {
            self.add(
                "train",
                "[train] needs [data]: there is nothing to learn from".into(),
                None,
            );
        }
        if adapts && recipe.adapter.is_none() {
            let hint = "add an [adapter.lora] table, or set train.method = \"full\"";
            self.add(
                "train.method",
                "[train] trains an adapter, and there is no [adapter]".into(),
                Some(hint),
            );
        }
        if recipe.adapter.is_some() && !adapts {
            let (message, hint) = match recipe.train {
                Some(_) => (
                    "[adapter] is not used where train.method is \"full\"",
                    "remove one of them",
                ),
                None => (
                    "[adapter] is not used without [train]",
                    "add a [train] table",
                ),
            };
            self.add("adapter", message.into(), Some(hint));
        }
        let shares = recipe
            .train
            .as_ref()
            .is_some_and(|train| train.share_prefixes);
        let drops = recipe
            .adapter
            .as_ref()
            .is_some_and(|AdapterSection::Lora(lora)| lora.dropout > 0.0);
        if shares && drops {
            let message =
                "samples cannot share prefixes under dropout, whose masks are a sample's own";
            let hint = "set adapter.lora.dropout = 0.0, or train.share_prefixes = false";
            self.add("train.share_prefixes", message.into(), Some(hint));
        }
        if recipe.model.quantization.is_some() && recipe.train.is_some() && !adapts {
            self.add(
                "model.quantization",
                "quantized weights are not trained, and train.method is \"full\"".into(),
                Some("train an adapter on the quantized base (QLoRA), or remove `quantization`"),
            );
        }
        if recipe.merge.is_some() && !adapts && recipe.model.adapter.is_none() {
            let message = "[merge] has no adapter to merge";
            self.add(
                "merge",
                message.into(),
                Some("train one, or name one with model.adapter"),
            );
        }
        if recipe
            .data
            .as_ref()
            .is_some_and(|data| data.source.is_empty())
        {
            self.add("data", "[data] has no [[data.source]]".into(), None);
        }
        let stages = [
            recipe.data.is_some(),
            recipe.train.is_some(),
            recipe.merge.is_some(),
            recipe.eval.is_some(),
        ];
        if !stages.contains(&true) {
            let hint = "add [data], [train], [merge] or [eval]";
            self.add("name", "the recipe has nothing to do".into(), Some(hint));
        }
    }

    fn model(&mut self, model: &ModelSection, needed: bool) {
        match (&model.path, &model.init) {
            (None, None) if needed => {
                let hint = "name a Hugging Face folder or a GGUF file with model.path";
                self.add(
                    "model",
                    "[model] says neither `path` nor `init`".into(),
                    Some(hint),
                );
            }
            (Some(_), Some(_)) => {
                self.add(
                    "model.init",
                    "[model] says both `path` and `init`".into(),
                    Some("keep one of them"),
                );
            }
            (None, Some(_)) if model.config.is_none() => {
                let hint = "name a config.json with model.config";
                self.add(
                    "model.init",
                    "fresh weights need the shape of a model".into(),
                    Some(hint),
                );
            }
            _ => {}
        }
        if model.tokenizer.is_some() && model.path.is_some() {
            let hint = "put the tokenizer's files into the model's folder";
            self.add(
                "model.tokenizer",
                "`model.tokenizer` is used with `model.init` only".into(),
                Some(hint),
            );
        }
    }

    fn expect(&mut self, i: usize, expect: &Expect) {
        let key = format!("expect[{i}].metric");
        let limits = [
            expect.at_least.is_some(),
            expect.at_most.is_some(),
            expect.above.is_some(),
            expect.below.is_some(),
        ];
        if !limits.contains(&true) {
            let hint = "add `at_least`, `at_most`, `above` or `below`";
            self.add(
                &key,
                format!("[[expect]] `{}` has no limit", expect.metric),
                Some(hint),
            );
        }
    }
}
