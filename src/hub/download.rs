//! From a list of files to a folder in the cache: each content once, checked, and the folder named when all are there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use adapters::hub::{HubCache, HubName};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use ledger::files::{create_dir_all, write_atomic};
use ledger::hash::Sha256;
use serde::Serialize;
use sha1::{Digest, Sha1};

use super::choose::{Choice, INDEX};
use super::client::{Client, FileFacts, Repository, Trouble};
use crate::failure::Failure;
use crate::terminal::{bytes, bytes_bar, note};

/// Attempts in a row that bring nothing before a download is given up.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; twice as long before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// A model in the cache.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// `ORG/NAME`, with the revision where one was given.
    pub name: String,
    /// The commit that the revision stands for.
    pub commit: String,
    /// The folder with its files.
    pub folder: PathBuf,
    /// The files asked for.
    pub files: Vec<String>,
    /// Their length together.
    pub bytes: u64,
    /// How much of it came over the network now.
    pub downloaded_bytes: u64,
}

/// A file to be there.
struct Wanted {
    file: String,
    facts: FileFacts,
}

/// A download in progress.
struct Job<'a> {
    client: &'a Client,
    name: &'a HubName,
    /// The model's folder in the cache.
    model: PathBuf,
    /// The folder of the locks, which huggingface_hub takes too.
    locks: PathBuf,
    commit: &'a str,
    bar: ProgressBar,
}

/// Downloads what is missing of a model, and gives the folder of its files. Whole files that are in the cache are kept,
/// broken-off ones are gone on with. The folder is recorded as the revision's when every file is there.
pub fn fetch(
    client: &Client,
    cache: &HubCache,
    name: &HubName,
    choice: &Choice,
) -> Result<Fetched> {
    let Repository { commit, files: all } =
        again(&format!("asking for `{name}`"), || client.repository(name))?;
    let model = cache.model(name);
    let locks = cache.root().join(".locks");
    let job = Job {
        client,
        name,
        locks: locks.join(model.file_name().unwrap_or_default()),
        model,
        commit: &commit,
        bar: bytes_bar(0, "fetch"),
    };
    create_dir_all(&job.model.join("blobs"))?;
    create_dir_all(&job.locks)?;
    let mut downloaded = 0;
    let mut files = choice.files(name, &all)?;
    if files.iter().any(|file| file == INDEX) {
        let index = job.wanted(INDEX)?;
        downloaded += job.bring(&index)?;
        files.extend(choice.shards(&job.blob(&index), &all)?);
    }
    files.sort();
    files.dedup();
    let wanted: Vec<Wanted> = files
        .iter()
        .map(|file| job.wanted(file))
        .collect::<Result<_>>()?;
    job.require_space(&wanted)?;
    let missing = wanted.iter().filter(|wanted| !job.has(wanted));
    job.bar
        .set_length(missing.map(|wanted| wanted.facts.size_bytes).sum());
    for wanted in &wanted {
        downloaded += job.bring(wanted)?;
    }
    job.bar.finish_and_clear();
    let folder = cache.snapshot_of(name, &commit);
    job.link(&folder, &wanted)?;
    if name.revision() != commit {
        let record = job.model.join("refs").join(name.revision());
        create_dir_all(record.parent().unwrap_or(&job.model))?;
        write_atomic(&record, commit.as_bytes())?;
    }
    Ok(Fetched {
        name: name.to_string(),
        folder,
        files,
        bytes: wanted.iter().map(|wanted| wanted.facts.size_bytes).sum(),
        downloaded_bytes: downloaded,
        commit,
    })
}

/// Does something until it is done, or has failed too often.
fn again<T>(what: &str, mut work: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
    let mut patience = Patience::default();
    loop {
        match work() {
            Ok(done) => return Ok(done),
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(why)) => patience.wait(what, &why)?,
        }
    }
}

/// Attempts in a row that brought nothing.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn wait(&mut self, what: &str, why: &str) -> Result<()> {
        self.0 += 1;
        if self.0 >= ATTEMPTS {
            let failure = Failure::machine(format!("{what} failed {ATTEMPTS} times: {why}"));
            return Err(failure
                .hint("what has arrived is kept: the same command goes on from there")
                .into());
        }
        sleep(FIRST_WAIT * 2u32.pow(self.0 - 1));
        Ok(())
    }
}

