//! The files that a recipe's sources need: which are there, and their hashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ledger::{AccessClass, FileHash};

use crate::files::source_files;
use crate::recipe::{DataSection, SourceSection};
use crate::{Error, Result};

/// A source of which files are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name in the recipe.
    pub source_name: String,
    /// The paths that are not there, relative to the data root.
    pub paths: Vec<String>,
    /// How to get them, as the recipe says.
    pub obtain: Option<String>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.source_name, self.paths.join(", "))?;
        match &self.obtain {
            Some(obtain) => write!(f, "\n    {obtain}"),
            None => Ok(()),
        }
    }
}

/// A source before it is read: what a plan lists.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PlannedSource {
    /// Its name in the recipe.
    pub name: String,
    /// The kind of task.
    pub kind: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// Samples wanted.
    pub quota: Option<usize>,
    /// Whose terms it is under.
    pub access: AccessClass,
    /// Its licence.
    pub licence: String,
    /// Records that the publisher's files have.
    pub expected_records: Option<u64>,
    /// Files that are there.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Paths that are not there.
    pub missing: Vec<String>,
    /// How to get them.
    pub obtain: Option<String>,
}

/// The paths of a source that are not there.
fn missing_paths(source: &SourceSection, data_root: &Path) -> Vec<String> {
    let paths = std::iter::once(&source.path).chain(source.tables.values());
    paths
        .filter(|path| !data_root.join(path).exists())
        .cloned()
        .collect()
}

/// Every source with a path that is not there.
///
/// # Errors
/// The data root is not there.
pub(super) fn missing(section: &DataSection, data_root: &Path) -> Result<Vec<Missing>> {
    if let Err(error) = std::fs::metadata(if data_root.as_os_str().is_empty() {
        Path::new(".")
    } else {
        data_root
    }) {
        return Err(Error::read(data_root)(error));
    }
    let missing = section.sources().filter_map(|source| {
        let paths = missing_paths(source, data_root);
        (!paths.is_empty()).then(|| Missing {
            source_name: source.name.clone(),
            paths,
            obtain: source.obtain.clone(),
        })
    });
    Ok(missing.collect())
}

/// What a build would read.
///
/// # Errors
/// A folder or archive that is there and cannot be listed.
pub fn planned_sources(section: &DataSection, data_root: &Path) -> Result<Vec<PlannedSource>> {
    let planned = |source: &SourceSection| {
        let missing = missing_paths(source, data_root);
        let (mut files, mut bytes) = (0, 0);
        if missing.is_empty() {
            for path in paths(source, data_root)?.values() {
                files += 1;
                bytes += std::fs::metadata(path).map_err(Error::read(path))?.len();
            }
        }
        Ok(PlannedSource {
            name: source.name.clone(),
            kind: source.kind.clone(),
            group: source.group.clone(),
            quota: section.quota_of(source),
            access: source.access,
            licence: source.licence.clone(),
            expected_records: source.expected_records,
            files,
            bytes,
            missing,
            obtain: source.obtain.clone(),
        })
    };
    section.sources().map(planned).collect()
}

/// The files that a source reads, by name; an archive once, whatever it holds.
fn paths(source: &SourceSection, data_root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut paths = BTreeMap::new();
    for file in source_files(source, data_root)? {
        match &file.member {
            Some(_) => paths.insert(source.path.clone(), file.path),
            None => paths.insert(file.name, file.path),
        };
    }
    for table in source.tables.values() {
        paths.insert(table.clone(), data_root.join(table));
    }
    Ok(paths)
}

/// The files that a build reads, by their names relative to the data root, with
/// their hashes. Sources that are missing are passed over where `allow_missing`.
///
/// # Errors
/// Sources that are missing, all of them at once; a file that cannot be read,
/// or is not the one that the recipe's `sha256` names.
pub fn inputs(
    section: &DataSection,
    data_root: &Path,
    allow_missing: bool,
) -> Result<Vec<FileHash>> {
    let missing = missing(section, data_root)?;
    if !missing.is_empty() && !allow_missing {
        return Err(Error::MissingSources { missing });
    }
    let mut files = BTreeMap::new();
    let mut declared = BTreeMap::new();
    for source in section.sources() {
        if missing.iter().any(|m| m.source_name == source.name) {
            continue;
        }
        files.extend(paths(source, data_root)?);
        if let Some(sha256) = &source.sha256 {
            declared.insert(source.path.clone(), (source.name.clone(), sha256.clone()));
        }
    }
    let mut hashes = Vec::with_capacity(files.len());
    for (name, path) in files {
        let hash = FileHash::of(&path, name)?;
        if let Some((source_name, expected)) = declared.get(&hash.path)
            && !expected.eq_ignore_ascii_case(&hash.sha256)
        {
            return Err(Error::Checksum {
                source_name: source_name.clone(),
                path: hash.path,
                expected: expected.clone(),
                found: hash.sha256,
            });
        }
        hashes.push(hash);
    }
    Ok(hashes)
}
