//! A judge's verdicts on ranked answers: what it is asked and how often, and what its silence does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datasets::recipe::TemplateKind;
use eval::{
    Endpoint, EndpointSection, Error, Item, Journals, Judge, JudgedBy, Report, ReportFile, Session,
    Task, Verdict, run_task,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::endpoint::shown;
use crate::scripted::{SETTINGS, Scripted, folder, open};
use crate::server::{Asked, Does, Server, chat, refusal};

static NEVER: AtomicBool = AtomicBool::new(false);

const TASK: &str = r#"
name = "cases"
version = 1
answering = ["generate"]
metrics = ["top_1", "top_3", "judged_top_1", "judged_top_3"]
generate.filter = "ranked_list"

[judge]
prompt = "Case: {{ case }} Gold: {{ gold }} Is it {{ candidate }}?"

[source]
name = "items"
format = "records"
path = "items.jsonl"

[source.task]
prompt = "{{ case }}"
answer = "{{ ([diagnosis] + aliases) | join('\n') }}"
"#;

fn records() -> String {
    let record = |case: &str, diagnosis: &str, aliases: Value| {
        json!({"case": case, "diagnosis": diagnosis, "aliases": aliases, "notes": "unread"})
            .to_string()
    };
    [
        record("nodes", "Sarcoidosis", json!(["Boeck's disease"])),
        record("fever", "Malaria", json!([])),
        record("rash", "Measles", json!(["Rubeola"])),
        record("cough", "Tuberculosis", json!([])),
    ]
    .join("\n")
}

/// A task with lines of it changed.
fn task(edits: &[(&str, &str)]) -> TempDir {
    let mut text = TASK.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    folder(&text, &records())
}

fn opening(edits: &[(&str, &str)]) -> String {
    let folder = task(edits);
    let error = open(&folder).expect_err("an error");
    shown(&error).replace(&format!("{}/", folder.path().display()), "")
}

/// Right by name at once; right by the judge; wrong by all; no list.
fn base(prompt: &str) -> String {
    match prompt {
        "nodes" => "1. The sarcoidosis\n2. Lymphoma",
        "fever" => "1. Influenza\n2. Swamp fever\n3. Typhoid",
        "rash" => "1. Scarlet fever\n2. Rubella\n3. Roseola\n4. Measles",
        _ => "It is hard to say.",
    }
    .to_owned()
}

/// As [`base`], with other names and another order.
fn tuned(prompt: &str) -> String {
    match prompt {
        "nodes" => "1. Lymphoma\n2. Boecks disease",
        "fever" => "1. Swamp fever\n2. Typhoid",
        "rash" => "1. Roseola\n2. Morbilli",
        _ => "1. Consumption\n2. Tuberculosis",
    }
    .to_owned()
}

/// Knows that swamp fever, morbilli and consumption are old names.
fn knows(question: &str) -> &'static str {
    let old = ["Swamp fever", "Morbilli", "Consumption"];
    match old.iter().any(|name| question.contains(name)) {
        true => "Yes.",
        false => "No, it is another disease.",
    }
}

type Write = fn(&str) -> String;

fn report(task: &Task, items: &[Item], models: &[(&str, Write)]) -> Report {
    let mut report = Report::new(SETTINGS.bootstrap);
    for (label, write) in models {
        let mut model = Scripted {
            write: *write,
            ..Scripted::default()
        };
        let result = run_task(task, items, &mut model, &SETTINGS, &mut |_| {});
        report.add_task(label, result.unwrap());
    }
    report
}

const BOTH: &[(&str, Write)] = &[("base", base), ("tuned", tuned)];

fn by() -> JudgedBy {
    JudgedBy {
        endpoint: "gpt".into(),
        model: "gpt-4".into(),
    }
}

fn judge_with(
    report: &mut Report,
    task: &Task,
    section: EndpointSection,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let endpoint = Endpoint::new(section, None, TemplateKind::Chat, 7, &NEVER);
    let mut endpoint = endpoint.unwrap().sleeping(|_| {});
    let mut judge = Judge {
        model: &mut endpoint,
        by: by(),
    };
    report.judge(task, &mut judge, session, &mut |_| {})
}

fn section(server: &Server) -> EndpointSection {
    EndpointSection {
        timeout_secs: 1,
        max_retries: 3,
        concurrency: 1,
        ..EndpointSection::new("gpt", &server.url, "gpt-4")
    }
}

