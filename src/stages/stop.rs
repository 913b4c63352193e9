//! Ctrl-C and SIGTERM during training and evaluation: the step or batch is finished, a checkpoint or journal written,
//! and the program ends with code 4. A second one ends it at once; what is being written then is left aside, and
//! cleared away by the next run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Listens until it is dropped.
pub struct Stop {
    asked: Arc<AtomicBool>,
}

/// Set once stopping was asked for, and while nobody listens. One for the program: a handler cannot be taken back, so
/// a second flag would leave the first one's handlers to end the program at the first signal.
static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

impl Stop {
    /// Starts listening.
    pub fn listen() -> Result<Self> {
        let mut registered = Ok(());
        let asked = ASKED.get_or_init(|| {
            let asked = Arc::new(AtomicBool::new(false));
            registered = register(&asked);
            asked
        });
        registered?;
        asked.store(false, Ordering::Relaxed);
        Ok(Self {
            asked: Arc::clone(asked),
        })
    }

    /// Set once stopping was asked for.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether stopping was asked for.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

fn register(asked: &Arc<AtomicBool>) -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set and ends the
        // process with the code that a shell gives one that a signal ended.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(asked))
            .and_then(|_| flag::register(signal, Arc::clone(asked)))
            .context("cannot listen for signals")?;
    }
    Ok(())
}

/// The command line of this process, as a shell reads it.
pub fn command_line() -> String {
    let words = std::env::args_os().map(|word| quoted(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Drop for Stop {
    /// Afterwards nothing looks at the flag: the next signal ends the program.
    fn drop(&mut self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_a_word_as_it_was() {
        assert_eq!(quoted("train.max_steps=4"), "train.max_steps=4");
        assert_eq!(quoted("my recipe.toml"), "'my recipe.toml'");
        assert_eq!(quoted("model.path=\"it's\""), r#"'model.path="it'\''s"'"#);
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("~/x"), "'~/x'");
    }
}