impl Job<'_> {
    fn wanted(&self, file: &str) -> Result<Wanted> {
        let facts = again(&format!("asking for {file}"), || {
            self.client.facts(self.name, self.commit, file)
        })?;
        Ok(Wanted {
            file: file.to_owned(),
            facts,
        })
    }

    fn blob(&self, wanted: &Wanted) -> PathBuf {
        self.model.join("blobs").join(&wanted.facts.etag)
    }

    /// What a broken-off download has left.
    fn partial(&self, wanted: &Wanted) -> PathBuf {
        let name = format!("{}.incomplete", wanted.facts.etag);
        self.model.join("blobs").join(name)
    }

    /// A content has its name only once it was checked.
    fn has(&self, wanted: &Wanted) -> bool {
        length(&self.blob(wanted)) == Some(wanted.facts.size_bytes)
    }

    fn require_space(&self, wanted: &[Wanted]) -> Result<()> {
        let missing = wanted.iter().filter(|wanted| !self.has(wanted));
        let needed: u64 = missing
            .map(|wanted| {
                let begun = length(&self.partial(wanted)).unwrap_or(0);
                wanted.facts.size_bytes.saturating_sub(begun)
            })
            .sum();
        match finetune::free_disk_bytes(&self.model) {
            Some(free) if free < needed => {
                let message = format!(
                    "`{}` needs {} more, and the disk of the cache has {} left",
                    self.name,
                    bytes(needed),
                    bytes(free)
                );
                Err(Failure::machine(message)
                    .hint("make room, or name a cache on another disk with HF_HUB_CACHE")
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Downloads a content that is not there, and gives how many bytes came.
    fn bring(&self, wanted: &Wanted) -> Result<u64> {
        if self.has(wanted) {
            return Ok(0);
        }
        let _lock = self.lock(&wanted.facts.etag)?;
        if self.has(wanted) {
            return Ok(0);
        }
        self.bar.set_message(wanted.file.clone());
        let (partial, done) = (self.partial(wanted), self.bar.position());
        let what = format!("downloading {}", wanted.file);
        let (mut patience, mut came) = (Patience::default(), 0);
        loop {
            let before = came;
            match self.go_on(wanted, &partial, done, &mut came) {
                Ok(()) => break,
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(why)) => {
                    // A connection that breaks now and then, with something new each time, gets there.
                    if came > before && length(&partial).is_some_and(|length| length > 0) {
                        patience = Patience::default();
                    }
                    patience.wait(&what, &why)?;
                }
            }
        }
        let blob = self.blob(wanted);
        let renamed = File::open(&partial)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&partial, &blob));
        renamed.with_context(|| format!("cannot write `{}`", blob.display()))?;
        Ok(came)
    }

    /// Goes on with a content from where it was broken off, to its end, and checks it.
    fn go_on(
        &self,
        wanted: &Wanted,
        partial: &Path,
        done: u64,
        came: &mut u64,
    ) -> Result<(), Trouble> {
        let FileFacts { etag, size_bytes } = &wanted.facts;
        let failed = |error: io::Error| {
            let error = anyhow::Error::from(error);
            Trouble::Lasting(error.context(format!("cannot write `{}`", partial.display())))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(partial)
            .map_err(failed)?;
        let mut content = Content::of(etag, *size_bytes);
        let mut fresh = false;
        let mut there = file.metadata().map_err(failed)?.len();
        if there > *size_bytes {
            file.set_len(0).map_err(failed)?;
            there = 0;
        }
        if there < *size_bytes {
            let (body, resumed) =
                self.client
                    .content(self.name, self.commit, &wanted.file, there)?;
            if !resumed {
                file.set_len(0).map_err(failed)?;
                there = 0;
            }
            fresh = there == 0;
            content.read(&mut (&file).take(there)).map_err(failed)?;
            let mut body = body.into_reader();
            let mut piece = vec![0; 1 << 18];
            loop {
                let read = body
                    .read(&mut piece)
                    .map_err(|error| Trouble::Passing(error.to_string()))?;
                if read == 0 {
                    break;
                }
                there += read as u64;
                *came += read as u64;
                if there > *size_bytes {
                    file.set_len(0).map_err(failed)?;
                    return Err(Trouble::Passing(format!(
                        "more came than its {size_bytes} bytes"
                    )));
                }
                content.update(&piece[..read]);
                file.write_all(&piece[..read]).map_err(failed)?;
                self.bar.set_position(done + there);
            }
        } else {
            content.read(&mut (&file).take(there)).map_err(failed)?;
        }
        if there < *size_bytes {
            return Err(Trouble::Passing(format!(
                "it ended after {there} of {size_bytes} bytes"
            )));
        }
        match content.problem(etag) {
            None => Ok(()),
            Some(problem) => {
                file.set_len(0).map_err(failed)?;
                if !fresh {
                    return Err(Trouble::Passing(problem));
                }
                let message = format!("{} came whole and wrong: {problem}", wanted.file);
                Err(Failure::machine(message)
                    .hint("something between the hub and this machine changes files, or the hub's are damaged")
                    .into())
            }
        }
    }

    /// Keeps other processes from the same content, also those of huggingface_hub, until it is dropped.
    fn lock(&self, etag: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let failed = || format!("cannot lock `{}`", path.display());
        let file = File::create(&path).with_context(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                note("fetch  waits for another process that downloads the same file");
                file.lock().with_context(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
        }
        Ok(file)
    }

    /// Gives the contents their names in the folder of the commit, what makes it a model last.
    fn link(&self, folder: &Path, wanted: &[Wanted]) -> Result<()> {
        let says_what = |wanted: &&Wanted| {
            ["config.json", "adapter_config.json"].contains(&wanted.file.as_str())
        };
        let (last, first): (Vec<_>, Vec<_>) = wanted.iter().partition(says_what);
        for wanted in first.into_iter().chain(last) {
            let path = folder.join(&wanted.file);
            create_dir_all(path.parent().unwrap_or(folder))?;
            if length(&path) == Some(wanted.facts.size_bytes) {
                continue;
            }
            let placed = place(&self.blob(wanted), &wanted.facts.etag, &wanted.file, &path);
            placed.with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(())
    }
}

/// Puts a link to a content at `path`, which is `file` in its folder; a copy where there are no links.
fn place(blob: &Path, etag: &str, file: &str, path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path)?;
    }
    #[cfg(unix)]
    {
        let _ = blob;
        let up = "../".repeat(2 + file.matches('/').count());
        std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), path)
    }
    #[cfg(not(unix))]
    {
        let _ = (etag, file);
        fs::copy(blob, path).map(|_| ())
    }
}

