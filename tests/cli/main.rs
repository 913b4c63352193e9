//! The program from the outside: what it prints, and how it exits.

mod adapter;
mod belonging;
mod bert_score;
mod data;
#[cfg(unix)]
mod endpoint;
mod errors;
mod export;
mod fetch;
mod hub;
#[cfg(unix)]
mod judge;
#[cfg(unix)]
mod merge;
mod qlora;
#[cfg(unix)]
mod recovery;
mod report;
mod run;
#[cfg(unix)]
#[path = "../../eval/tests/evaluate/server.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of eval, which use more of it"
)]
mod server;
mod texts;
#[cfg(unix)]
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a tiny model's shape, some samples, a task, and a recipe over them.
struct Place(tempfile::TempDir);

/// Two layers over the quickstart's vocabulary: trains in a moment.
const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 32,
  "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
  "head_dim": 16, "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-05,
  "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
}"#;

const RECIPE: &str = r#"name = "tiny"

[model]
init = "random"
config = "shape/config.json"
tokenizer = "shape"

[data]
max_seq_len = 128
validation_fraction = 0.25

[[data.source]]
name = "questions"
format = "alpaca"
path = "questions.jsonl"

[adapter.lora]
rank = 4
alpha = 8.0

[train]
max_steps = 4
learning_rate = 1e-2

[merge]

[eval]
tasks = ["tasks/which.toml"]

[[expect]]
metric = "tuned.which.items"
at_least = 8.0
"#;

const TASK: &str = r#"name = "which"
version = 1
about = "Yes or no."
answering = ["log-likelihood"]
options.fixed = ["yes", "no"]
metrics = ["accuracy"]

[source]
name = "which"
format = "alpaca"
path = "questions.jsonl"

[source.task]
prompt = "{{ instruction }}"
answer = "{{ output }}"
"#;

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart/base");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            place.write(
                &format!("shape/{name}"),
                &fs::read(base.join(name)).unwrap(),
            );
        }
        place.write("shape/config.json", CONFIG.as_bytes());
        let rows = (0..8).map(|i| {
            let answer = ["yes", "no"][i % 2];
            format!("{{\"id\": \"q{i}\", \"instruction\": \"Does number {i} help?\", \"output\": \"{answer}\"}}\n")
        });
        place.write("questions.jsonl", rows.collect::<String>().as_bytes());
        place.write("tasks/which.toml", TASK.as_bytes());
        place.write("recipe.toml", RECIPE.as_bytes());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Replaces a part of a file that must be there.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replacen(from, to, 1).as_bytes());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_medtune"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("HF_HOME", "huggingface")
            .env_remove("HF_HUB_CACHE")
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100");
        command
    }

    fn medtune(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).output().unwrap())
    }
}

/// What the program printed, and its exit code.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// For snapshots: the exit code, and what went wrong.
    fn failure(&self) -> String {
        format!("exit {}\n{}", self.code, self.stderr)
    }

    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}
