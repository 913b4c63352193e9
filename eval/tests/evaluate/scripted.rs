//! A model whose answers are written in the test, and tasks for it to answer.

use datasets::Tokenized;
use eval::{
    Bootstrap, GenerateRequest, Item, LanguageModel, ModelError, OptionScore, Perplexity, Prompt,
    Result, ScoreRequest, Settings, Task, TaskResult, run_task,
};
use tempfile::TempDir;

/// Answers by looking at the prompt.
pub struct Scripted {
    pub name: &'static str,
    pub log_prob: fn(prompt: &str, option: &str) -> f64,
    pub write: fn(prompt: &str) -> String,
    /// How many requests each call brought.
    pub calls: Vec<usize>,
}

impl Default for Scripted {
    fn default() -> Self {
        Scripted {
            name: "scripted",
            log_prob: |_, option| -(option.len() as f64),
            write: |_| "yes".to_owned(),
            calls: Vec::new(),
        }
    }
}

fn text(prompt: &Prompt) -> &str {
    match prompt {
        Prompt::Text(text) => text,
        Prompt::Chat(messages) => &messages.last().expect("a user message").content,
    }
}

impl LanguageModel for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<Vec<OptionScore>>, ModelError> {
        self.calls.push(requests.len());
        let score = |request: &ScoreRequest, option: &String| OptionScore {
            log_prob: (self.log_prob)(text(&request.prompt), option),
            tokens: option.split_whitespace().count(),
            bytes: option.len(),
            greedy: false,
        };
        Ok(requests
            .iter()
            .map(|r| r.options.iter().map(|o| score(r, o)).collect())
            .collect())
    }

    fn generate(&mut self, requests: &[GenerateRequest]) -> Result<Vec<String>, ModelError> {
        self.calls.push(requests.len());
        Ok(requests
            .iter()
            .map(|request| (self.write)(text(&request.prompt)))
            .collect())
    }

    fn perplexity(&mut self, samples: &[Tokenized]) -> Result<Perplexity, ModelError> {
        let tokens: usize = samples.iter().map(Tokenized::target_tokens).sum();
        Ok(Perplexity {
            loss_sum: tokens as f64 * 2.0f64.ln(),
            tokens: tokens as u64,
        })
    }
}

pub const SETTINGS: Settings = Settings {
    items: None,
    batch_items: 4,
    bootstrap: Bootstrap {
        resamples: 200,
        seed: 1,
    },
};

/// A folder with `task.toml` and `items.jsonl`.
pub fn folder(task: &str, records: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("task.toml"), task).expect("the task file");
    std::fs::write(folder.path().join("items.jsonl"), records).expect("the records");
    folder
}

/// The only task of a folder, and its items.
pub fn open(folder: &TempDir) -> Result<(Task, Vec<Item>)> {
    let mut tasks = Task::load(&folder.path().join("task.toml"), &[])?;
    assert_eq!(tasks.len(), 1);
    let task = tasks.remove(0);
    let items = task.items(folder.path())?;
    Ok((task, items))
}

pub fn ask(task: &Task, items: &[Item], model: &mut Scripted, settings: &Settings) -> TaskResult {
    run_task(task, items, model, settings, &mut |_| {}).expect("a result")
}

/// Twelve questions, the first six of which have the answer yes, and whose text says so.
pub fn questions() -> String {
    let record = |i: usize| {
        let answer = if i < 6 { "yes" } else { "no" };
        format!("{{\"question\": \"Question {i}: {answer}?\", \"answer\": \"{answer}\"}}\n")
    };
    (0..12).map(record).collect()
}

/// A task on [`questions`] with these lines added at the top.
pub fn yes_no(lines: &str) -> String {
    format!(
        r#"
name = "questions"
version = 1
options.fixed = ["yes", "no", "maybe"]
{lines}
[source]
name = "items"
format = "records"
path = "items.jsonl"

[source.task]
system = "Answer the question."
prompt = "{{{{ question }}}}"
answer = "{{{{ answer }}}}"
"#
    )
}
