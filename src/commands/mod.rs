//! One file a command; each returns the exit code.

pub mod adapter;
mod build;
mod chat;
mod check;
mod convert;
mod eval;
mod export;
mod fetch;
pub mod gpu_check;
mod logits;
mod merge;
mod plan;
mod recipes;
mod report;
mod run;
mod show;
mod trace;
mod verify;

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Args, Command};
use crate::failure::Exit;
use crate::plan::Stage;

/// Does what the command line says.
pub fn execute(args: Args) -> Result<Exit> {
    let json = args.json;
    match args.command {
        Command::Run(args) => run::run(&args, None, json),
        Command::Build(args) => build::build(&args, json),
        Command::Train(args) => run::run(&args, Some(Stage::Train), json),
        Command::Fetch(args) => fetch::fetch(&args, json),
        Command::Merge(args) => merge::merge(args, json),
        Command::Verify(args) => verify::verify(&args, json),
        Command::Eval(args) => eval::eval(&args, json),
        Command::Chat(args) => chat::chat(&args),
        Command::Plan(args) => plan::plan(&args, json),
        Command::Show(args) => show::show(&args, json),
        Command::Trace(args) => trace::trace(&args, json),
        Command::Report(args) => report::report(&args, json),
        Command::Check(args) => check::check(&args, json),
        Command::Recipes(command) => recipes::recipes(&command, json),
        Command::Adapter(command) => adapter::adapter(&command, json),
        Command::Convert(args) => convert::convert(&args, json),
        Command::Export(args) => export::export(args, json),
        Command::Logits(args) => logits::logits(&args, json),
        Command::GpuCheck(args) => gpu_check::gpu_check(&args, json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "medtune", &mut script);
            crate::terminal::print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
    }
}
