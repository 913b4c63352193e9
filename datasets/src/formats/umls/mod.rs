//! The UMLS Metathesaurus as the National Library of Medicine ships it (RRF).

mod concepts;
mod relations;
mod rrf;
mod tables;

use super::Format;
use crate::files::SourceFile;
use crate::recipe::SourceSection;

pub(super) const RELATIONS: Format = Format {
    name: "umls-relations",
    about: "MRREL.RRF (or the META folder), a row a relation: subject, relation, object, relation_text, cui1, cui2, name1, name2, rel, rela, source; tables.concepts = MRCONSO.RRF, tables.definitions = MRDEF.RRF (definition1, definition2), tables.types = MRSTY.RRF (types1, types2: lists)",
    splits: &[],
    read: relations::read,
    sample: None,
};

pub(super) const CONCEPTS: Format = Format {
    name: "umls-concepts",
    about: "MRCONSO.RRF (or the META folder), a row a concept: cui, name, synonyms (list); tables.definitions = MRDEF.RRF (definition), tables.types = MRSTY.RRF (types: list)",
    splits: &[],
    read: concepts::read,
    sample: None,
};

/// Whether a file of a folder is another table of the release than `name`: the
/// source may be the whole META folder. A source that names a file reads it.
fn another_table(file: &SourceFile, source: &SourceSection, name: &str) -> bool {
    let base = file.plain_name().rsplit('/').next().unwrap_or_default();
    file.name != source.path && base != format!("{name}.RRF")
}
