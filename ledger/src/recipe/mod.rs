//! The recipe language: TOML, read with its lines and columns, checked as a whole before anything is made of it.
//!
//! - `extends = "base.toml"` names one parent, relative to the file. Tables merge; scalars and arrays replace;
//!   a choice (`[adapter.lora]`) replaces the parent's other choice.
//! - `--set a.b.c=VALUE` is a line of the same language, written last. VALUE is a TOML value, or a bare string.
//!   `a.list[0].c` goes into an array.
//! - Every type denies unknown keys, here even one that forgot to say so: a misspelt `learning_rate` must not
//!   train with the default.
//! - The document is walked against the type's JSON schema and **all** problems are collected, each with its file,
//!   line, key and the nearest valid key, before serde sees it.
//!
//! Doc comments of the types are the descriptions in the schema, and with them the editor's help.

mod check;
mod compose;
mod shape;
mod suggest;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};
use check::Found;
pub use suggest::nearest;
use tree::{Node, Sources};

/// The longest recipe file that is read. The largest real one is a thousandth of it.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// More problems than this are counted, not listed.
const MAX_LISTED: usize = 50;

/// A recipe as it was written and as it was understood.
#[derive(Debug, Clone)]
pub struct Document<R> {
    /// What it says, with defaults filled in.
    pub value: R,
    /// Where each value of [`Document::value`] comes from, by dotted key (`train.learning_rate`,
    /// `data.source[0].path`), and of each table that is written.
    pub origins: BTreeMap<String, Origin>,
    /// The files read: the recipe, then what it extends, outwards.
    pub files: Vec<PathBuf>,
    /// What was written in all files and `--set`s together, without defaults.
    pub written: Value,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a recipe.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// A `--set`, as given.
    Set(String),
    /// The type's default.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Set(text) => write!(f, "--set {text}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong in a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in, or the `--set` as given.
    pub path: PathBuf,
    /// Its line, from 1; 0 for a `--set`.
    pub line: usize,
    /// Its column in characters, from 1; 0 for a `--set`.
    pub column: usize,
    /// The dotted key it is about; empty for the whole file.
    pub key: String,
    /// What is wrong, with the value that is.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message)?,
            line => write!(
                f,
                "{}:{line}:{}: {}",
                self.path.display(),
                self.column,
                self.message
            )?,
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// [`Error::Recipe`]'s message.
pub(crate) fn list_problems(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "the recipe has a problem".to_owned(),
        count => format!("the recipe has {count} problems"),
    };
    for problem in problems.iter().take(MAX_LISTED) {
        let _ = write!(text, "\n{problem}");
    }
    if problems.len() > MAX_LISTED {
        let _ = write!(text, "\n... and {} more", problems.len() - MAX_LISTED);
    }
    text
}

/// Reads a recipe: its file, what it extends, and the `--set`s, checked against `R`'s schema.
///
/// # Errors
/// [`Error::Read`] when the file cannot be read; [`Error::Recipe`] with every problem found.
pub fn read<R>(path: &Path, sets: &[String]) -> Result<Document<R>>
where
    R: DeserializeOwned + JsonSchema + Serialize,
{
    let schema = schema::<R>();
    let mut sources = Sources::default();
    let tree = compose::compose(path, sets, &schema, &mut sources)?;
    let found = check::check(&tree, &schema);
    if !found.is_empty() {
        return Err(refuse(&sources, found));
    }
    let written = tree.to_json();
    let value: R = serde_path_to_error::deserialize(&written).map_err(|error| {
        // The schema said yes and the type says no: a rule that a schema cannot state.
        let key = dotted(error.path());
        let at = tree.find(&key).map_or(tree.at, |node| node.at);
        refuse(
            &sources,
            vec![Found {
                at,
                key,
                message: error.into_inner().to_string(),
                hint: None,
            }],
        )
    })?;
    let resolved = serde_json::to_value(&value).map_err(|source| Error::Json {
        what: "the recipe",
        source,
    })?;
    let mut origins = BTreeMap::new();
    trace(&resolved, Some(&tree), "", &sources, &mut origins);
    Ok(Document {
        value,
        origins,
        files: sources.files(),
        written,
    })
}

/// The JSON schema of a recipe type, for editors and for the checks here.
#[must_use]
pub fn schema<R: JsonSchema>() -> Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<R>();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert(
            "extends".into(),
            serde_json::json!({
                "type": "string",
                "description": "The recipe that this one changes, relative to this file: tables merge, the rest replaces",
            }),
        );
    }
    schema.to_value()
}

impl<R> Document<R> {
    /// Where the value of a key comes from. A key inside a value that was written as a whole has that one's origin.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin;
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return &Origin::Default,
            }
        }
    }

    /// The folder that a relative path at `key` starts from: that of the file in which it was written. A `--set`
    /// starts from the current folder, as every path on a command line does; a default starts from the recipe's.
    #[must_use]
    pub fn folder_of(&self, key: &str) -> PathBuf {
        let parent = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
        match self.origin(key) {
            Origin::File { path, .. } => parent(path),
            Origin::Set(_) => PathBuf::new(),
            Origin::Default => self
                .files
                .first()
                .map(|path| parent(path))
                .unwrap_or_default(),
        }
    }
}

/// The origin of every leaf of the resolved value.
fn trace(
    value: &Value,
    node: Option<&Node>,
    key: &str,
    sources: &Sources,
    origins: &mut BTreeMap<String, Origin>,
) {
    // Tables are listed too where they are written: one may be empty, and still be there.
    if let (Value::Object(_), Some(node), false) = (value, node, key.is_empty()) {
        origins.insert(key.to_owned(), sources.origin(node.at));
    }
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                let child = node.and_then(|node| node.child(name));
                trace(value, child, &join(key, name), sources, origins);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (i, item) in items.iter().enumerate() {
                let child = node.and_then(|node| node.item(i));
                trace(item, child, &format!("{key}[{i}]"), sources, origins);
            }
        }
        _ => {
            origins.insert(
                key.to_owned(),
                node.map_or(Origin::Default, |node| sources.origin(node.at)),
            );
        }
    }
}

fn refuse(sources: &Sources, mut found: Vec<Found>) -> Error {
    found.sort_by(|a, b| (a.at, &a.key).cmp(&(b.at, &b.key)));
    Error::Recipe(
        found
            .into_iter()
            .map(
                |Found {
                     at,
                     key,
                     message,
                     hint,
                 }| {
                    let (path, line, column) = sources.place(at);
                    Problem {
                        path,
                        line,
                        column,
                        key,
                        message,
                        hint,
                    }
                },
            )
            .collect(),
    )
}

/// `train` and `learning_rate` make `train.learning_rate`; a name with a dot in it is quoted.
fn join(key: &str, name: &str) -> String {
    let plain = !name.is_empty() && !name.contains(['.', '[', ']', '"', '=', ' ']);
    let name = if plain {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if key.is_empty() {
        name
    } else {
        format!("{key}.{name}")
    }
}

fn dotted(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .fold(String::new(), |key, segment| match segment {
            Segment::Seq { index } => format!("{key}[{index}]"),
            Segment::Map { key: name } => join(&key, name),
            Segment::Enum { variant } => join(&key, variant),
            Segment::Unknown => key,
        })
}

#[cfg(test)]
mod tests;
