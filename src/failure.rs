//! How a failure is printed, and which exit code it has.
//!
//! | code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | an `[[expect]]` or a threshold of the recipe is not met, or a merge is not proven |
//! | 2 | the user's input: a recipe, a file, a flag |
//! | 3 | ours or the machine's: a defect, a full disk |
//! | 4 | stopped and resumable |

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// The exit codes, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Unmet,
    User,
    Ours,
    Stopped,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        let code = match exit {
            Exit::Done => 0,
            Exit::Unmet => 1,
            Exit::User => 2,
            Exit::Ours => 3,
            Exit::Stopped => 4,
        };
        Self::from(code)
    }
}

/// A failure that the binary itself found.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Something the user can set right.
    pub fn user(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::User,
            message: message.into(),
            hint: None,
        }
    }

    /// Something that the machine or the network refuses.
    pub fn machine(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Ours,
            ..Self::user(message)
        }
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// The failure as it is printed: what failed, why, and what to do.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {}", messages(error).join("\n  "));
    if let Some(hint) = error.chain().find_map(hint).or_else(|| hint_of_io(error)) {
        text.push_str("\nhint: ");
        text.push_str(&hint);
    }
    text
}

/// What failed and why, on a line.
pub fn in_a_line(error: &anyhow::Error) -> String {
    messages(error).join(": ")
}

fn messages(error: &anyhow::Error) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let message = cause.to_string();
        let message = message.trim_end();
        // An error that only passes on its source would say everything twice.
        if messages.last().is_none_or(|last| !last.ends_with(message)) {
            messages.push(message.to_owned());
        }
    }
    messages
}

/// The hint where nobody has a better one.
fn hint_of_io(error: &anyhow::Error) -> Option<String> {
    let missing = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::NotFound);
    missing.then(|| "check the path; one in a recipe starts from the recipe's folder".to_owned())
}

/// The hint of one error of a chain, whosever it is.
fn hint(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.hint.clone();
    }
    macro_rules! hint_of {
        ($($library:ident),*) => {
            $(if let Some(error) = error.downcast_ref::<$library::Error>() {
                return error.hint();
            })*
        };
    }
    hint_of!(finetune, adapters, kernels, eval, datasets, ledger);
    None
}

/// The exit code of a failure. What a library refuses is what it was given, unless it is a defect; what the system
/// refuses is the user's where it is about a name or a permission, and the machine's otherwise.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(is_defect) {
        return Exit::Ours;
    }
    let unproven = |cause: &(dyn StdError + 'static)| {
        matches!(
            cause.downcast_ref(),
            Some(adapters::Error::ProofFailed { .. })
        )
    };
    if error.chain().any(unproven) {
        return Exit::Unmet;
    }
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return exit_of_io(error.kind());
        }
    }
    if error.chain().any(is_library_error) {
        Exit::User
    } else {
        Exit::Ours
    }
}

/// Whether an error says that our own parts do not fit together.
fn is_defect(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<finetune::Error>() {
        return match error {
            finetune::Error::MissingGradient { .. } | finetune::Error::Candle(_) => true,
            finetune::Error::Kernels(error) => is_kernel_defect(error),
            finetune::Error::Adapters(error) => is_adapter_defect(error),
            _ => false,
        };
    }
    error.downcast_ref().is_some_and(is_adapter_defect)
        || error.downcast_ref().is_some_and(is_kernel_defect)
}

fn is_adapter_defect(error: &adapters::Error) -> bool {
    match error {
        adapters::Error::Candle(_) => true,
        adapters::Error::Kernel(error) => is_kernel_defect(error),
        _ => false,
    }
}

/// Files decide which token ids, bytes and probabilities come to a kernel, and the user which device; all else is up to
/// us or to the machine.
fn is_kernel_defect(error: &kernels::Error) -> bool {
    use kernels::Error::{Bytes, Cuda, GgmlId, Probability, TokenId};
    match error {
        TokenId { .. } | Bytes { .. } | GgmlId { .. } | Probability { .. } => false,
        Cuda(error) => !error.is_users(),
        _ => true,
    }
}

fn exit_of_io(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidData
        | ErrorKind::InvalidInput
        | ErrorKind::UnexpectedEof
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory
        | ErrorKind::ReadOnlyFilesystem => Exit::User,
        _ => Exit::Ours,
    }
}

fn is_library_error(error: &(dyn StdError + 'static)) -> bool {
    error.is::<finetune::Error>()
        || error.is::<kernels::Error>()
        || error.is::<adapters::Error>()
        || error.is::<eval::Error>()
        || error.is::<datasets::Error>()
        || error.is::<ledger::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_failure_shows_its_causes_and_its_hint() {
        let error = ledger::Error::Read {
            path: "quick.toml".into(),
            source: ErrorKind::NotFound.into(),
        };
        let error = anyhow::Error::from(error).context("cannot build the data");
        insta::assert_snapshot!(describe(&error), @"
        error: cannot build the data
          cannot read `quick.toml`
          entity not found
        hint: check the path; a relative one starts from the current folder
        ");
        assert_eq!(exit_of(&error), Exit::User);
        let error = anyhow::Error::from(Failure::user("no such thing").hint("try another"));
        insta::assert_snapshot!(describe(&error), @"
        error: no such thing
        hint: try another
        ");
        assert_eq!(exit_of(&error), Exit::User);
    }

    #[test]
    fn the_machines_failures_are_not_the_users() {
        let full = ledger::Error::Write {
            path: "x".into(),
            source: ErrorKind::StorageFull.into(),
        };
        assert_eq!(exit_of(&full.into()), Exit::Ours);
        let odd = ledger::Error::Read {
            path: "x".into(),
            source: io::Error::other("I/O error"),
        };
        assert_eq!(exit_of(&odd.into()), Exit::Ours);
        assert_eq!(
            exit_of(&anyhow::anyhow!("a sum that does not add up")),
            Exit::Ours
        );
    }

    #[test]
    fn a_defect_is_ours_and_what_a_model_brings_is_the_users() {
        let gradient = finetune::Error::MissingGradient {
            name: "q_proj".into(),
        };
        assert_eq!(exit_of(&gradient.into()), Exit::Ours);
        let unproven = adapters::Error::ProofFailed {
            problems: Vec::new(),
        };
        assert_eq!(exit_of(&unproven.into()), Exit::Unmet);
        let diverged = finetune::Error::NotFinite {
            what: "the loss",
            step: 3,
            value: f64::NAN,
        };
        assert_eq!(exit_of(&diverged.into()), Exit::User);
        let id = kernels::Error::TokenId {
            id: 9,
            rows: 8,
            position: 0,
        };
        assert_eq!(exit_of(&finetune::Error::from(id).into()), Exit::User);
    }
}
