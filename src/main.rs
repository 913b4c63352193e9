//! medtune: builds a medical instruction set, tunes a Llama-family model on it, merges, and evaluates, as a recipe
//! says.
//!
//! A [`recipe::Recipe`] is what was written, a [`plan::Plan`] what will happen, a [`run::RunFolder`] what was done.
//! The libraries never print; everything a user sees is said here, and the exit code is chosen here
//! ([`failure`]).

mod args;
mod card;
mod commands;
mod credentials;
mod device;
mod failure;
mod hub;
mod library;
mod merging;
mod plan;
mod quick;
mod recipe;
mod report;
mod run;
mod stages;
mod terminal;
mod validation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use failure::Exit;

/// Training reserves its large blocks from it; without that it is the system's allocator.
#[global_allocator]
static ALLOCATOR: kernels::Arena = kernels::Arena;

fn main() -> ExitCode {
    finetune::keep_freed_memory();
    report_file_size_limits();
    let args = args::Args::parse();
    report_panics();
    let exit = match catch_unwind(AssertUnwindSafe(|| commands::execute(args))) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => {
            terminal::note(&failure::describe(&error));
            failure::exit_of(&error)
        }
        // The hook has said where.
        Err(_) => Exit::Ours,
    };
    exit.into()
}

/// A write beyond the limit on file sizes (`ulimit -f`) is to fail with an error that names the file; the signal that
/// the system sends with it would end the program without a word.
fn report_file_size_limits() {
    #[cfg(unix)]
    // It can only fail for signals that cannot be caught.
    let _ = signal_hook::flag::register(
        signal_hook::consts::signal::SIGXFSZ,
        Arc::new(AtomicBool::new(false)),
    );
}

/// A panic is a defect of medtune. Its message can hold what a sample says, so only the place is printed.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), |place| {
            format!(" at {}:{}", place.file(), place.line())
        });
        terminal::note(&format!(
            "error: medtune {} failed{place}\nhint: this is a defect of medtune: please report this line with the recipe",
            args::VERSION
        ));
    }));
}
