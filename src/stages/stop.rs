//! Ctrl-C and SIGTERM during training: the step is finished, a checkpoint written, and the program ends with code 4.
//! A second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Listens until it is dropped.
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// Starts listening.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it, the second finds it set and ends the
            // process with the code that a shell gives one that a signal ended.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .context("cannot listen for signals")?;
        }
        Ok(Self { asked })
    }

    /// Set once stopping was asked for.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }
}

impl Drop for Stop {
    /// After training nothing looks at the flag: the next signal ends the program.
    fn drop(&mut self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}
