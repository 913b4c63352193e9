//! Evaluations of models behind an API, interrupted ones, and who may see what of them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::server::{Server, chat};
use super::{Place, Said};

const ASK: &str = r#"name = "ask"
version = 1
about = "Yes or no, written."
answering = ["generate"]
options.fixed = ["yes", "no"]
metrics = ["accuracy"]

[source]
name = "ask"
format = "alpaca"
path = "questions.jsonl"
licence = "a licence"
access = "open"

[source.task]
prompt = "{{ instruction }}"
answer = "{{ output }}"
"#;

pub const KEY: &str = "sk-confidential-17";

/// A recipe that asks an endpoint beside the tiny model.
fn place(server: &Server) -> Place {
    let place = Place::new();
    place.write("tasks/ask.toml", ASK.as_bytes());
    let recipe = format!(
        r#"name = "ask"

[model]
init = "random"
config = "shape/config.json"
tokenizer = "shape"

[eval]
tasks = ["tasks/which.toml", "tasks/ask.toml"]

[[eval.endpoint]]
name = "gpt-4"
url = "{}"
model = "gpt-4-turbo"
api_key_env = "MEDTUNE_TEST_KEY"
tasks = ["ask"]
concurrency = 1

[[expect]]
metric = "gpt-4.ask.accuracy"
at_least = 1.0
"#,
        server.url
    );
    place.write("recipe.toml", recipe.as_bytes());
    place
}

/// Knows that even numbers help.
fn knowing() -> Server {
    Server::new(|asked| {
        let number = asked.question().split(' ').nth(2).unwrap_or_default();
        let even = number.parse::<u32>().is_ok_and(|number| number % 2 == 0);
        chat(if even { "Yes." } else { "No." })
    })
}

/// An evaluation of `recipe.toml` with the key, into `out`.
pub fn eval(place: &Place, more: &[&str]) -> Command {
    let mut command = place.command(&["eval", "recipe.toml", "--out", "out"]);
    command.args(more).env("MEDTUNE_TEST_KEY", KEY);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command
}

pub fn said(mut command: Command) -> Said {
    Said::of(command.output().unwrap())
}

/// The bytes of every file below a folder.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else {
            bytes.extend(fs::read(path).unwrap());
        }
    }
    bytes
}

pub fn json_of(place: &Place, file: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(file)).unwrap()).unwrap()
}

#[test]
fn an_endpoint_stands_in_the_same_table() {
    let server = knowing();
    let place = place(&server);
    let said = said(eval(&place, &[])).ok();
    let table: Vec<&str> = said
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("ask ("))
        .filter(|line| line.starts_with("  accuracy "))
        .collect();
    assert!(
        said.stdout.contains("base") && said.stdout.contains("gpt-4"),
        "{}",
        said.stdout
    );
    assert!(table[0].contains("1.000 [1.000, 1.000]"), "{table:?}");
    assert_eq!(server.asked().len(), 8);
    let bearer = format!("Bearer {KEY}");
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.headers["authorization"] == bearer)
    );

    let manifest = json_of(&place, "out/eval/manifest.json");
    let endpoint = &manifest["details"]["endpoints"][0];
    assert_eq!(
        (&endpoint["name"], &endpoint["agreement"]),
        (&"gpt-4".into(), &Value::Null)
    );
    assert_eq!(manifest["settings"]["endpoint"][0].get("concurrency"), None);
    let facts = &json_of(&place, "out/eval/measured.json")["facts"]["endpoints"]["gpt-4"];
    assert_eq!(
        (&facts["requests"], &facts["prompt_tokens"]),
        (&8.into(), &56.into())
    );
    assert_eq!(facts["models"][0], "scripted-2024-06-13");
    assert!(!place.path("out/eval.journal").exists());
    assert!(!place.path("out/access-log.jsonl").exists());
    // The key is nowhere.
    let bytes = bytes_below(&place.path("out"));
    assert!(!String::from_utf8_lossy(&bytes).contains(KEY));
    assert!(!said.stdout.contains(KEY) && !said.stderr.contains(KEY));

    // Nothing has changed: nobody is asked. Neither how fast one asks changes anything.
    let more = ["--set", "eval.endpoint[0].timeout_secs=7"];
    let again = super::endpoint::said(eval(&place, &more)).ok();
    assert!(again.stderr.contains("eval   kept"), "{}", again.stderr);
    assert_eq!(server.asked().len(), 8);
}

