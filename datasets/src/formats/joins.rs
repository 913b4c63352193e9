//! Other tables that a format joins to its records, which a recipe names under
//! `tables`.

use std::collections::HashSet;
use std::path::Path;

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

/// The values of one column of a TSV without quotes, its header among them.
pub(crate) fn read_column(file: &SourceFile, column: usize) -> Result<HashSet<String>> {
    let value = |line: Result<(u64, String)>| {
        let (_, line) = line?;
        Ok(line.split('\t').nth(column).unwrap_or_default().to_string())
    };
    Lines::open(file)?.map(value).collect()
}
