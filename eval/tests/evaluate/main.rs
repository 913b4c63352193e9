//! Tasks asked of scripted models: from the task file to the report.

mod ask;
mod contamination;
mod errors;
mod families;
mod few_shot;
mod mibe;
mod recipes;
mod report;
mod scripted;
mod worked;
