//! What can go wrong in this crate.

use std::io;
use std::path::PathBuf;

use crate::recipe::Problem;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A manifest does not hold what a manifest holds.
    #[error("`{}` is not a manifest that this version can read", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// Where its JSON and ours part.
        source: serde_json::Error,
    },
    /// A recipe has problems: all of them, in the order of its files and lines.
    #[error("{}", crate::recipe::list_problems(.0))]
    Recipe(Vec<Problem>),
    /// A value could not be turned into JSON.
    #[error("cannot write {what} as JSON")]
    Json {
        /// What was to be written.
        what: &'static str,
        /// The serializer's reason.
        source: serde_json::Error,
    },
}

impl Error {
    /// What the user can do about it. A recipe's problems carry their own hints, printed with each.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("check the path; a relative one starts from the current folder".into())
            }
            Self::Write { source, .. } if crate::files::is_full(source.kind()) => {
                Some("free some space on the disk, or choose another folder with --out".into())
            }
            Self::Write { source, .. } if is_closed(source.kind()) => {
                Some("choose a folder that you may write to with --out".into())
            }
            Self::Manifest { path, .. } => Some(format!(
                "remove `{}` to run its stage again",
                path.display()
            )),
            Self::Read { .. } | Self::Write { .. } | Self::Recipe(_) | Self::Json { .. } => None,
        }
    }
}

/// Whether a write failed because nothing may be written there.
fn is_closed(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &Error) -> String {
        format!(
            "{error}\nhint: {}",
            error.hint().unwrap_or_else(|| "none".into())
        )
    }

    #[test]
    fn messages() {
        let path = || PathBuf::from("data/train.jsonl");
        insta::assert_snapshot!(
            shown(&Error::Read { path: path(), source: io::ErrorKind::NotFound.into() }),
            @"
        cannot read `data/train.jsonl`
        hint: check the path; a relative one starts from the current folder
        "
        );
        insta::assert_snapshot!(
            shown(&Error::Write { path: path(), source: io::ErrorKind::StorageFull.into() }),
            @"
        cannot write `data/train.jsonl`
        hint: free some space on the disk, or choose another folder with --out
        "
        );
        insta::assert_snapshot!(
            shown(&Error::Write { path: path(), source: io::ErrorKind::PermissionDenied.into() }),
            @"
        cannot write `data/train.jsonl`
        hint: choose a folder that you may write to with --out
        "
        );
        insta::assert_snapshot!(
            shown(&Error::Json {
                what: "the manifest",
                source: serde_json::from_str::<u8>("x").unwrap_err(),
            }),
            @"
        cannot write the manifest as JSON
        hint: none
        "
        );
    }
}
