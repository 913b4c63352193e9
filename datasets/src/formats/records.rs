//! Records of any shape, for a task's templates to read.

use super::{Format, array_or_lines};

pub(super) const FORMAT: Format = Format {
    name: "records",
    about: "any fields, for a [source.task]; JSON array or JSONL",
    splits: &[],
    read: array_or_lines,
    sample: None,
};
