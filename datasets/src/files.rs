//! Files as publishers ship them: plain, gzip (`.gz`), Zstandard (`.zst`), or
//! members of a `.zip` archive. What a file is, its first bytes say, not its name.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::Place;
use crate::recipe::SourceSection;
use crate::{Error, Result};

/// A file that a source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name relative to the data root, with `/` between folders; a member
    /// of an archive as `archive.zip/member`.
    pub name: String,
    /// Where it is; for a member, where the archive is.
    pub path: PathBuf,
    /// The member's name in the archive at `path`.
    pub member: Option<String>,
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTANDARD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ZIP: &[u8] = b"PK\x03\x04";
const BOM: &[u8] = "\u{feff}".as_bytes();

impl SourceFile {
    /// A file by its path, called `name` in errors.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            member: None,
        }
    }

    /// Its name without what a compressor added: `notes.csv.gz` is `notes.csv`.
    pub fn plain_name(&self) -> &str {
        let name = self.name.as_str();
        [".gz", ".zst"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(name)
    }

    /// Opens it for reading, uncompressed, past a byte order mark.
    ///
    /// # Errors
    /// It cannot be read, or the archive has no such member or packs it in a
    /// way that is not supported.
    pub fn open(&self) -> Result<Box<dyn BufRead + Send>> {
        let raw: Box<dyn Read + Send> = match &self.member {
            None => Box::new(File::open(&self.path).map_err(Error::read(&self.path))?),
            Some(member) => open_member(&self.path, member)?,
        };
        let raw = BufReader::with_capacity(1 << 16, raw);
        let mut plain = uncompressed(raw).map_err(|error| self.failed(1, error))?;
        let start = plain.fill_buf().map_err(|error| self.failed(1, error))?;
        if start.starts_with(BOM) {
            plain.consume(BOM.len());
        }
        Ok(plain)
    }

    /// All its bytes, uncompressed, for formats that must be read whole.
    ///
    /// # Errors
    /// As [`SourceFile::open`], or more than `limit_bytes` of them.
    pub fn bytes(&self, limit_bytes: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?
            .take(limit_bytes as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failed(1, error))?;
        if bytes.len() > limit_bytes {
            return Err(Error::RecordTooLarge {
                at: self.place(1, None),
                limit_bytes,
            });
        }
        Ok(bytes)
    }

    /// The error of reading it at `line`: a damaged archive, or the machine's.
    pub(crate) fn failed(&self, line: u64, error: std::io::Error) -> Error {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let problem = match error.kind() {
            UnexpectedEof => "ends early",
            InvalidData | InvalidInput => "is damaged",
            _ => return Error::read(&self.path)(error),
        };
        Error::Compressed {
            at: self.place(line, None),
            problem,
        }
    }

    /// A place in this file.
    pub fn place(&self, line: u64, record: Option<u64>) -> Place {
        Place {
            file: self.name.clone(),
            line,
            record,
        }
    }
}

fn uncompressed(
    mut raw: impl BufRead + Send + 'static,
) -> std::io::Result<Box<dyn BufRead + Send>> {
    let start = raw.fill_buf()?;
    let reader: Box<dyn Read + Send> = if start.starts_with(GZIP) {
        // Several streams one after another are one file (bgzip, `cat a.gz b.gz`).
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else if start.starts_with(ZSTANDARD) {
        Box::new(zstd::Decoder::with_buffer(raw)?)
    } else {
        return Ok(Box::new(raw));
    };
    Ok(Box::new(BufReader::with_capacity(1 << 16, reader)))
}

/// A member's bytes as a stream of its own: the archive's directory says where
/// they are, so that a large member is never held in memory.
fn open_member(path: &Path, member: &str) -> Result<Box<dyn Read + Send>> {
    let failed = |error: zip::result::ZipError| Error::Read {
        path: path.to_path_buf(),
        source: error.into(),
    };
    let mut archive = open_zip(path)?;
    let (start, length, method) = {
        let entry = archive
            .index_for_name(member)
            .ok_or(zip::result::ZipError::FileNotFound)
            .and_then(|index| archive.by_index_raw(index))
            .map_err(failed)?;
        let start = entry
            .data_start()
            .ok_or(zip::result::ZipError::FileNotFound);
        (
            start.map_err(failed)?,
            entry.compressed_size(),
            entry.compression(),
        )
    };
    let mut file = File::open(path).map_err(Error::read(path))?;
    file.seek(SeekFrom::Start(start))
        .map_err(Error::read(path))?;
    let raw = BufReader::with_capacity(1 << 16, file).take(length);
    match method {
        zip::CompressionMethod::Stored => Ok(Box::new(raw)),
        zip::CompressionMethod::Deflated => Ok(Box::new(flate2::bufread::DeflateDecoder::new(raw))),
        other => Err(Error::Read {
            path: path.to_path_buf(),
            source: std::io::Error::other(format!("member `{member}` is packed by {other}")),
        }),
    }
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<File>>> {
    let file = File::open(path).map_err(Error::read(path))?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|error| Error::Read {
        path: path.to_path_buf(),
        source: error.into(),
    })
}

/// The files of a source in the order of their names: the one it names, or
/// those in the folder or zip archive it names and in the folders in that.
/// `members` chooses among the latter.
///
/// # Errors
/// The path cannot be read, or there are no such files.
pub fn source_files(source: &SourceSection, data_root: &Path) -> Result<Vec<SourceFile>> {
    let path = data_root.join(&source.path);
    let kind = std::fs::metadata(&path).map_err(Error::read(&path))?;
    let name = source.path.trim_end_matches('/');
    let mut files = Vec::new();
    if kind.is_dir() {
        list_folder(&path, name, &mut files)?;
    } else if is_archive(&path)? {
        list_archive(&path, name, &mut files)?;
    } else {
        return Ok(vec![SourceFile::new(path, source.path.clone())]);
    }
    if let Some(pattern) = &source.members {
        let inside = |file: &SourceFile| file.name[name.len()..].trim_start_matches('/').to_owned();
        files.retain(|file| matches(pattern, &inside(file)));
    }
    if files.is_empty() {
        return Err(Error::EmptyFolder {
            source_name: source.name.clone(),
            path: source.path.clone(),
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn list_folder(folder: &Path, name: &str, files: &mut Vec<SourceFile>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        // Hidden files (.DS_Store, .git) are no data. A link to a folder is not
        // followed: it could lead back here.
        let kind = entry.file_type().map_err(Error::read(&path))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        } else if kind.is_dir() {
            list_folder(&path, &name, files)?;
        } else {
            files.push(SourceFile::new(path, name));
        }
    }
    Ok(())
}

/// A workbook is a zip archive too, but one file to its reader.
fn is_archive(path: &Path) -> Result<bool> {
    let workbook = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("xlsx"));
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ZIP.len() as u64).read_to_end(&mut start))
        .map_err(Error::read(path))?;
    Ok(start == ZIP && !workbook)
}

