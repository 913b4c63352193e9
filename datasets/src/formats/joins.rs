//! Other tables that a format joins to its records, which a recipe names under
//! `tables`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::lines::Lines;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::{Error, Result};

/// The tables that a format knows, by their names in recipes, with what each
/// one is.
#[derive(Debug)]
pub(crate) struct Tables {
    pub format: &'static str,
    pub needed: &'static [(&'static str, &'static str)],
    pub optional: &'static [(&'static str, &'static str)],
}

impl Tables {
    /// Refuses a source that lacks a table that is needed or names one that
    /// there is not.
    pub fn check(&self, source: &SourceSection) -> Result<()> {
        let problem = |table: &str, missing| Error::Tables {
            source_name: source.name.as_str().into(),
            format: self.format,
            table: table.into(),
            missing,
            needed: self.needed,
            optional: self.optional,
        };
        for (name, _) in self.needed {
            if !source.tables.contains_key(*name) {
                return Err(problem(name, true));
            }
        }
        let known = || self.needed.iter().chain(self.optional);
        for name in source.tables.keys() {
            if !known().any(|(known, _)| known == name) {
                return Err(problem(name, false));
            }
        }
        Ok(())
    }

    /// The file of a table, if the source names it.
    pub fn file(
        &self,
        source: &SourceSection,
        data_root: &Path,
        table: &str,
    ) -> Option<SourceFile> {
        let path = source.tables.get(table)?;
        Some(SourceFile::new(data_root.join(path), path.clone()))
    }
}

type Column = (PathBuf, SystemTime, Arc<HashSet<String>>);

/// The values of the first column of a TSV without quotes, its header among them.
///
/// A folder's files are opened one by one and each asks for the same table, so
/// the last one that was read is kept while it does not change.
pub(crate) fn first_column(file: &SourceFile) -> Result<Arc<HashSet<String>>> {
    static LAST: Mutex<Option<Column>> = Mutex::new(None);
    let changed = std::fs::metadata(&file.path).and_then(|facts| facts.modified());
    let changed = changed.map_err(Error::read(&file.path))?;
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path, at, values)) = last.as_ref()
        && (path, at) == (&file.path, &changed)
    {
        return Ok(values.clone());
    }
    let value = |line: Result<(u64, String)>| {
        let (_, line) = line?;
        Ok(line.split('\t').next().unwrap_or_default().to_string())
    };
    let values: HashSet<String> = Lines::open(file)?.map(value).collect::<Result<_>>()?;
    let values = Arc::new(values);
    *last = Some((file.path.clone(), changed, values.clone()));
    Ok(values)
}
