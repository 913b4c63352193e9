//! A judge behind an API: its scores, what of it is recorded, and what it must not see.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::Place;
use super::endpoint::{KEY, eval, json_of, said};
use super::server::{Asked, Does, Server, chat};

const TASK: &str = r#"name = "cases"
version = 1
answering = ["generate"]
metrics = ["top_1", "judged_top_1", "judged_top_3"]
generate.filter = "ranked_list"

[judge]
prompt = "Is {{ candidate }} another name of {{ gold }}?"

[source]
name = "cases"
format = "records"
path = "cases.jsonl"
licence = "a licence"
access = "open"

[source.task]
prompt = "Case: {{ case }}"
answer = "{{ diagnosis }}"
"#;

/// One endpoint that answers, and one that judges.
fn place(server: &Server) -> Place {
    let place = Place::new();
    let cases =
        (0..6).map(|i| format!("{{\"case\": \"number {i}\", \"diagnosis\": \"Disease {i}\"}}\n"));
    place.write("cases.jsonl", cases.collect::<String>().as_bytes());
    place.write("tasks/cases.toml", TASK.as_bytes());
    let recipe = format!(
        r#"name = "judged"

[eval]
tasks = ["tasks/cases.toml"]

[eval.judge]
endpoint = "marker"

[[eval.endpoint]]
name = "gpt-4"
url = "{url}"
model = "gpt-4-turbo"
api_key_env = "MEDTUNE_TEST_KEY"
concurrency = 1

[[eval.endpoint]]
name = "marker"
url = "{url}"
model = "gpt-4o"
api_key_env = "MEDTUNE_TEST_KEY"
tasks = []
temperature = 0.7
concurrency = 1

[[expect]]
metric = "gpt-4.cases.judged_top_3"
at_least = 0.5
"#,
        url = server.url
    );
    place.write("recipe.toml", recipe.as_bytes());
    place
}

/// Calls every disease by another name, and judges the even ones' right.
fn answers(asked: &Asked) -> Does {
    let question = asked.question();
    if let Some(number) = question.strip_prefix("Case: number ") {
        return chat(&format!("1. A cold\n2. Morbus {number}"));
    }
    let (candidate, gold) = question.split_once(" another name of ").unwrap();
    let number = gold.trim_start_matches("Disease ").trim_end_matches('?');
    let even = number.parse::<u32>().unwrap() % 2 == 0;
    chat(match candidate.contains("Morbus") && even {
        true => "Yes.",
        false => "No.",
    })
}

#[test]
fn a_judge_marks_what_others_answered() {
    let server = Server::new(answers);
    let place = place(&server);
    let said = said(eval(&place, &[])).ok();
    let table: Vec<&str> = said
        .stdout
        .lines()
        .filter(|line| line.contains("judge") || line.contains("gpt-4"))
        .collect();
    insta::assert_snapshot!(table.join("\n"), @"
                  gpt-4
    judged_top_1  0.000 [0.000, 0.000]
    judged_top_3  0.500 [0.167, 0.833]
    judge failed  0.0 %
    judged by gpt-4o (marker)
    met      gpt-4.cases.judged_top_3 = 0.5000, expected at least 0.5
    ");
    // Six questions, and two candidates to judge of each.
    assert_eq!(server.asked().len(), 18);
    let judged: Vec<Asked> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.body["model"] == "gpt-4o")
        .collect();
    assert_eq!(judged.len(), 12);
    for asked in &judged {
        assert_eq!(asked.body["temperature"], 0.0);
        assert!(!asked.body.to_string().contains("turbo"));
    }
    let manifest = json_of(&place, "out/eval/manifest.json");
    let judge = &manifest["details"]["judge"];
    assert_eq!(
        (&judge["name"], &judge["model"], &judge["tasks"][0]["task"]),
        (&"marker".into(), &"gpt-4o".into(), &"cases".into())
    );
    let report = json_of(&place, "out/eval/report.json");
    let task = &report["models"][0]["tasks"][0];
    assert_eq!(
        judge["prompts_sha256"]["cases"],
        task["judge"]["prompt_sha256"]
    );
    assert_eq!(task["judge"]["by"]["model"], "gpt-4o");
    let facts = json_of(&place, "out/eval/measured.json");
    assert_eq!(facts["facts"]["judge"]["requests"], 12);
    assert!(!said.stdout.contains(KEY) && !said.stderr.contains(KEY));
    for file in [
        "report.json",
        "manifest.json",
        "measured.json",
        "report.txt",
    ] {
        let text = fs::read_to_string(place.path("out/eval").join(file)).unwrap();
        assert!(!text.contains(KEY), "{file}");
    }
    // Nothing has changed: nobody is asked.
    let again = super::endpoint::said(eval(&place, &[])).ok();
    assert!(again.stderr.contains("eval   kept"), "{}", again.stderr);
    assert_eq!(server.asked().len(), 18);
}

