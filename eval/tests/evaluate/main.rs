//! Tasks asked of scripted models: from the task file to the report.

mod ask;
mod contamination;
mod endpoint;
mod errors;
mod families;
mod few_shot;
mod journal;
mod judge;
mod mibe;
mod recipes;
mod report;
mod scripted;
mod server;
mod settings;
mod worked;
