//! How an answer is taken out of generated text.
//!
//! A filter either finds the answer or says that it can't (`None`). What could not be extracted is
//! counted and reported beside the score, never guessed: a score can't be told from luck when
//! anything that merely contains a letter counts as that letter.

mod first_line;
mod label;
mod labels;
mod letter;
mod number;
mod ranked_list;
mod spans;
mod strip;

use crate::registry::{self, Named};

/// One entry of the registry.
#[derive(Debug)]
pub struct Filter {
    /// Its name in task files.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Whether it looks for the task's options.
    pub needs_options: bool,
    /// The answer in the text, given the item's options.
    pub extract: fn(text: &str, options: &[String]) -> Option<String>,
}

/// Every filter that a task can name.
pub const FILTERS: &[Filter] = &[
    label::LABEL,
    labels::LABELS,
    letter::LETTER,
    first_line::FIRST_LINE,
    strip::STRIP,
    spans::SPANS,
    number::NUMBER,
    number::MARKED_NUMBER,
    ranked_list::RANKED_LIST,
];

/// What a task with options uses where it names no filter.
pub(crate) const LABEL: &Filter = &label::LABEL;
/// What a task without options uses where it names no filter.
pub(crate) const STRIP: &Filter = &strip::STRIP;

impl Named for Filter {
    const KIND: &'static str = "filter";
    const ALL: &'static [Filter] = FILTERS;
    fn name(&self) -> &'static str {
        self.name
    }
}

/// A filter named in a task file.
pub type FilterName = registry::Name<Filter>;
