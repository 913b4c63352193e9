//! Tasks asked of scripted models: from the task file to the report.

mod ask;
mod errors;
mod recipes;
mod report;
mod scripted;
