//! Models by their name on the Hugging Face Hub, found in the cache that its tools share. Nothing here uses the network.
//!
//! ```text
//! CACHE/models--ORG--NAME/refs/REVISION          the commit that a branch or tag was at when it was downloaded
//!                         snapshots/COMMIT/FILE   links into
//!                         blobs/ETAG              the contents
//! ```
//!
//! Source of the layout and of the variables: `constants.py` and `file_download.py` of huggingface_hub 2.4.

use crate::{Error, Result, folder};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The revision of a name that gives none.
const MAIN: &str = "main";
/// A hub takes no longer parts of a name.
const LONGEST_PART: usize = 96;
/// Names with these endings are files that are not there, and not models of the hub.
const FILE_ENDINGS: &[&str] = &[".gguf", ".safetensors", ".json", ".toml", ".git"];

/// `ORG/NAME`, or `ORG/NAME@REVISION` with a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    id: String,
    revision: Option<String>,
}

impl HubName {
    /// Reads a name; `None` for what can be none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (organisation, name) = id.split_once('/')?;
        let is_file = FILE_ENDINGS.iter().any(|ending| name.ends_with(ending));
        if is_file || !is_part(organisation) || !is_part(name) {
            return None;
        }
        let plain = Self {
            id: id.to_owned(),
            revision: None,
        };
        match revision {
            Some(revision) => plain.at(revision),
            None => Some(plain),
        }
    }

    /// The same model at a branch, a tag or a commit; `None` where that can be none.
    pub fn at(mut self, revision: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let parts = || revision.split('/');
        let sound = revision.len() <= 2 * LONGEST_PART
            && revision.chars().all(plain)
            && parts().all(|part| !part.is_empty() && !part.starts_with('.'));
        self.revision = Some(revision.to_owned());
        sound.then_some(self)
    }

    /// `ORG/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The branch, tag or commit; `main` where none is given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.id),
            None => f.write_str(&self.id),
        }
    }
}

/// The rules of `validate_repo_id` in huggingface_hub.
fn is_part(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c != '.' && c != '-');
    text.len() <= LONGEST_PART
        && text.chars().all(plain)
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && !text.contains("--")
        && !text.contains("..")
}

/// The folder that every tool of the Hugging Face Hub keeps its downloads in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// Where the environment says: `HF_HUB_CACHE`, or `hub` in [`hub_home`].
    pub fn from_env() -> Self {
        Self::of(&|name| std::env::var_os(name))
    }

    /// As [`HubCache::from_env`], of variables by their name.
    pub fn of(variable: Variables) -> Self {
        let named = given(variable, "HF_HUB_CACHE").or(given(variable, "HUGGINGFACE_HUB_CACHE"));
        Self {
            root: named.unwrap_or_else(|| home(variable).join("hub")),
        }
    }

    /// In this folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model.
    pub fn model(&self, name: &HubName) -> PathBuf {
        self.root
            .join(format!("models--{}", name.id.replace('/', "--")))
    }

    /// The folder of the files of a commit.
    pub fn snapshot_of(&self, name: &HubName, commit: &str) -> PathBuf {
        self.model(name).join("snapshots").join(commit)
    }

    /// The folder of the files of the name's revision, if it was downloaded: nothing says that it is whole.
    pub fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let recorded = self.model(name).join("refs").join(name.revision());
        let commit = match std::fs::read_to_string(recorded) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => name.revision().to_owned(),
        };
        // A damaged record is no way out of the cache.
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let folder = self.snapshot_of(name, &commit);
        (plain && folder.is_dir()).then_some(folder)
    }

    /// The snapshot, where it holds a model's or an adapter's weights.
    pub fn find(&self, name: &HubName) -> Result<PathBuf> {
        let snapshot = self.snapshot(name);
        match &snapshot {
            Some(folder) if is_whole(folder) => Ok(folder.clone()),
            _ => Err(Error::NotCached {
                name: name.clone(),
                cache: self.root.clone(),
                partly: snapshot.is_some(),
            }),
        }
    }
}

/// Where the environment says that the hub's tools keep everything: `HF_HOME`, or `huggingface` in the user's cache.
pub fn hub_home() -> PathBuf {
    home(&|name| std::env::var_os(name))
}

/// The value of an environment variable, by its name.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A path that a variable gives, with the user's folder in the place of a leading `~`.
fn given(variable: Variables, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
    Some(match path.strip_prefix("~") {
        Ok(rest) => user_folder(variable).join(rest),
        Err(_) => path,
    })
}

