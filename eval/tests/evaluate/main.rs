//! Tasks asked of scripted models: from the task file to the report.

mod ask;
mod endpoint;
mod errors;
mod journal;
mod recipes;
mod report;
mod scripted;
mod server;
