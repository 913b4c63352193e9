//! Files and folders that are there whole, or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes a file so that a reader, or a crash at any moment, finds the old content or the new, never a part.
///
/// The bytes go to a file beside it, are forced to the disk, and take the name at once. The folder must exist.
///
/// # Errors
/// [`Error::Write`]; the old file is then as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    // The process id keeps two programs that write the same file from sharing one draft.
    let draft = beside(path, &format!(".{}.partial", std::process::id()));
    let written = (|| {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_parent(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.map_err(failed)
}

/// Whether a write failed for want of room: on the disk, in a quota, or under the process's limit on file sizes.
#[must_use]
pub fn is_full(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Makes a folder and those above it, so that their names outlast a power failure.
///
/// # Errors
/// [`Error::Write`].
pub fn create_dir_all(folder: &Path) -> Result<()> {
    create_missing(folder).map_err(|source| Error::Write {
        path: folder.to_owned(),
        source,
    })
}

fn create_missing(folder: &Path) -> std::io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_parent(folder),
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = folder
                .parent()
                .filter(|above| !above.as_os_str().is_empty());
            create_missing(above.ok_or(error)?)?;
            fs::create_dir(folder)?;
            sync_parent(folder)
        }
        Err(error) => Err(error),
    }
}

/// A folder being made: it is `DIR.partial` until [`StagedDir::commit`] gives it its name, and is removed when it
/// is dropped before that.
#[derive(Debug)]
#[must_use = "dropping it removes the folder"]
pub struct StagedDir {
    partial: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl StagedDir {
    /// Makes an empty `target.partial` (and the folders above it), removing what an interrupted attempt left.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(target: &Path) -> Result<Self> {
        let partial = beside(target, ".partial");
        let failed = |source| Error::Write {
            path: partial.clone(),
            source,
        };
        restore_replaced(target)?;
        if fs::symlink_metadata(&partial).is_ok() {
            remove_any(&partial).map_err(failed)?;
        }
        create_missing(&partial).map_err(failed)?;
        Ok(Self {
            partial,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// Where to write meanwhile.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Forces everything to the disk and gives the folder its name. What stood there before is replaced; should
    /// the machine stop between the two renames, the next [`StagedDir::create`] puts the old one back.
    ///
    /// # Errors
    /// [`Error::Write`]; the old folder is then as it was.
    pub fn commit(mut self) -> Result<()> {
        let failed = |source| Error::Write {
            path: self.target.clone(),
            source,
        };
        sync_tree(&self.partial).map_err(failed)?;
        let replaced = beside(&self.target, ".replaced");
        let existed = fs::symlink_metadata(&self.target).is_ok();
        if existed {
            if fs::symlink_metadata(&replaced).is_ok() {
                remove_any(&replaced).map_err(failed)?;
            }
            fs::rename(&self.target, &replaced).map_err(failed)?;
        }
        if let Err(source) = fs::rename(&self.partial, &self.target) {
            if existed {
                let _ = fs::rename(&replaced, &self.target);
            }
            return Err(failed(source));
        }
        self.committed = true;
        sync_parent(&self.target).map_err(failed)?;
        if existed {
            remove_any(&replaced).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// A file being made: it is `FILE.partial` until [`StagedFile::commit`] gives it its name, and is removed when it is
/// dropped before that. For what is too large for [`write_atomic`].
#[derive(Debug)]
#[must_use = "dropping it removes the file"]
pub struct StagedFile {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Makes an empty `target.partial`, in the place of what an interrupted attempt left. The folder must exist.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(target: &Path) -> Result<Self> {
        let partial = beside(target, ".partial");
        let file = File::create(&partial).map_err(|source| Error::Write {
            path: partial.clone(),
            source,
        })?;
        Ok(Self {
            file,
            partial,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// Where to write meanwhile.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Forces everything to the disk and gives the file its name; one that stood there before is replaced at once.
    ///
    /// # Errors
    /// [`Error::Write`]; the old file is then as it was.
    pub fn commit(mut self) -> Result<()> {
        let failed = |source| Error::Write {
            path: self.target.clone(),
            source,
        };
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.partial, &self.target).map_err(failed)?;
        self.committed = true;
        sync_parent(&self.target).map_err(failed)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Undoes the first half of a replacement that was cut between its two renames.
fn restore_replaced(target: &Path) -> Result<()> {
    let replaced = beside(target, ".replaced");
    if fs::symlink_metadata(target).is_err() && fs::symlink_metadata(&replaced).is_ok() {
        fs::rename(&replaced, target).map_err(|source| Error::Write {
            path: target.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// `path` with something added to its last name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    // `a/b/` and `a/b` are the same folder: components drop the trailing slash.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove_any(path: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

/// A rename lasts only once its folder is on the disk too. Only Unix lets a folder be opened and synced.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.json");
        write_atomic(&path, b"first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["scores.json"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(matches!(
            write_atomic(&path, b"x"),
            Err(Error::Write { .. })
        ));
        assert_eq!(names(folder.path()), ["taken"]);
        assert!(path.join("inside").is_dir());
    }

    #[test]
    fn a_folder_appears_on_commit_and_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/merged");
        for round in ["one", "two"] {
            let staged = StagedDir::create(&target).unwrap();
            assert!(staged.path().ends_with("deep/merged.partial"));
            fs::create_dir(staged.path().join("sub")).unwrap();
            fs::write(staged.path().join("sub").join(round), round).unwrap();
            staged.commit().unwrap();
            assert_eq!(names(&target.join("sub")), [round]);
        }
        assert_eq!(names(&folder.path().join("deep")), ["merged"]);
    }

    #[test]
    fn folders_are_made_under_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        for deep in ["a/b/c", "a/b/c", "a/b/", "./a/../d"] {
            create_dir_all(&folder.path().join(deep)).unwrap();
        }
        assert!(folder.path().join("a/b/c").is_dir() && folder.path().join("d").is_dir());
        fs::write(folder.path().join("file"), "x").unwrap();
        for wrong in ["file", "file/a", "file/a/b"] {
            let made = create_dir_all(&folder.path().join(wrong));
            assert!(matches!(made, Err(Error::Write { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_folder_that_is_dropped_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("adapter");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "kept").unwrap();
        let staged = StagedDir::create(&target).unwrap();
        fs::write(staged.path().join("half"), "half").unwrap();
        drop(staged);
        assert_eq!(names(folder.path()), ["adapter"]);
        assert_eq!(names(&target), ["kept"]);
    }

    #[test]
    fn what_an_interrupted_attempt_left_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        fs::create_dir(folder.path().join("data.partial")).unwrap();
        fs::write(folder.path().join("data.partial/stale"), "stale").unwrap();
        // Cut between the two renames: the old folder has lost its name.
        fs::create_dir(folder.path().join("data.replaced")).unwrap();
        fs::write(folder.path().join("data.replaced/old"), "old").unwrap();
        let staged = StagedDir::create(&target).unwrap();
        assert_eq!(names(staged.path()), Vec::<String>::new());
        assert_eq!(names(&target), ["old"]);
        staged.commit().unwrap();
        assert_eq!(names(folder.path()), ["data"]);
    }
}