fn length(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.len())
}

/// The hash that an ETag is, if it is one.
enum Content {
    /// Of what the hub stores apart.
    Sha256(Sha256),
    /// A git blob's id: of its kind, its length and its bytes.
    Git(Sha1),
    /// A mirror's own name; only the length can be checked.
    Unknown,
}

impl Content {
    fn of(etag: &str, size_bytes: u64) -> Self {
        let hexadecimal = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if hexadecimal => Self::Sha256(Sha256::new()),
            40 if hexadecimal => Self::Git(Sha1::new_with_prefix(format!("blob {size_bytes}\0"))),
            _ => Self::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::Unknown => {}
        }
    }

    fn read(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut piece = vec![0; 1 << 18];
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                read => self.update(&piece[..read]),
            }
        }
    }

    fn problem(self, etag: &str) -> Option<String> {
        let found: Vec<u8> = match self {
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Git(hash) => hash.finalize().to_vec(),
            Self::Unknown => return None,
        };
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        let same = found.eq_ignore_ascii_case(etag);
        (!same).then(|| format!("its hash is {found}, and the hub states {etag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_checked_by_what_names_them() {
        let problem = |etag: &str, bytes: &[u8]| {
            let mut content = Content::of(etag, bytes.len() as u64);
            content.read(&mut &*bytes).unwrap();
            content.problem(etag)
        };
        // `printf hello | git hash-object --stdin` and sha256sum.
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for etag in [git, sha256, "a-mirrors-own"] {
            assert_eq!(problem(etag, b"hello"), None, "{etag}");
        }
        for etag in [git, sha256] {
            assert!(problem(etag, b"hullo").unwrap().contains(etag));
        }
        assert_eq!(problem("a-mirrors-own", b"hullo"), None);
    }
}
