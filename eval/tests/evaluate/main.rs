//! Tasks asked of scripted models: from the task file to the report.

mod ask;
mod errors;
mod families;
mod recipes;
mod report;
mod scripted;
mod worked;
