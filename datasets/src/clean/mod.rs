//! Cleaning: what happens to records between reading and the split.

pub mod phi;
