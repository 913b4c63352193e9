//! What was made from what, under whose terms, and how recipes are read.
//!
//! The leaf of the workspace: every other crate may depend on it, and it knows none of them.
//!
//! - [`AccessClass`]: whose terms a text or a weight is under; the strictest one travels with everything made from it.
//! - [`Manifest`] and [`FileHash`]: what a stage of a run read, how it was set, and what it wrote.
//! - [`files`]: writes that leave the old file whole when they are interrupted.
//! - [`recipe`]: the recipe language, TOML with `extends`, `--set`, and errors that name line, key and cure.

mod access;
mod error;
pub mod files;
pub mod hash;
mod manifest;
pub mod recipe;

pub use access::AccessClass;
pub use error::{Error, Result};
pub use manifest::{FileHash, MANIFEST_FILE, MEASURED_FILE, Manifest};
