//! The samples as Parquet too, for those who look at data in Python or DuckDB.
//!
//! Conversations: `id`, `messages` (list of {role, content}, as Hugging Face's
//! chat sets have them), `source`, `file`, `record`, `licence`, `access`.
//! Documents: `text` in place of `messages`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::{Side, TRAIN_FILE, VALIDATION_FILE};
use crate::record::Sample;
use crate::{Error, Result};

const CONVERSATIONS: &str = "message samples {
    required binary id (UTF8);
    required group messages (LIST) { repeated group list { required group element {
        required binary role (UTF8);
        required binary content (UTF8);
    } } }
    required binary source (UTF8);
    required binary file (UTF8);
    required int64 record;
    required binary licence (UTF8);
    required binary access (UTF8);
}";

const DOCUMENTS: &str = "message samples {
    required binary id (UTF8);
    required binary text (UTF8);
    required binary source (UTF8);
    required binary file (UTF8);
    required int64 record;
    required binary licence (UTF8);
    required binary access (UTF8);
}";

/// Rows written at once, or these bytes of text: what is held in memory.
const GROUP_ROWS: usize = 16_384;
const GROUP_BYTES: usize = 32 << 20;

/// `train.parquet` and `validation.parquet`.
pub(super) struct Files {
    train: Output,
    validation: Output,
}

impl Files {
    pub(super) fn new(folder: &Path) -> Self {
        let output = |name: &str| Output {
            path: folder.join(name).with_extension("parquet"),
            writer: None,
            rows: Vec::new(),
            bytes: 0,
        };
        Self {
            train: output(TRAIN_FILE),
            validation: output(VALIDATION_FILE),
        }
    }

    pub(super) fn add(&mut self, side: Side, sample: &Sample) -> Result<()> {
        match side {
            Side::Train => self.train.add(sample),
            Side::Validation => self.validation.add(sample),
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        self.train.finish()?;
        self.validation.finish()
    }
}

struct Output {
    path: PathBuf,
    /// Made with the first rows: they say which of the two kinds it is.
    writer: Option<SerializedFileWriter<File>>,
    rows: Vec<Sample>,
    bytes: usize,
}

impl Output {
    fn add(&mut self, sample: &Sample) -> Result<()> {
        self.bytes += sample.text_bytes();
        self.rows.push(sample.clone());
        if self.rows.len() == GROUP_ROWS || self.bytes > GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let written = (|| {
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(create(&self.path, rows.first())?),
            };
            if !rows.is_empty() {
                let mut group = writer.next_row_group()?;
                write_group(&mut group, &rows)?;
                group.close()?;
            }
            Ok(())
        })();
        written.map_err(|error: ParquetError| {
            Error::write(&self.path)(std::io::Error::other(error.to_string()))
        })
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        let path = self.path;
        let closed = self.writer.map(|writer| writer.close()).transpose();
        let failed =
            |error: ParquetError| Error::write(&path)(std::io::Error::other(error.to_string()));
        closed.map(|_| ()).map_err(failed)
    }
}

fn create(
    path: &Path,
    first: Option<&Sample>,
) -> std::result::Result<SerializedFileWriter<File>, ParquetError> {
    let schema = match first {
        Some(Sample::Document(_)) => DOCUMENTS,
        _ => CONVERSATIONS,
    };
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // The bytes must not change with the library's version.
        .set_created_by("medtune".to_owned())
        .build();
    SerializedFileWriter::new(
        File::create(path)?,
        Arc::new(parse_message_type(schema)?),
        Arc::new(properties),
    )
}

type Written = std::result::Result<(), ParquetError>;

fn write_group(group: &mut SerializedRowGroupWriter<'_, File>, rows: &[Sample]) -> Written {
    let provenance = |text: fn(&Sample) -> &str| rows.iter().map(text).collect::<Vec<_>>();
    texts(group, &provenance(Sample::id), None)?;
    match rows.first() {
        Some(Sample::Document(_)) => {
            let text = |sample: &Sample| match sample {
                Sample::Document(document) => document.text.clone(),
                Sample::Conversation(_) => String::new(),
            };
            let all: Vec<String> = rows.iter().map(text).collect();
            texts(
                group,
                &all.iter().map(String::as_str).collect::<Vec<_>>(),
                None,
            )?;
        }
        _ => {
            let messages: Vec<_> = rows
                .iter()
                .flat_map(|sample| match sample {
                    Sample::Conversation(conversation) => conversation.messages.iter().enumerate(),
                    Sample::Document(_) => [].iter().enumerate(),
                })
                .collect();
            // Level 0 begins a row; a conversation has at least one message.
            let begins: Vec<i16> = messages.iter().map(|(i, _)| i16::from(*i > 0)).collect();
            let levels = (vec![1; begins.len()], begins);
            let roles: Vec<&str> = messages.iter().map(|(_, m)| m.role.name()).collect();
            let contents: Vec<&str> = messages.iter().map(|(_, m)| m.content.as_str()).collect();
            texts(group, &roles, Some(&levels))?;
            texts(group, &contents, Some(&levels))?;
        }
    }
    texts(group, &provenance(|s| &s.provenance().source), None)?;
    texts(group, &provenance(|s| &s.provenance().file), None)?;
    let records: Vec<i64> = rows.iter().map(|s| s.provenance().record as i64).collect();
    if let Some(mut column) = group.next_column()? {
        column
            .typed::<Int64Type>()
            .write_batch(&records, None, None)?;
        column.close()?;
    }
    texts(group, &provenance(|s| &s.provenance().licence), None)?;
    texts(group, &provenance(|s| s.provenance().access.name()), None)
}

/// Writes the next column; `levels` are (definition, repetition).
fn texts(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[&str],
    levels: Option<&(Vec<i16>, Vec<i16>)>,
) -> Written {
    let values: Vec<ByteArray> = values.iter().map(|&text| ByteArray::from(text)).collect();
    if let Some(mut column) = group.next_column()? {
        let (definition, repetition) = levels.map(|(d, r)| (d.as_slice(), r.as_slice())).unzip();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, definition, repetition)?;
        column.close()?;
    }
    Ok(())
}