fn user_folder(variable: Variables) -> PathBuf {
    let named = variable("HOME").filter(|value| !value.is_empty());
    let named = named.map(PathBuf::from).or_else(std::env::home_dir);
    named.unwrap_or_default()
}

fn home(variable: Variables) -> PathBuf {
    given(variable, "HF_HOME").unwrap_or_else(|| {
        let caches = given(variable, "XDG_CACHE_HOME");
        caches
            .unwrap_or_else(|| user_folder(variable).join(".cache"))
            .join("huggingface")
    })
}

/// Whether opening a folder is worth it: with weights and what they are, all shards of an index among them. Weights that
/// are not read count too, since opening says why.
fn is_whole(folder: &Path) -> bool {
    let here = |name: &str| folder.join(name).is_file();
    if here(folder::INDEX) && !here(folder::SINGLE) {
        let index = folder::read_json(&folder.join(folder::INDEX)).unwrap_or_default();
        let shards = index["weight_map"].as_object().into_iter().flatten();
        let all = shards.filter_map(|(_, shard)| shard.as_str()).all(here);
        return all && here("config.json");
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| here(name))
        .collect();
    let with = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let described = here("config.json") || here("adapter_config.json");
    with(".gguf") || described && (with(".safetensors") || with(".bin"))
}

/// The folder or file of a model or an adapter that a recipe or a command names: below `folder` if it is there, else, for
/// `ORG/NAME`, in the cache. A path that is neither comes back as it is, for opening to say what is wrong.
pub fn locate(given: &Path, folder: &Path) -> Result<PathBuf> {
    locate_in(given, folder, &HubCache::from_env())
}

/// As [`locate`], with another cache.
pub fn locate_in(given: &Path, folder: &Path, cache: &HubCache) -> Result<PathBuf> {
    let local = folder.join(given);
    match given.to_str().and_then(HubName::parse) {
        Some(name) if !local.exists() => cache.find(&name),
        _ => Ok(local),
    }
}

/// What a model's publisher says of it in the front matter of its `README.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// `license`, or, where that is `other`, `license_name`.
    pub licence: Option<String>,
    /// `language`, as codes.
    pub languages: Vec<String>,
}

impl Stated {
    /// Reads the front matter of a card. What is not a plain word is passed over.
    pub fn of(readme: &str) -> Self {
        let mut lines = readme.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return Self::default();
        }
        let matter: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
        let value = |key: &str| value_of(&matter, key);
        let licence = match value("license").and_then(word) {
            Some(other) if other == "other" => value("license_name").and_then(word).or(Some(other)),
            licence => licence,
        };
        let languages = match value("language") {
            Some("") => {
                let listed = matter
                    .iter()
                    .skip_while(|line| !line.starts_with("language:"));
                let items = listed
                    .skip(1)
                    .map_while(|line| line.trim().strip_prefix("- "));
                items.filter_map(word).collect()
            }
            Some(one) => word(one).into_iter().collect(),
            None => Vec::new(),
        };
        Self { licence, languages }
    }
}

/// What follows `key:` in front matter.
fn value_of<'t>(matter: &[&'t str], key: &str) -> Option<&'t str> {
    let mut lines = matter.iter();
    lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// A value of front matter without its quotes, if it is a plain word.
fn word(value: &str) -> Option<String> {
    let value = value.trim().trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (!value.is_empty() && value.len() <= LONGEST_PART && value.chars().all(plain))
        .then(|| value.to_owned())
}

/// Whether a file of a repository is a part of a safetensors model, or says what the model is: what [`locate`]d models
/// are opened with and what travels with them. The shards of an index are named by the index.
pub fn is_model_file(name: &str) -> bool {
    const OTHERS: &[&str] = &[
        "config.json",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "medtune.json",
    ];
    [folder::SINGLE, folder::INDEX].contains(&name)
        || OTHERS.contains(&name)
        || folder::COMPANIONS.contains(&name)
}

/// The files that the index of a sharded model names, sorted.
///
/// # Errors
/// [`Error::Json`] and [`Error::Damaged`] with the index's path.
pub fn shards_of(index: &Path) -> Result<Vec<String>> {
    let json = folder::read_json(index)?;
    let damaged = |reason: &str| Error::Damaged {
        path: index.into(),
        reason: reason.into(),
    };
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("it has no `weight_map`"))?;
    let mut shards: Vec<String> = map
        .values()
        .map(|shard| shard.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| damaged("`weight_map` gives no file for a tensor"))?;
    shards.sort();
    shards.dedup();
    Ok(shards)
}