/// Both models' answers, judged by a server that answers by this script.
fn judged(
    folder: &TempDir,
    script: impl Fn(&Asked) -> Does + Send + Sync + 'static,
) -> (ReportFile, Server) {
    let (task, items) = open(folder).unwrap();
    let server = Server::new(script);
    let mut report = report(&task, &items, BOTH);
    judge_with(&mut report, &task, section(&server), &mut Session::unkept()).unwrap();
    (report.file(false), server)
}

#[test]
fn every_candidate_before_the_first_right_one_is_judged_once() {
    let (file, server) = judged(&task(&[]), |asked| chat(knows(asked.question())));
    let asked: Vec<String> = server
        .asked()
        .iter()
        .map(|asked| asked.question().to_owned())
        .collect();
    // One rank after the other, by item and candidate, whoever wrote it. What matches a name, what
    // stands behind it or behind a right one, and what was asked before is not asked: the base's
    // second candidate for the fever was the tuned model's first.
    insta::assert_snapshot!(asked.join("\n").replace("Boeck's disease", "B."), @"
    Case: nodes Gold: Sarcoidosis
    B. Is it Lymphoma?
    Case: fever Gold: Malaria Is it Influenza?
    Case: fever Gold: Malaria Is it Swamp fever?
    Case: rash Gold: Measles
    Rubeola Is it Roseola?
    Case: rash Gold: Measles
    Rubeola Is it Scarlet fever?
    Case: cough Gold: Tuberculosis Is it Consumption?
    Case: rash Gold: Measles
    Rubeola Is it Morbilli?
    Case: rash Gold: Measles
    Rubeola Is it Rubella?
    ");
    insta::assert_snapshot!(file.table(), @"
                    base    tuned                 change
    cases (4 items, generate, zero-shot)
      top_1         0.250   0.000 [0.000, 0.000]  -0.250 [-0.750, +0.000]
      top_3         0.250   0.500 [0.000, 1.000]  +0.250 [+0.000, +0.750]
      judged_top_1  0.250   0.500 [0.000, 1.000]  +0.250 [-0.750, +1.000]
      judged_top_3  0.500   1.000 [1.000, 1.000]  +0.500 [+0.000, +1.000]
      no answer     25.0 %  0.0 %
      judge failed  0.0 %   0.0 %
      judged by gpt-4 (gpt)
    ");
    let verdicts = |model: usize| -> Vec<Vec<Verdict>> {
        let items = file.models[model].tasks[0].items.iter();
        let of_item = |judged: &Vec<eval::Judged>| judged.iter().map(|j| j.verdict).collect();
        items.map(|item| of_item(&item.judged)).collect()
    };
    use Verdict::{Match, Right, Wrong};
    assert_eq!(
        verdicts(0),
        [
            vec![Match],
            vec![Wrong, Right],
            vec![Wrong, Wrong, Wrong],
            vec![]
        ]
    );
    assert_eq!(
        verdicts(1),
        [
            vec![Wrong, Match],
            vec![Right],
            vec![Wrong, Right],
            vec![Right]
        ]
    );
    let metrics = &file.metrics;
    assert_eq!(metrics["base.cases.judged_top_1"], 0.25);
    assert_eq!(metrics["base.cases.judged_top_3"], 0.5);
    assert_eq!(metrics["tuned.cases.judged_top_1"], 0.5);
    assert_eq!(metrics["tuned.cases.judged_top_3"], 1.0);
    assert_eq!(metrics["tuned.cases.judge_failed"], 0.0);
    let judge = file.models[0].tasks[0].judge.as_ref().unwrap();
    assert_eq!((judge.verdicts, judge.by.clone()), (5, Some(by())));
    assert_eq!(judge.prompt_sha256.len(), 64);
    // A file read back has it all.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("report.json");
    std::fs::write(&path, file.text()).unwrap();
    assert_eq!(ReportFile::read(&path).unwrap(), file);
    assert!(file.markdown().contains("cases: judged by gpt-4 (gpt)"));
}

#[test]
fn the_judge_is_shown_neither_who_wrote_a_candidate_nor_at_which_rank() {
    let bodies = |models: &'static [(&str, Write)]| {
        let folder = task(&[]);
        let (task, items) = open(&folder).unwrap();
        let server = Server::new(|asked| chat(knows(asked.question())));
        let mut report = report(&task, &items, models);
        judge_with(&mut report, &task, section(&server), &mut Session::unkept()).unwrap();
        let bodies: Vec<Value> = server.asked().into_iter().map(|asked| asked.body).collect();
        bodies
    };
    const SWAPPED: &[(&str, Write)] = &[("tuned", base), ("another", tuned)];
    const TURNED: &[(&str, Write)] = &[("a", tuned), ("b", base)];
    let first = bodies(BOTH);
    assert_eq!(first, bodies(SWAPPED));
    assert_eq!(first, bodies(TURNED));
    insta::assert_snapshot!(first[1].to_string(), @r#"{"model":"gpt-4","messages":[{"role":"user","content":"Case: fever Gold: Malaria Is it Influenza?"}],"max_tokens":16,"temperature":0.0}"#);
}

#[test]
fn matches_are_asked_about_where_the_task_says_so() {
    let all = task(&[("[judge]", "[judge]\nmatches = true")]);
    let (file, server) = judged(&all, |asked| {
        let name = asked.question().contains("sarcoidosis?");
        chat(if name { "yes" } else { "no" })
    });
    assert!(server.counts().keys().any(|q| q.contains("Boecks disease")));
    assert_eq!(file.metrics["base.cases.judged_top_1"], 0.25);
    assert_eq!(file.metrics["tuned.cases.judged_top_3"], 0.0);
}

#[test]
fn verdicts_are_read_as_the_task_says() {
    let labels = task(&[(
        "[judge]",
        "[judge]\nsystem = \"Mark {{ case }}.\"\nverdicts = [\"same\", \"other\", \"broader\"]\nfilter = \"labels\"\npattern = 'VERDICT: (.*)'\nmax_new_tokens = 99",
    )]);
    let (file, server) = judged(&labels, |asked| {
        let question = asked.question();
        chat(match question {
            q if q.contains("Swamp") => "other? VERDICT: Same.\nSo be it.",
            q if q.contains("Influenza") => "VERDICT: broader",
            q if q.contains("Lymphoma") => "VERDICT: same or other",
            q if q.contains("Consumption") => "same",
            _ => "VERDICT: other",
        })
    });
    let body = &server.asked()[1].body;
    assert_eq!(body["messages"][0]["content"], "Mark fever.");
    assert_eq!(body["max_tokens"], 99);
    let tasks: Vec<_> = file.models.iter().map(|model| &model.tasks[0]).collect();
    use Verdict::{Right, Unreadable, Wrong};
    let verdicts = |task: usize, item: usize| -> Vec<Verdict> {
        let judged = tasks[task].items[item].judged.iter();
        judged.map(|judged| judged.verdict).collect()
    };
    assert_eq!(verdicts(0, 1), [Wrong, Right]);
    assert_eq!(verdicts(1, 0)[0], Unreadable);
    assert_eq!(verdicts(1, 3)[0], Unreadable);
}

#[test]
fn what_the_judge_does_not_say_is_neither_right_nor_wrong() {
    let (file, _) = judged(&task(&[]), |asked| {
        let question = asked.question();
        match question {
            q if q.contains("Influenza") => chat("I would rather not commit myself."),
            q if q.contains("Scarlet") => Does::Says(
                200,
                "",
                json!({"choices": [{"message": {"refusal": "No."}}]}).to_string(),
            ),
            q if q.contains("Roseola") => refusal(400, "", "content_filter"),
            q => chat(knows(q)),
        }
    });
    insta::assert_snapshot!(file.table(), @"
                    base    tuned                 change
    cases (4 items, generate, zero-shot)
      top_1         0.250   0.000 [0.000, 0.000]  -0.250 [-0.750, +0.000]
      top_3         0.250   0.500 [0.000, 1.000]  +0.250 [+0.000, +0.750]
      judged_top_1  0.500   0.667 [0.000, 1.000]  +0.167 [-1.000, +1.000]
      judged_top_3  0.667   1.000 [1.000, 1.000]  +0.333 [+0.000, +1.000]
      no answer     25.0 %  0.0 %
      judge failed  60.0 %  20.0 %
      judged by gpt-4 (gpt)
    ");
    let base = &file.models[0].tasks[0];
    insta::assert_snapshot!(json!(base.judge).to_string(), @r#"{"prompt_sha256":"7fecafa79d62a2e5915d32eef95f541dcff03ae9376a9fe90b541ac086ffe36f","by":{"endpoint":"gpt","model":"gpt-4"},"verdicts":5,"failures":[{"item":"items/2","rank":1,"prompt_sha256":"68d0a2eb7b49a6f654b43d6ba3dc0f9e42b80d6e6576852a9b7dad40486b36f4","verdict":"unreadable"},{"item":"items/3","rank":1,"prompt_sha256":"fb18d1bbe9dd8956f1d78ab99bb54b6e9b836268110af31b937e4f93f675b6af","verdict":{"unanswered":"refusal"}},{"item":"items/3","rank":3,"prompt_sha256":"511a6a9bc2dafcb210c4e3346c165fb4f94304b7217ea8698d8fed606f47bc6b","verdict":{"unanswered":"content_filter"}}]}"#);
    // Sarcoidosis is right, the cough has no candidates, and of the others the first is unknown.
    let score = base.score("judged_top_1").unwrap();
    assert_eq!(score.value, 0.5);
    assert_eq!(
        score.marks.items.iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 0, 0, 1]
    );
    // The fever's second candidate is right whatever the first is; the rash hangs on two.
    let score = base.score("judged_top_3").unwrap();
    assert_eq!(score.value, 2.0 / 3.0);
    assert!(
        base.items[2]
            .judged
            .iter()
            .all(|j| j.verdict != Verdict::Wrong || j.said.is_some())
    );

    // A judge that says nothing at all leaves no score, and no zero.
    let silent = task(&[("metrics = [\"top_1\"", "metrics = [\"top_3\", \"top_1\"")]);
    let silent_base = |_: &str| "1. Anthrax".to_owned();
    let (task, items) = open(&silent).unwrap();
    let server = Server::new(|_| chat("Hm."));
    let mut report = report(&task, &items, &[("base", silent_base)]);
    judge_with(&mut report, &task, section(&server), &mut Session::unkept()).unwrap();
    let metrics = report.metrics();
    assert_eq!(metrics["base.cases.judge_failed"], 1.0);
    assert!(
        !metrics.contains_key("base.cases.judged_top_1"),
        "{metrics:?}"
    );
}

#[test]
fn without_a_judge_there_is_no_judged_score_and_the_report_says_so() {
    let folder = task(&[]);
    let (task, items) = open(&folder).unwrap();
    let file = report(&task, &items, BOTH).file(false);
    insta::assert_snapshot!(file.table(), @"
                 base    tuned                 change
    cases (4 items, generate, zero-shot)
      top_1      0.250   0.000 [0.000, 0.000]  -0.250 [-0.750, +0.000]
      top_3      0.250   0.500 [0.000, 1.000]  +0.250 [+0.000, +0.750]
      no answer  25.0 %  0.0 %
      not judged: no [eval.judge]
    ");
    let judge = json!(file.models[0].tasks[0].judge);
    assert_eq!(judge["not_judged"], "no [eval.judge]");
    assert!(file.metrics.keys().all(|name| !name.contains("judge")));
    assert!(
        file.markdown()
            .contains("cases: not judged: no \\[eval.judge\\]")
    );
}

#[test]
fn what_a_judge_says_of_closed_cases_stays_out_of_reports() {
    let closed = task(&[("[source.task]", "access = \"credentialed\"\n[source.task]")]);
    let (task, items) = open(&closed).unwrap();
    let server = Server::new(|_| chat("No: the patient had a rash."));
    let mut report = report(&task, &items, BOTH);
    judge_with(&mut report, &task, section(&server), &mut Session::unkept()).unwrap();
    assert!(!report.json(false).to_string().contains("patient"));
    let revealed = report.file(true);
    assert!(revealed.text().contains("patient"));
    assert!(!revealed.without_texts().text().contains("patient"));
}

#[test]
fn faults_are_asked_again() {
    let faulty = |asked: &Asked| match (asked.before, asked.question()) {
        (0, q) if q.contains("Lymphoma") => refusal(429, "retry-after: 0\r\n", "rate_limit"),
        (0, q) if q.contains("Influenza") => refusal(500, "", "internal"),
        (0, q) if q.contains("Roseola") => Does::Sleeps(Duration::from_millis(1300)),
        (0, q) if q.contains("Scarlet") => Does::CutsShort("{\"choices\": [{\"mess".into()),
        (0, q) if q.contains("Morbilli") => Does::HangsUp,
        (_, q) => chat(knows(q)),
    };
    let (file, server) = judged(&task(&[]), faulty);
    let (clean, _) = judged(&task(&[]), |asked| chat(knows(asked.question())));
    assert_eq!(file, clean);
    let counts: Vec<usize> = server.counts().into_values().collect();
    assert_eq!(counts.iter().sum::<usize>(), 8 + 5, "{counts:?}");

    let folder = task(&[]);
    let (task, items) = open(&folder).unwrap();
    let server = Server::new(|_| refusal(401, "", "invalid_api_key"));
    let mut report = report(&task, &items, BOTH);
    let error = judge_with(&mut report, &task, section(&server), &mut Session::unkept());
    insta::assert_snapshot!(shown(&error.unwrap_err()), @"
    task `cases`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 401 (invalid_api_key)
    hint: check the key in the variable that `api_key_env` names, and what it is allowed to use
    ");
}

#[test]
fn an_interrupted_judge_goes_on_and_is_asked_nothing_twice() {
    let folder = task(&[]);
    let (task, items) = open(&folder).unwrap();
    let kept = |report: &mut Report, server: &Server, stop: &AtomicBool| {
        let mut journals = Journals::new(folder.path().join("journal"));
        let mut session = Session {
            journals: Some(&mut journals),
            identity: json!("a judge"),
            stop,
        };
        judge_with(report, &task, section(server), &mut session)
    };
    let answers = |asked: &Asked| chat(knows(asked.question()));
    // The power fails during the fourth question.
    let dying = Server::new(move |asked| match asked.question() {
        q if q.contains("Roseola") => refusal(401, "", "gone"),
        _ => answers(asked),
    });
    let mut cut = report(&task, &items, BOTH);
    kept(&mut cut, &dying, &NEVER).unwrap_err();
    assert_eq!(dying.asked().len(), 4);
    let server = Server::new(answers);
    let stopped = AtomicBool::new(true);
    let error = kept(&mut report(&task, &items, BOTH), &server, &stopped).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }));
    assert!(server.asked().is_empty());
    let mut resumed = report(&task, &items, BOTH);
    kept(&mut resumed, &server, &NEVER).unwrap();
    assert_eq!(server.asked().len(), 5);
    let (whole, _) = judged(&self::task(&[]), move |asked| answers(asked));
    assert_eq!(resumed.file(false), whole);
    // What is kept stands for whoever writes the same, and says nothing of who did.
    let mut other = report(&task, &items, &[("other", tuned)]);
    kept(&mut other, &server, &NEVER).unwrap();
    assert_eq!(server.asked().len(), 5);
    let journal = std::fs::read_dir(folder.path().join("journal")).unwrap();
    let text: String = journal
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(text.lines().count(), 9);
    assert!(!text.contains("base") && !text.contains("tuned"), "{text}");
    stopped.store(false, Ordering::SeqCst);
}

#[test]
fn another_judge_gives_another_score_and_no_change() {
    let (first, _) = judged(&task(&[]), |asked| chat(knows(asked.question())));
    let mut second = first.clone();
    second.models.remove(0);
    second.models[0].label = "tuned".into();
    let compare = |second: &ReportFile| {
        let run = |name: &str, file: &ReportFile| eval::report::RunReport {
            name: name.into(),
            file: file.clone(),
        };
        let file = eval::report::compare_runs(&[run("one", &first), run("two", second)]).unwrap();
        let scores = file.models[1].tasks[0].scores.iter();
        let changes: BTreeMap<String, bool> = scores
            .map(|score| (score.metric.clone(), score.change.is_some()))
            .collect();
        changes
    };
    assert!(compare(&second).values().all(|changed| *changed));
    let judge = second.models[0].tasks[0].judge.as_mut().unwrap();
    judge.by.as_mut().unwrap().model = "gpt-5".into();
    let changes = compare(&second);
    assert_eq!(
        (changes["top_1"], changes["judged_top_1"]),
        (true, false),
        "{changes:?}"
    );
}

#[test]
fn judges_that_will_not_do() {
    insta::assert_snapshot!(opening(&[("{{ candidate }}", "it")]), @"
    task `cases`: `judge.prompt` does not use `candidate`: the judge would not see what it judges
    hint: write {{ candidate }} where it belongs
    ");
    insta::assert_snapshot!(opening(&[("{{ candidate }}", "{{ candidate")]), @"
    task `cases`
    caused by: template judge.prompt, line 1: syntax error: unexpected character
    ");
    insta::assert_snapshot!(opening(&[("{{ case }} Gold", "{{ caes }} Gold")]), @"
    task `cases`
    caused by: sample items/1 (items.jsonl, record 1): template judge.prompt, line 1: undefined value: `caes` is undefined
    caused by: template judge.prompt, line 1: undefined value: `caes` is undefined
    hint: the record's fields are case, diagnosis, aliases, notes, gold, candidate
    ");
    let metrics = "metrics = [\"top_1\", \"top_3\", \"judged_top_1\", \"judged_top_3\"]";
    insta::assert_snapshot!(opening(&[(metrics, "metrics = [\"top_1\"]")]), @r#"
    task `cases`: it has a [judge], and `metrics` names none of its verdicts
    hint: name them, as in `metrics = [.., "judged_top_1"]`
    "#);
    insta::assert_snapshot!(opening(&[(metrics, "metrics = [\"judged_top_1\", \"top_1\"]")]), @"
    task `cases`: the first metric is `judged_top_1`, which there is only where somebody judges
    hint: put a metric before it that needs no judge, such as `top_1`
    ");
    let prompt = "[judge]\nprompt = \"Case: {{ case }} Gold: {{ gold }} Is it {{ candidate }}?\"\n";
    insta::assert_snapshot!(opening(&[(prompt, "")]), @"
    task `cases`: the metric `judged_top_1` is a judge's, and the task has no [judge]
    hint: write the question to the judge as `prompt` in a [judge] table, or leave the metric out
    ");
    let with = |line: &str| opening(&[("[judge]", &format!("[judge]\n{line}"))]);
    insta::assert_snapshot!(with("verdicts = [\"yes\"]"), @r#"
    task `cases`: `judge.verdicts`: a choice needs two options or more, found 1
    hint: write the one for right first, as in `verdicts = ["yes", "no"]`
    "#);
    insta::assert_snapshot!(with("filter = \"strip\""), @"
    task `cases`: `judge.filter` is `strip`, which finds no verdict
    hint: take one that looks for the verdicts: `label`, `labels` or `letter`
    ");
    insta::assert_snapshot!(with("max_new_tokens = 0"), @"
    task `cases`: `judge.max_new_tokens` is 0
    hint: leave it out for the default, or write how many
    ");
    insta::assert_snapshot!(with("pattern = '('"), @r#"
    task `cases`: `judge.pattern` is no regular expression: unclosed group
    hint: write it in single quotes, as in `pattern = 'answer: (\w+)'`; look-around and back-references are not known
    "#);
    insta::assert_snapshot!(with("model = \"gpt-4\""), @"
    the recipe has a problem
    task.toml:9:1: unknown key `model` in [judge]
      hint: known keys: `system`, `verdicts`, `max_new_tokens`, `pattern`, `filter`, `matches`
    ");
    let folder = task(&[]);
    let (task, mut items) = open(&folder).unwrap();
    for item in &mut items {
        item.case = None;
    }
    let mut report = report(&task, &items, BOTH);
    let server = Server::new(|_| chat("yes"));
    let error = judge_with(&mut report, &task, section(&server), &mut Session::unkept());
    insta::assert_snapshot!(shown(&error.unwrap_err()), @"
    task `cases`, item `items/1`: it has no case to judge
    hint: take the items that the task makes of its records
    ");
}

#[test]
fn answers_by_log_likelihood_are_not_judged() {
    insta::assert_snapshot!(opening(&[
        ("[\"generate\"]", "[\"log-likelihood\"]\noptions.fixed = [\"Malaria\", \"Measles\"]"),
    ]), @r#"
    task `cases`: the metric `judged_top_1` marks generated answers, and the task is answered by log-likelihood
    hint: write `answering = ["generate"]`
    "#);
}
