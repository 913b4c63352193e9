//! How an answer is taken out of generated text.
//!
//! A filter either finds the answer or says that it can't (`None`). What could not be extracted is
//! counted and reported beside the score, never guessed: a score can't be told from luck when
//! anything that merely contains a letter counts as that letter.
//!
//! Before a filter sees the text, what the model reasoned is left out, and a task's own pattern may
//! narrow it.

mod first_line;
mod label;
mod labels;
mod letter;
mod number;
mod pattern;
mod ranked_list;
mod reasoning;
mod spans;
mod strip;

pub(crate) use number::number_in;
pub use pattern::Pattern;

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

/// The answer in what a model wrote.
pub(crate) fn answer_in(
    written: &str,
    options: &[String],
    pattern: Option<&Pattern>,
    filter: &Filter,
) -> Option<String> {
    let text = reasoning::without_reasoning(written);
    let found = match pattern {
        Some(pattern) => pattern.find(&text)?,
        None => &text,
    };
    (filter.extract)(found, options)
}

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
