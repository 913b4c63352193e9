//! XML files as trees of elements, one record's tree at a time.
//!
//! What is not trusted: the number of bytes, elements and levels in a record is
//! limited; definitions of entities are never read, so an entity that neither
//! XML nor HTML 5 knows stays in the text as it is written (`&lol9;`) and cannot
//! grow; an external document type is never fetched.

mod draft;
mod element;
mod reader;

pub(crate) use draft::{Draft, Flaw, name_only};
pub(crate) use element::{Element, Node, fold, resolve, tidy};
pub(crate) use reader::{Drafts, one, rows};
