//! Cleaning: what is done to a record's text, and which records are left out.
//!
//! - [`Normaliser`] writes equal text with equal bytes, and turns HTML and the
//!   marks of de-identified notes into text;
//! - [`Sketcher`] and [`duplicates`] find records that are the same, or nearly
//!   the same, as an earlier one;
//! - [`Contamination`] finds records that hold an evaluation item;
//! - [`phi`] finds what may identify a patient.
//!
//! These are functions of text alone: no files, no order of threads. A pipeline
//! calls them and counts and lists what they say.

mod decontaminate;
mod duplicates;
mod grams;
mod html;
mod marks;
mod normalise;
pub mod phi;
mod sketch;
mod words;

pub use decontaminate::{Contamination, Hit, HitKind, Probe};
pub use duplicates::{Duplicate, DuplicateKind, duplicates};
pub(crate) use html::named_entity;
pub use normalise::{Changes, Normaliser};
pub use sketch::{SKETCH_VALUES, Sketch, Sketcher};