#[test]
fn a_killed_judgement_goes_on_and_comes_to_the_same_bytes() {
    let slow = |asked: &Asked| {
        sleep(Duration::from_millis(40));
        answers(asked)
    };
    let (server, other) = (Server::new(slow), Server::new(slow));
    let place = place(&server);
    for asked in [9, 13] {
        let mut child = eval(&place, &[]).stderr(Stdio::null()).spawn().unwrap();
        while server.asked().len() < asked {
            assert!(child.try_wait().unwrap().is_none());
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!place.path("out/eval").exists());
    }
    said(eval(&place, &[])).ok();
    // What was under way when it was killed had to be asked again.
    let asked = server.asked().len();
    assert!((18..=20).contains(&asked), "{asked}");
    assert!(!place.path("out/eval.journal").exists());
    let whole = self::place(&other);
    said(eval(&whole, &[])).ok();
    for file in ["report.json", "report.txt"] {
        let read = |place: &Place| fs::read(place.path("out/eval").join(file)).unwrap();
        assert!(read(&place) == read(&whole), "{file}");
    }
}

#[test]
fn judges_that_cannot_be_asked() {
    let server = Server::new(answers);
    let refused = |edits: &[(&str, &str, &str)]| {
        let place = place(&server);
        for (file, from, to) in edits {
            place.edit(file, from, to);
        }
        said(eval(&place, &[]))
            .failure()
            .replace(&server.url, "URL")
    };
    let recipe = "recipe.toml";
    let judge = "[eval.judge]\nendpoint = \"marker\"";
    let misspelt = "[eval.judge]\nendpoint = \"maker\"";
    insta::assert_snapshot!(refused(&[(recipe, judge, misspelt)]), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:7:1: `eval.judge.endpoint` is "maker", and no [[eval.endpoint]] is called so
      hint: did you mean `marker`?
    "#);
    let nobody = "[eval.judge]\nendpoint = \"somebody else\"";
    insta::assert_snapshot!(refused(&[(recipe, judge, nobody)]), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:7:1: `eval.judge.endpoint` is "somebody else", and no [[eval.endpoint]] is called so
      hint: add one with that `name`, a `url` and a `model`
    "#);
    let which = (recipe, "tasks/cases.toml", "tasks/which.toml");
    let expects = (
        recipe,
        "metric = \"gpt-4.cases.judged_top_3\"",
        "metric = \"gpt-4.which.items\"",
    );
    let tokenizer = (
        recipe,
        "concurrency = 1",
        "concurrency = 1\ntokenizer = \"shape\"",
    );
    insta::assert_snapshot!(refused(&[which, expects, tokenizer]), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:7:1: [eval.judge] has nothing to judge: no task of `eval.tasks` has a [judge]
      hint: remove it, or ask a task that has one, such as `case-diagnosis`
    ");
    insta::assert_snapshot!(refused(&[(recipe, judge, "")]), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:25:1: this recipe does not measure `gpt-4.cases.judged_top_3`
      hint: it measures gpt-4.cases.top_1, gpt-4.cases.items, gpt-4.cases.unextracted, gpt-4.cases.unanswered, marker.cases.top_1, marker.cases.items, marker.cases.unextracted, marker.cases.unanswered, ...
    ");
    // The endpoint that answers is on this machine, the judge is not.
    let place = place(&server);
    let text = fs::read_to_string(place.path(recipe)).unwrap();
    let (head, tail) = text.split_once("name = \"marker\"").unwrap();
    let away = tail.replace(&server.url, "https://api.openai.com/v1");
    place.write(recipe, format!("{head}name = \"marker\"{away}").as_bytes());
    place.edit("tasks/cases.toml", "\"open\"", "\"credentialed\"");
    insta::assert_snapshot!(said(eval(&place, &[])).failure(), @r#"
    exit 2
    error: task `cases` is credentialed, and the endpoint `marker` at api.openai.com is not on this machine
    hint: if its terms let you send these texts there, name them in the endpoint's table: agreement = "..."; the run records it. Or ask a server on this machine
    "#);
    insta::assert_snapshot!(place.medtune(&["plan", "recipe.toml"]).failure(), @r#"
    exit 2
    error: task `cases` is credentialed, and the endpoint `marker` at api.openai.com is not on this machine
    hint: if its terms let you send these texts there, name them in the endpoint's table: agreement = "..."; the run records it. Or ask a server on this machine
    "#);
    // What a model was trained on it may repeat about open cases too.
    place.edit("tasks/cases.toml", "\"credentialed\"", "\"open\"");
    let train = "[model]\ninit = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"\n\n[data]\n\n[[data.source]]\nname = \"notes\"\nformat = \"alpaca\"\npath = \"questions.jsonl\"\naccess = \"credentialed\"\n\n[adapter.lora]\n\n[train]\nmax_steps = 1\n\n[eval]";
    place.edit(recipe, "[eval]", train);
    insta::assert_snapshot!(said(eval(&place, &[])).failure(), @r#"
    exit 2
    error: `tuned` is credentialed, as what it was trained on is, and the endpoint `marker` at api.openai.com, which would judge its answers, is not on this machine
    hint: if its terms let you send these texts there, name them in the endpoint's table: agreement = "..."; the run records it. Or ask a server on this machine
    "#);
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn answers_of_a_model_under_terms_are_not_judged_elsewhere() {
    let server = Server::new(answers);
    let place = place(&server);
    let url = server.url.replace("127.0.0.1", "0.0.0.0");
    let text = fs::read_to_string(place.path("recipe.toml")).unwrap();
    let (head, tail) = text.split_once("name = \"marker\"").unwrap();
    let away = tail.replace(&server.url, &url);
    place.write(
        "recipe.toml",
        format!("{head}name = \"marker\"{away}").as_bytes(),
    );
    place.edit("tasks/cases.toml", "\"open\"", "\"credentialed\"");
    place.edit(
        "recipe.toml",
        "tasks = []",
        "tasks = []\nagreement = \"DUA 23\"",
    );
    let said = said(eval(&place, &[])).ok();
    assert!(
        said.stderr.contains("under the agreement \"DUA 23\""),
        "{}",
        said.stderr
    );
    let log = fs::read_to_string(place.path("out/access-log.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["sent_to"]["name"], "marker");
    assert_eq!(line["tasks"][0]["access"], "credentialed");
    let manifest = json_of(&place, "out/eval/manifest.json");
    assert_eq!(manifest["details"]["judge"]["agreement"], "DUA 23");
    let report = fs::read_to_string(place.path("out/eval/report.json")).unwrap();
    assert!(
        !report.contains("Morbus") && !report.contains("Yes."),
        "{report}"
    );
}

#[test]
fn plan_and_show_list_who_is_sent_what() {
    let server = Server::new(answers);
    let place = place(&server);
    place.edit("recipe.toml", &server.url, "https://api.openai.com/v1");
    place.edit("recipe.toml", "concurrency = 1", "agreement = \"DUA 23\"");
    place.edit("tasks/cases.toml", "\"open\"", "\"registered\"");
    place.edit("recipe.toml", "tasks/cases.toml", "tasks/cases.toml:5");
    let plan = place.medtune(&["plan", "recipe.toml"]).ok().stdout;
    insta::assert_snapshot!(plan, @r#"
    judged

    Stages, into runs/judged
      eval

    Needs, with the data root .
      here     cases.jsonl

    Asks
      cases (generate), 5 items

    Endpoints
      gpt-4 at api.openai.com: gpt-4-turbo, key from MEDTUNE_TEST_KEY, agreement "DUA 23"
        answers  cases (registered), 5 items
      marker at 127.0.0.1, this machine: gpt-4o, key from MEDTUNE_TEST_KEY
        judges   cases (registered), 5 items
    "#);
    let json = place
        .medtune(&["plan", "recipe.toml", "--json"])
        .ok()
        .json();
    insta::assert_snapshot!(json["endpoints"][0].to_string(), @r#"{"name":"gpt-4","host":"api.openai.com","this_machine":false,"model":"gpt-4-turbo","api_key_env":"MEDTUNE_TEST_KEY","agreement":"DUA 23","tasks":[{"task":"cases","does":"answers","access":"registered","items":5}]}"#);
    assert_eq!(json["endpoints"][1]["tasks"][0]["does"], "judges");
    let shown = place.medtune(&["show", "recipe.toml"]).ok().stdout;
    let listed: Vec<&str> = shown.lines().filter(|line| line.starts_with('#')).collect();
    insta::assert_snapshot!(listed.join("\n"), @r#"
    # gpt-4 at api.openai.com: gpt-4-turbo, key from MEDTUNE_TEST_KEY, agreement "DUA 23"
    #   answers  cases (registered), 5 items
    # marker at 127.0.0.1, this machine: gpt-4o, key from MEDTUNE_TEST_KEY
    #   judges   cases (registered), 5 items
    "#);
    assert_eq!(server.asked().len(), 0);
}