fn list_archive(path: &Path, name: &str, files: &mut Vec<SourceFile>) -> Result<()> {
    let archive = open_zip(path)?;
    let hidden = |member: &str| {
        // __MACOSX/ is what macOS adds for itself.
        member
            .split('/')
            .any(|part| part.starts_with('.') || part == "__MACOSX")
    };
    for member in archive.file_names() {
        let member = member.map_err(|error| Error::Read {
            path: path.to_path_buf(),
            source: error.into(),
        })?;
        if !member.ends_with('/') && !hidden(&member) {
            files.push(SourceFile {
                name: format!("{name}/{member}"),
                path: path.to_path_buf(),
                member: Some(member.into_owned()),
            });
        }
    }
    Ok(())
}

/// Whether a file's name in its folder fits a pattern: `*` stands for any
/// characters but `/`, `**/` for any folders, `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    fn at(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', b'*', b'/', rest @ ..] => {
                let folders = (0..name.len()).filter(|&i| name[i] == b'/');
                at(rest, name) || folders.into_iter().any(|i| at(rest, &name[i + 1..]))
            }
            [b'*', rest @ ..] => {
                let end = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
                (0..=end).any(|i| at(rest, &name[i..]))
            }
            [b'?', rest @ ..] => matches!(name, [c, tail @ ..] if *c != b'/' && at(rest, tail)),
            [c, rest @ ..] => matches!(name, [d, tail @ ..] if c == d && at(rest, tail)),
        }
    }
    at(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn section(path: &str, members: Option<&str>) -> SourceSection {
        let json = serde_json::json!({
            "name": "s", "format": "records", "path": path, "members": members,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn patterns_choose_files() {
        for (pattern, name, expected) in [
            ("*.xml", "a.xml", true),
            ("*.xml", "sub/a.xml", false),
            ("**/*.xml", "sub/deep/a.xml", true),
            ("**/*.xml", "a.xml", true),
            ("**/brat/*.txt", "train/brat/1.txt", true),
            ("**/brat/*.txt", "train/brat/1.ann", false),
            ("p1?/*", "p10/s1", true),
            ("p1?/*", "p1/s1", false),
            ("a*b*c", "aXbYc", true),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn compressed_files_and_archive_members_read_as_plain_ones() {
        let folder = tempfile::tempdir().unwrap();
        let text = "\u{feff}one\ntwo\n";
        let path = folder.path().join("a.csv.gz");
        let mut gzip = flate2::write::GzEncoder::new(
            File::create(&path).unwrap(),
            flate2::Compression::default(),
        );
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap();
        let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
        std::fs::write(folder.path().join("a.csv.zst"), packed).unwrap();
        let mut archive = zip::ZipWriter::new(File::create(folder.path().join("all.zip")).unwrap());
        for (name, method) in [
            ("x/b.csv", zip::CompressionMethod::Deflated),
            ("x/a.csv", zip::CompressionMethod::Stored),
            ("__MACOSX/x", zip::CompressionMethod::Stored),
        ] {
            let options = zip::write::SimpleFileOptions::default().compression_method(method);
            archive.start_file(name, options).unwrap();
            archive.write_all(text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();

        for (path, names) in [
            ("a.csv.gz", vec!["a.csv.gz"]),
            ("a.csv.zst", vec!["a.csv.zst"]),
            ("all.zip", vec!["all.zip/x/a.csv", "all.zip/x/b.csv"]),
        ] {
            let files = source_files(&section(path, None), folder.path()).unwrap();
            assert_eq!(
                files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
                names
            );
            for file in files {
                assert_eq!(file.bytes(100).unwrap(), b"one\ntwo\n", "{}", file.name);
                assert!(file.bytes(7).is_err());
            }
        }
        let chosen = source_files(&section("all.zip", Some("x/b*")), folder.path()).unwrap();
        assert_eq!(chosen.len(), 1);
        assert!(source_files(&section("all.zip", Some("*.txt")), folder.path()).is_err());
    }
}
