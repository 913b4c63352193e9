//! Tables of any columns, for a task's templates to read.

use std::path::Path;

use super::Format;
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Dialect, Header, Rows, table};

pub(super) const CSV: Format = Format {
    name: "csv",
    about: "the columns of the first row (or of `columns`), between commas; cells may be quoted and span lines",
    splits: &[],
    read: |file, source, _| table(file, Dialect::CSV, Header::of(source), &[]),
    sample: None,
};

pub(super) const TSV: Format = Format {
    name: "tsv",
    about: "the columns of the first row (or of `columns`), between tabs; cells may be quoted and span lines",
    splits: &[],
    read: |file, source, _| table(file, Dialect::TSV, Header::of(source), &[]),
    sample: None,
};

pub(super) const XLSX: Format = Format {
    name: "xlsx",
    about: "the columns of a workbook's `sheet` (its first if not given), named in the first row",
    splits: &[],
    read: |file, source, _| crate::rows::workbook(file, source.sheet.as_deref(), &[]),
    sample: None,
};

pub(super) const PARQUET: Format = Format {
    name: "parquet",
    about: "the columns of a Parquet file; lists and structs become lists and objects",
    splits: &[],
    read: parquet,
    sample: None,
};

fn parquet(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    crate::rows::parquet(file, &[])
}
