use std::error::Error as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use datasets::Tokenizer;
use datasets::recipe::TemplateKind;
use eval::{
    Endpoint, EndpointSection, Error, GenerateRequest, LanguageModel, Prompt, Report, ScoreRequest,
    Settings, Task, TaskResult, Unanswered, run_task,
};
use ledger::AccessClass;
use serde_json::{Value, json};

use crate::scripted::{SETTINGS, folder, open, questions, yes_no};
use crate::server::{Asked, Does, Server, chat, refusal};

static NEVER: AtomicBool = AtomicBool::new(false);

const GENERATE: &str = "answering = [\"generate\"]\nmetrics = [\"accuracy\"]";
const BY_LIKELIHOOD: &str = "answering = [\"log-likelihood\"]\nmetrics = [\"accuracy\"]";

fn section(server: &Server) -> EndpointSection {
    EndpointSection {
        timeout_secs: 1,
        max_retries: 3,
        ..EndpointSection::new("gpt", &server.url, "gpt-4")
    }
}

/// An endpoint that does not sleep.
fn endpoint(section: EndpointSection) -> Endpoint<'static> {
    let endpoint = Endpoint::new(section, None, TemplateKind::Chat, 7, &NEVER);
    endpoint.expect("an endpoint").sleeping(|_| {})
}

/// Knows the answers of [`questions`].
fn knows(asked: &Asked) -> Does {
    let right = asked.question().contains("yes");
    chat(if right { "Yes, it is." } else { "No." })
}

fn ask(lines: &str, model: &mut dyn LanguageModel) -> Result<TaskResult, Error> {
    let (task, items) = open(&folder(&yes_no(lines), &questions()))?;
    run_task(&task, &items, model, &SETTINGS, &mut |_| {})
}

/// The message, its causes, and the hint.
pub fn shown(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\ncaused by: {error}"));
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

#[test]
fn answers_come_in_the_order_of_the_items() {
    let server = Server::new(|asked| {
        // The first ones take longest.
        let late = asked.question().contains("Question 0") || asked.question().contains("n 1:");
        thread::sleep(Duration::from_millis(if late { 120 } else { 5 }));
        knows(asked)
    });
    let mut model = endpoint(EndpointSection {
        concurrency: 3,
        ..section(&server)
    });
    let result = ask(GENERATE, &mut model).unwrap();
    assert_eq!(result.scores[0].value, 1.0);
    assert_eq!((result.unextracted, result.unanswered), (Some(0), 0));
    assert_eq!(result.model, "gpt");
    assert_eq!(server.asked().len(), 12);
    assert!(
        (2..=3).contains(&server.most_open()),
        "{}",
        server.most_open()
    );
    let usage = model.usage();
    assert_eq!((usage.requests, usage.retries), (12, 0));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (84, 24));
    assert!(usage.models.contains("scripted-2024-06-13"));
}