#[test]
fn endpoints_that_cannot_be_asked() {
    let server = knowing();
    let refused = |edits: &[(&str, &str, &str)], key: bool| {
        let place = place(&server);
        for (file, from, to) in edits {
            place.edit(file, from, to);
        }
        let mut command = eval(&place, &[]);
        if !key {
            command.env_remove("MEDTUNE_TEST_KEY");
        }
        said(command).failure().replace(&server.url, "URL")
    };
    let recipe = "recipe.toml";
    insta::assert_snapshot!(refused(&[(recipe, "tasks = [\"ask\"]\n", "")], true), @r#"
    exit 2
    error: task `which` is answered by log-likelihood, and the endpoint `gpt-4` gives no log-probabilities of prompts
    hint: ask a variant of `which` with answering = ["generate"]; the endpoint's `tasks` says which tasks it is asked. A server such as vLLM does give them: name the model's `tokenizer` there
    "#);
    let away = (recipe, server.url.as_str(), "https://api.openai.com/v1");
    let closed = ("tasks/ask.toml", "\"open\"", "\"credentialed\"");
    insta::assert_snapshot!(refused(&[away, closed], true), @r#"
    exit 2
    error: task `ask` is credentialed, and the endpoint `gpt-4` at api.openai.com is not on this machine
    hint: if its terms let you send these texts there, name them in the endpoint's table: agreement = "..."; the run records it. Or ask a server on this machine
    "#);
    insta::assert_snapshot!(refused(&[], false), @"
    exit 2
    error: the endpoint `gpt-4` takes its key from MEDTUNE_TEST_KEY, which is not set
    hint: set it for this command: MEDTUNE_TEST_KEY=... medtune eval ...
    ");
    insta::assert_snapshot!(refused(&[(recipe, "tasks = [\"ask\"]", "tasks = [\"asks\"]")], true), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:16:1: `eval.endpoint[0].tasks[0]` is "asks", which `eval.tasks` does not name
      hint: did you mean `ask`?
    "#);
    let many = [
        (recipe, server.url.as_str(), "https://user:key@host/v1"),
        (recipe, "name = \"gpt-4\"", "name = \"base\""),
        (
            recipe,
            "concurrency = 1",
            "concurrency = 0\nagreement = \"\"",
        ),
    ];
    insta::assert_snapshot!(refused(&many, true), @r#"
    exit 2
    error: the recipe has 4 problems
    recipe.toml:12:1: `eval.endpoint[0].name` is "base", which another model is called
    recipe.toml:13:1: `eval.endpoint[0].url` has an `@`: a key belongs in the variable that `api_key_env` names
    recipe.toml:17:1: `eval.endpoint[0].concurrency` must be from 1 to 256
    recipe.toml:18:1: `eval.endpoint[0].agreement` is empty: leave it out, or fill it in
    "#);
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn texts_that_are_not_open_leave_this_machine_under_an_agreement_only_and_stay_out_of_reports() {
    let server = knowing();
    let place = place(&server);
    place.edit("tasks/ask.toml", "\"open\"", "\"credentialed\"");
    // Another name of this machine, which is not taken for it.
    let url = server.url.replace("127.0.0.1", "0.0.0.0");
    place.edit("recipe.toml", &server.url, &url);
    let refused = said(eval(&place, &[]));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(!place.path("out").exists() && server.asked().is_empty());
    place.edit(
        "recipe.toml",
        "concurrency = 1",
        "concurrency = 1\nagreement = \"DUA 17\"",
    );
    let first = said(eval(&place, &[])).ok();
    assert!(
        first.stderr.contains("under the agreement \"DUA 17\""),
        "{}",
        first.stderr
    );
    let log = fs::read_to_string(place.path("out/access-log.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["sent_to"]["agreement"], "DUA 17");
    assert_eq!(line["tasks"][0]["access"], "credentialed");
    let manifest = json_of(&place, "out/eval/manifest.json");
    assert_eq!(manifest["details"]["endpoints"][0]["agreement"], "DUA 17");
    assert_eq!(manifest["access"], "credentialed");

    let report = fs::read_to_string(place.path("out/eval/report.json")).unwrap();
    assert!(!report.contains("Yes."), "{report}");
    insta::assert_snapshot!(said(eval(&place, &["--reveal"])).failure(), @"
    exit 2
    error: `eval --reveal` would show or export credentialed text: ask (a licence)
    hint: if you have signed these terms, say so with --i-have-credentials; the run records it
    ");
    said(eval(&place, &["--reveal", "--i-have-credentials"])).ok();
    let report = fs::read_to_string(place.path("out/eval/report.json")).unwrap();
    assert!(report.contains("Yes."), "{report}");
    let log = fs::read_to_string(place.path("out/access-log.jsonl")).unwrap();
    assert!(log.contains("eval --reveal"), "{log}");
}

/// Lines of the journals in `out`.
fn journal_lines(place: &Place) -> usize {
    let entries = fs::read_dir(place.path("out/eval.journal"));
    let paths = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let lines = paths.map(|path| fs::read_to_string(path).unwrap_or_default().lines().count());
    lines.sum()
}

/// Waits until the journals have so many lines; whether the program was still running then.
fn wait_for_lines(child: &mut Child, place: &Place, lines: usize) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if journal_lines(place) >= lines {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_evaluation_goes_on_and_asks_nothing_twice() {
    let slow = || {
        Server::new(|_| {
            sleep(Duration::from_millis(60));
            chat("Yes.")
        })
    };
    let half = ["--set", "expect[0].at_least=0.4"];
    let (server, other) = (slow(), slow());
    let place = place(&server);
    let mut killed = 0;
    for lines in [4, 7] {
        let mut child = eval(&place, &half).stderr(Stdio::null()).spawn().unwrap();
        killed += usize::from(wait_for_lines(&mut child, &place, lines));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!place.path("out/eval").exists());
    }
    assert_eq!(killed, 2);
    let end = said(eval(&place, &half)).ok();
    assert!(!place.path("out/eval.journal").exists(), "{}", end.stderr);
    // What was under way when it was killed had to be asked again.
    let asked = server.asked().len();
    assert!((8..=10).contains(&asked), "{asked}");
    let whole = super::endpoint::place(&other);
    said(eval(&whole, &half)).ok();
    let report = |place: &Place| fs::read(place.path("out/eval/report.json")).unwrap();
    assert!(report(&place) == report(&whole));
}

/// More questions than a signal needs time to arrive.
fn long_place() -> Place {
    let place = Place::new();
    let rows: String = (0..1500)
        .map(|i| format!("{{\"id\": \"q{i}\", \"instruction\": \"Does number {i} help?\", \"output\": \"yes\"}}\n"))
        .collect();
    place.write("questions.jsonl", rows.as_bytes());
    let recipe = "name = \"long\"\n\n[model]\ninit = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"\n\n[eval]\ntasks = [\"tasks/which.toml\"]\nbatch_items = 5\n";
    place.write("recipe.toml", recipe.as_bytes());
    place
}

#[test]
fn a_local_evaluation_survives_kills_and_signals() {
    let place = long_place();
    let mut child = eval(&place, &[]).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_for_lines(&mut child, &place, 3));
    child.kill().unwrap();
    child.wait().unwrap();
    for name in ["INT", "TERM"] {
        let start = journal_lines(&place);
        let mut child = eval(&place, &[]).stderr(Stdio::piped()).spawn().unwrap();
        assert!(wait_for_lines(&mut child, &place, start + 4));
        let sent = Command::new("kill")
            .args(["-s", name, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let said = Said::of(child.wait_with_output().unwrap());
        assert_eq!(said.code, 4, "{}", said.stderr);
        let (_, command) = said
            .stderr
            .split_once("stopped, with a journal; to go on: ")
            .unwrap();
        assert!(
            command
                .lines()
                .next()
                .unwrap()
                .ends_with("medtune eval recipe.toml --out out"),
            "{command}"
        );
    }
    let before = journal_lines(&place);
    assert!(before < 300, "{before}");
    said(eval(&place, &["--set", "eval.batch_items=7"])).ok();
    let whole = long_place();
    said(eval(&whole, &[])).ok();
    for file in ["report.json", "manifest.json", "report.txt"] {
        let read = |place: &Place| fs::read(place.path("out/eval").join(file)).unwrap();
        assert!(read(&place) == read(&whole), "{file}");
    }
    assert!(!place.path("out/eval.journal").exists());
}

#[test]
fn models_and_endpoints_are_evaluated_without_a_recipe() {
    let server = knowing();
    let place = place(&server);
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart/base");
    let base = base.to_str().unwrap();
    let args = [
        "eval",
        "--model",
        base,
        "--against",
        base,
        "--task",
        "tasks/ask.toml:4",
        "--out",
        "made",
        "--json",
        "--endpoint",
        &server.url,
        "--endpoint-model",
        "gpt-4",
        "--endpoint-model",
        "gpt 5",
    ];
    let said = place.medtune(&args).ok();
    let metrics = said.json()["metrics"].clone();
    for label in ["base", "base-2", "gpt-4", "gpt-5"] {
        assert_eq!(metrics[format!("{label}.ask.items")], 4.0, "{metrics}");
    }
    assert_eq!(metrics["gpt-5.ask.accuracy"], 1.0);
    assert_eq!(metrics["base.ask.accuracy"], metrics["base-2.ask.accuracy"]);
    assert_eq!(server.asked().len(), 8);
    // The flags are a recipe like any other.
    let again = place
        .medtune(&[
            "eval",
            "made/recipe.toml",
            "--out",
            "made",
            "--data-root",
            ".",
        ])
        .ok();
    assert!(again.stderr.contains("eval   kept"), "{}", again.stderr);

    let alone = [
        "eval",
        "--endpoint",
        &server.url,
        "--endpoint-model",
        "gpt-4",
        "--task",
        "tasks/ask.toml",
    ];
    let said = place.medtune(&alone).ok();
    assert!(
        place.path("runs/eval-gpt-4/eval/report.json").is_file(),
        "{}",
        said.stderr
    );
    assert!(
        said.stdout.contains("gpt-4") && !said.stdout.contains("base"),
        "{}",
        said.stdout
    );

    let nothing = place.medtune(&["eval"]);
    assert!(
        nothing.code == 2 && nothing.stderr.contains("RECIPE"),
        "{}",
        nothing.stderr
    );
    let none = place.medtune(&["eval", "--model", "none", "--task", "tasks/ask.toml"]);
    assert!(
        none.code == 2 && none.stderr.contains("none does not exist"),
        "{}",
        none.stderr
    );
}