#[test]
fn the_request_is_the_chat_completions_apis() {
    let server = Server::new(knows);
    let mut model = endpoint(EndpointSection {
        max_new_tokens: Some(5),
        extra: serde_json::from_value(json!({"seed": 3, "temperature": 0.5})).unwrap(),
        ..section(&server)
    });
    let lines = format!("{GENERATE}\ngenerate.stop = [\"\\n\", \"is\"]");
    let result = ask(&lines, &mut model).unwrap();
    // Cut here too, whatever the server does about it.
    assert_eq!(result.items[0].answer, "Yes, it ");
    let asked = server.asked();
    let first = asked
        .iter()
        .find(|asked| asked.question() == "Question 0: yes?")
        .unwrap();
    assert_eq!(first.path, "/v1/chat/completions");
    assert!(!first.headers.contains_key("authorization"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&first.body).unwrap(), @r#"
    {
      "model": "gpt-4",
      "messages": [
        {
          "role": "system",
          "content": "Answer the question."
        },
        {
          "role": "user",
          "content": "Question 0: yes?"
        }
      ],
      "max_tokens": 5,
      "temperature": 0.5,
      "stop": [
        "\n",
        "is"
      ],
      "seed": 3
    }
    "#);
    // A text is a user's message, and the new name of the limit takes the place of the old.
    let server = Server::new(knows);
    let mut model = endpoint(EndpointSection {
        extra: serde_json::from_value(json!({"max_completion_tokens": 99})).unwrap(),
        ..section(&server)
    });
    ask(&format!("{GENERATE}\nchat_template = false"), &mut model).unwrap();
    let body = &server.asked()[0].body;
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(
        (body.get("max_tokens"), &body["max_completion_tokens"]),
        (None, &json!(99))
    );
}

/// Every fault once, on another item each, and then the answer.
fn faulty(asked: &Asked) -> Does {
    if asked.before > 0 {
        return knows(asked);
    }
    let (_, number) = asked.question().split_once(' ').unwrap();
    match number.split(':').next().unwrap() {
        "0" => refusal(429, "retry-after: 17\r\n", "rate_limit_exceeded"),
        "1" => refusal(500, "", "internal"),
        "2" => Does::Says(502, "", "<html>Bad gateway</html>".into()),
        "3" => refusal(503, "", "overloaded"),
        "4" => Does::Sleeps(Duration::from_millis(1500)),
        "5" => Does::CutsShort("{\"choices\": [{\"mess".into()),
        "6" => Does::Says(200, "", "{\"choices\": [{\"mess".into()),
        "7" => Does::Says(200, "", json!({"choices": []}).to_string()),
        "8" => Does::HangsUp,
        "9" => Does::Says(
            200,
            "",
            json!({"choices": [{"message": {"content": null}}]}).to_string(),
        ),
        _ => knows(asked),
    }
}

#[test]
fn what_fails_once_is_asked_again_and_nothing_else_is() {
    let server = Server::new(faulty);
    let naps = Arc::new(Mutex::new(Duration::ZERO));
    let slept = Arc::clone(&naps);
    let mut model = endpoint(section(&server)).sleeping(move |nap| *naps.lock().unwrap() += nap);
    let result = ask(GENERATE, &mut model).unwrap();
    assert_eq!(result.scores[0].value, 1.0);
    let counts: Vec<usize> = server.counts().into_values().collect();
    // In the order of the texts: 0, 10, 11, 1, 2, ..
    assert_eq!(
        counts,
        [2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        "{:?}",
        server.counts()
    );
    assert_eq!(model.usage().retries, 10);
    // Nine waits of up to half a second, and the one that was asked for.
    let slept = slept.lock().unwrap().as_secs_f64();
    assert!(
        (17.0 + 9.0 * 0.25..=17.0 + 9.0 * 0.5).contains(&slept),
        "{slept}"
    );
    // The same answers as without any fault.
    let clean = Server::new(knows);
    let clean = ask(GENERATE, &mut endpoint(section(&clean))).unwrap();
    assert_eq!(result.items, clean.items);
}

#[test]
fn what_keeps_failing_is_given_up_by_name() {
    let give_up = |does: fn() -> Does| {
        let server = Server::new(move |_| does());
        let mut model = endpoint(EndpointSection {
            concurrency: 1,
            max_retries: 2,
            ..section(&server)
        });
        let error = ask(GENERATE, &mut model).unwrap_err();
        assert_eq!(server.asked().len(), 3);
        shown(&error)
    };
    insta::assert_snapshot!(give_up(|| refusal(429, "retry-after: 0\r\n", "rate_limit_exceeded")), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 3 attempts; the last: HTTP 429 (rate_limit_exceeded)
    hint: the server allows fewer requests: lower `concurrency`, or raise `max_retries`; the same command goes on from the answers so far
    ");
    insta::assert_snapshot!(give_up(|| Does::Says(503, "", String::new())), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 3 attempts; the last: HTTP 503
    hint: the server is overloaded or broken: try again later; the same command goes on from the answers so far
    ");
    insta::assert_snapshot!(give_up(|| Does::Sleeps(Duration::from_millis(1300))), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 3 attempts; the last: no answer within 1 s
    hint: raise `timeout_secs`, or lower `concurrency`; the same command goes on from the answers so far
    ");
    insta::assert_snapshot!(give_up(|| Does::CutsShort("{".into())), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 3 attempts; the last: the answer is cut short or no JSON
    hint: check that `url` is an OpenAI-compatible API; the same command goes on from the answers so far
    ");
    insta::assert_snapshot!(give_up(|| Does::Says(200, "", "{}".into())), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 3 attempts; the last: the answer has no choice with a text
    hint: check that `url` is an OpenAI-compatible API; the same command goes on from the answers so far
    ");

    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut model = endpoint(EndpointSection {
        concurrency: 1,
        max_retries: 1,
        ..EndpointSection::new("gpt", &format!("http://{nobody}/v1"), "gpt-4")
    });
    insta::assert_snapshot!(shown(&ask(GENERATE, &mut model).unwrap_err()), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave no answer in 2 attempts; the last: connection refused
    hint: check that the server runs, and its `url`; the same command goes on from the answers so far
    ");
}

#[test]
fn what_fails_for_good_is_asked_once() {
    let refused = |status: u16, code: &'static str| {
        let server = Server::new(move |_| refusal(status, "location: http://elsewhere/\r\n", code));
        let mut model = endpoint(EndpointSection {
            concurrency: 1,
            ..section(&server)
        });
        let error = ask(GENERATE, &mut model).unwrap_err();
        assert_eq!(server.asked().len(), 1);
        shown(&error)
    };
    insta::assert_snapshot!(refused(400, "unknown_parameter"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 400 (unknown_parameter)
    hint: the server does not take this request: check `model`, `max_new_tokens` and `extra`; newer models of OpenAI want extra = { max_completion_tokens = 512, temperature = 1 }
    ");
    insta::assert_snapshot!(refused(400, "context_length_exceeded"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 400 (context_length_exceeded)
    hint: the prompt is longer than the model reads; ask a task with shorter prompts
    ");
    insta::assert_snapshot!(refused(401, "invalid_api_key"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 401 (invalid_api_key)
    hint: check the key in the variable that `api_key_env` names, and what it is allowed to use
    ");
    insta::assert_snapshot!(refused(403, "not a code: Question 3"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 403 (error)
    hint: check the key in the variable that `api_key_env` names, and what it is allowed to use
    ");
    insta::assert_snapshot!(refused(404, "model_not_found"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 404 (model_not_found)
    hint: check `url` (it ends with the version, as in /v1) and `model`
    ");
    insta::assert_snapshot!(refused(307, ""), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 307 (error)
    hint: the server sends elsewhere, and is not followed: give the final `url`
    ");
    insta::assert_snapshot!(refused(413, ""), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 413 (error)
    hint: the prompt is larger than the server takes
    ");
    insta::assert_snapshot!(refused(429, "insufficient_quota"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 429 (insufficient_quota)
    hint: the account has no credit left; the same command goes on from the answers so far
    ");
    insta::assert_snapshot!(refused(418, "teapot"), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` refused with HTTP 418 (teapot)
    hint: the server's own log says more
    ");
}

#[test]
fn what_will_not_be_answered_is_counted_beside_the_score() {
    let server = Server::new(|asked| {
        let with = |finish: &str, message: Value| {
            let answer = json!({"choices": [{"finish_reason": finish, "message": message}]});
            Does::Says(200, "", answer.to_string())
        };
        match asked.question() {
            q if q.contains("n 1:") => {
                with("stop", json!({"content": null, "refusal": "I cannot."}))
            }
            q if q.contains("n 2:") => with("content_filter", json!({"content": "yes"})),
            q if q.contains("n 3:") => refusal(400, "", "content_filter"),
            q if q.contains("n 4:") => with("length", json!({"content": ""})),
            q if q.contains("n 7:") => chat("Who knows."),
            _ => knows(asked),
        }
    });
    let result = ask(GENERATE, &mut endpoint(section(&server))).unwrap();
    assert_eq!(server.asked().len(), 12);
    assert_eq!((result.unanswered, result.unextracted), (4, Some(1)));
    assert!((result.scores[0].value - 7.0 / 12.0).abs() < 1e-12);
    let why: Vec<_> = result
        .items
        .iter()
        .filter_map(|item| item.unanswered)
        .collect();
    assert_eq!(
        why,
        [
            Unanswered::Refusal,
            Unanswered::ContentFilter,
            Unanswered::ContentFilter,
            Unanswered::Length
        ]
    );
    let mut report = Report::new(SETTINGS.bootstrap);
    report.add_task("gpt", result);
    insta::assert_snapshot!(report.table(), @"
                  gpt
    questions (12 items, generate, zero-shot)
      accuracy    0.583 [0.250, 0.833]
      no answer   8.3 %
      unanswered  33.3 %
    ");
    let json = report.json(false);
    let task = &json["models"][0]["tasks"][0];
    assert_eq!(task["unanswered"], 4);
    assert_eq!(task["items"][1]["unanswered"], "refusal");
    assert_eq!(task["items"][0].get("unanswered"), None);
    assert!(
        (json["metrics"]["gpt.questions.unanswered"]
            .as_f64()
            .unwrap()
            - 1.0 / 3.0)
            .abs()
            < 1e-12
    );
}

/// Takes PATH for the key: it is in every environment, and what is in it is as good a secret as any.
fn with_key(section: EndpointSection) -> EndpointSection {
    EndpointSection {
        api_key_env: Some("PATH".into()),
        ..section
    }
}

#[test]
fn a_key_is_sent_and_never_shown() {
    let key = std::env::var("PATH").unwrap();
    let said = key.clone();
    let server = Server::new(move |asked| {
        assert_eq!(asked.headers["authorization"], format!("Bearer {said}"));
        let error = json!({"error": {"message": format!("{said} is wrong"), "code": said, "type": &said[..8]}});
        Does::Says(401, "", error.to_string())
    });
    let mut model = endpoint(with_key(section(&server)));
    let error = ask(GENERATE, &mut model).unwrap_err();
    let texts = [
        shown(&error),
        format!("{error:?}"),
        model.identity().unwrap().to_string(),
    ];
    for text in texts {
        assert!(!text.contains(&key) && !text.contains(&key[..8]), "{text}");
    }
    assert!(shown(&error).contains("HTTP 401\n"), "{}", shown(&error));

    let wrong = |variable: &str| {
        let section = EndpointSection {
            api_key_env: Some(variable.into()),
            ..section(&server)
        };
        let error = Endpoint::new(section, None, TemplateKind::Chat, 7, &NEVER).err();
        shown(&error.unwrap().into())
    };
    insta::assert_snapshot!(wrong("MEDTUNE_NO_SUCH_KEY"), @"
    the endpoint `gpt` takes its key from MEDTUNE_NO_SUCH_KEY, which is not set
    hint: set it for this command: MEDTUNE_NO_SUCH_KEY=... medtune eval ...
    ");
}

#[test]
fn a_stop_ends_the_asking() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let server = Server::new(|asked| {
        if asked.question().contains("n 5:") {
            STOP.store(true, Ordering::SeqCst);
        }
        knows(asked)
    });
    let section = EndpointSection {
        concurrency: 1,
        ..section(&server)
    };
    let mut model = Endpoint::new(section, None, TemplateKind::Chat, 7, &STOP).unwrap();
    let request = |i: usize| GenerateRequest {
        id: i.to_string(),
        prompt: Prompt::Text(format!("Question {i}: yes?")),
        max_new_tokens: 4,
        stop: Vec::new(),
    };
    let requests: Vec<_> = (0..9).map(request).collect();
    let error = model.generate(&requests).unwrap_err();
    assert_eq!(error.to_string(), "it was told to stop");
    assert_eq!(server.asked().len(), 6);
}

/// The quickstart's tokenizer, which has a chat template.
fn tokenizer() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../recipes/quickstart/base"
    ))
}

/// Log-probabilities that follow from the token ids.
fn echo(asked: &Asked) -> Does {
    let prompts = asked.body["prompt"].as_array().unwrap();
    let choice = |(index, ids): (usize, &Value)| {
        let ids: Vec<u64> = serde_json::from_value(ids.clone()).unwrap();
        let mut log_probs: Vec<Value> = ids.iter().map(|id| json!(-(*id as f64) / 512.0)).collect();
        log_probs[0] = Value::Null;
        log_probs.push(json!(-99.0));
        // The first choice where the id is even.
        let best = |(id, log_prob): (&u64, &Value)| match (id % 2, log_prob.as_f64()) {
            (0, Some(own)) => json!({"own": own}),
            (_, Some(own)) => json!({"own": own, "other": own + 0.5}),
            _ => Value::Null,
        };
        let top: Vec<Value> = ids.iter().zip(&log_probs).map(best).collect();
        json!({"index": index, "text": "", "logprobs": {"token_logprobs": log_probs, "top_logprobs": top}})
    };
    let mut choices: Vec<Value> = prompts.iter().enumerate().map(choice).collect();
    choices.reverse();
    Does::Says(200, "", json!({"choices": choices}).to_string())
}

fn scoring(server: &Server) -> Endpoint<'static> {
    let section = EndpointSection {
        tokenizer: Some("base".into()),
        ..section(server)
    };
    let endpoint = Endpoint::new(section, Some(tokenizer()), TemplateKind::Chat, 7, &NEVER);
    endpoint.unwrap().sleeping(|_| {})
}

#[test]
fn options_are_scored_by_what_the_server_says_of_their_tokens() {
    let server = Server::new(echo);
    let options = [" yes", " certainly not", " maybe"]
        .map(String::from)
        .to_vec();
    let request = ScoreRequest {
        id: "a/1".into(),
        prompt: Prompt::Text("Does it help?".into()),
        options: options.clone(),
    };
    let scores = scoring(&server).score(&[request]).unwrap();
    let tokenizer = Tokenizer::from_folder(tokenizer()).unwrap();
    let prompt = tokenizer.encode("Does it help?", true).unwrap();
    for (option, score) in options.iter().zip(&scores[0]) {
        let ids = tokenizer
            .encode_after(prompt.last().copied(), option)
            .unwrap();
        let sum: f64 = ids.iter().map(|id| -f64::from(*id) / 512.0).sum();
        assert_eq!(
            (score.log_prob, score.tokens, score.bytes),
            (sum, ids.len(), option.len())
        );
        assert_eq!(score.greedy, ids.iter().all(|id| id % 2 == 0));
    }
    // All options of an item go in one request, as token ids.
    let asked = server.asked();
    assert_eq!(
        (asked.len(), asked[0].path.as_str()),
        (1, "/v1/completions")
    );
    let sent = asked[0].body["prompt"][1].as_array().unwrap();
    assert_eq!(sent.len(), prompt.len() + scores[0][1].tokens);
    assert_eq!(
        (&asked[0].body["echo"], &asked[0].body["max_tokens"]),
        (&json!(true), &json!(1))
    );

    // A chat is written with the model's own template.
    let result = ask(BY_LIKELIHOOD, &mut scoring(&server)).unwrap();
    assert_eq!(result.items.len(), 12);
    assert_eq!(server.asked().len(), 13);
}

#[test]
fn a_server_without_prompt_log_probabilities_is_refused() {
    let with = |logprobs: Value| {
        let server = Server::new(move |asked: &Asked| {
            let prompts = asked.body["prompt"].as_array().unwrap();
            let choice = |index| json!({"index": index, "text": "x", "logprobs": logprobs});
            let choices: Vec<Value> = (0..prompts.len()).map(choice).collect();
            Does::Says(200, "", json!({"choices": choices}).to_string())
        });
        shown(&ask(BY_LIKELIHOOD, &mut scoring(&server)).unwrap_err())
    };
    insta::assert_snapshot!(with(Value::Null), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` answered without the log-probabilities of the prompt
    hint: the server must offer `echo` and `logprobs` of the completions API, as vLLM does; without them, leave `tokenizer` out and ask tasks that are answered by generation
    ");
    insta::assert_snapshot!(with(json!({"token_logprobs": [-0.5]})), @"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt` gave log-probabilities of 1 tokens, 25 were sent
    hint: `tokenizer` must be the folder of the model that the server has loaded
    ");

    let task = |lines: &str, access: AccessClass| {
        let task = yes_no(lines).replace(
            "[source.task]",
            &format!("access = \"{access}\"\n[source.task]"),
        );
        let folder = folder(&task, &questions());
        Task::load(&folder.path().join("task.toml"), &[])
            .unwrap()
            .remove(0)
    };
    let check = |section: &EndpointSection, task: &Task, generative: Option<&str>| {
        shown(
            &section
                .check(task, generative.map(String::from))
                .unwrap_err()
                .into(),
        )
    };
    let gpt = EndpointSection::new("gpt", "https://api.openai.com/v1", "gpt-4");
    let open_task = task(BY_LIKELIHOOD, AccessClass::Open);
    insta::assert_snapshot!(check(&gpt, &open_task, Some("questions-generate")), @"
    task `questions` is answered by log-likelihood, and the endpoint `gpt` gives no log-probabilities of prompts
    hint: ask `questions-generate` instead; the endpoint's `tasks` says which tasks it is asked. A server such as vLLM does give them: name the model's `tokenizer` there
    ");
    insta::assert_snapshot!(check(&gpt, &open_task, None), @r#"
    task `questions` is answered by log-likelihood, and the endpoint `gpt` gives no log-probabilities of prompts
    hint: ask a variant of `questions` with answering = ["generate"]; the endpoint's `tasks` says which tasks it is asked. A server such as vLLM does give them: name the model's `tokenizer` there
    "#);
    let closed = task(GENERATE, AccessClass::Credentialed);
    insta::assert_snapshot!(check(&gpt, &closed, None), @r#"
    task `questions` is credentialed, and the endpoint `gpt` at api.openai.com is not on this machine
    hint: if its terms let you send these texts there, name them in the endpoint's table: agreement = "..."; the run records it. Or ask a server on this machine
    "#);
    assert!(gpt.check(&task(GENERATE, AccessClass::Open), None).is_ok());
    let agreed = EndpointSection {
        agreement: Some("DUA 17".into()),
        ..gpt.clone()
    };
    assert!(agreed.check(&closed, None).is_ok());

    let samples = [];
    let error = endpoint(gpt).perplexity(&samples).unwrap_err();
    assert_eq!(error.to_string(), "the endpoint `gpt` gives no perplexity");
}

#[test]
fn tokenizers_that_will_not_do() {
    let server = Server::new(echo);
    let with = |folder: &Path| {
        let section = EndpointSection {
            tokenizer: Some("base".into()),
            ..section(&server)
        };
        Endpoint::new(section, Some(folder), TemplateKind::Chat, 7, &NEVER)
    };
    let error = with(Path::new("no/such/folder")).err().unwrap();
    insta::assert_snapshot!(shown(&error.into()), @"
    the endpoint `gpt`: its tokenizer
    caused by: no/such/folder has neither tokenizer.json nor tokenizer.model
    hint: copy the tokenizer's files from the model's publisher into the folder
    ");

    let bare = tempfile::tempdir().unwrap();
    let name = "tokenizer.json";
    std::fs::copy(tokenizer().join(name), bare.path().join(name)).unwrap();
    let config = json!({"eos_token": "</s>"}).to_string();
    std::fs::write(bare.path().join("tokenizer_config.json"), config).unwrap();
    let mut model = with(bare.path()).unwrap();
    insta::assert_snapshot!(shown(&ask(BY_LIKELIHOOD, &mut model).unwrap_err()), @r#"
    task `questions`: `gpt` gave no answer
    caused by: item `items/1`: the endpoint `gpt`: its tokenizer has no chat template, and a chat is asked
    hint: name the folder of the chat model itself, or set eval.template = "me-llama"
    "#);
}

#[test]
fn a_limit_and_a_seed_move_no_answer() {
    let server = Server::new(knows);
    let (task, items) = open(&folder(&yes_no(GENERATE), &questions())).unwrap();
    let settings = Settings {
        items: Some(5),
        ..SETTINGS
    };
    let ask = |seed| {
        let model = Endpoint::new(section(&server), None, TemplateKind::Chat, seed, &NEVER);
        let result = run_task(&task, &items, &mut model.unwrap(), &settings, &mut |_| {});
        result.unwrap().items
    };
    assert_eq!(ask(1), ask(2));
    assert_eq!(server.asked().len(), 10);
}
